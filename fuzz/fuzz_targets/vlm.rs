//! Each file of a vision-language model in turn.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use waza_fuzz::{Folder, begin_with};
use waza_model::VlmCheckpoint;
use waza_model::plan::TextNetwork;

static MODEL: LazyLock<Folder> = LazyLock::new(|| {
    let fuzzed = ["config.json", "generation_config.json", "tokenizer.json"];
    Folder::of("host/model/tests/fixtures/smolvlm", &fuzzed)
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    begin_with(MODEL.originals(), data, size, max_size, seed)
});

fuzz_target!(|bytes: &[u8]| {
    MODEL.with(bytes, |folder| {
        let Ok(model) = VlmCheckpoint::open(folder) else { return };
        let architecture = model.architecture().clone();
        let (tokenizer, vocabulary) = (model.tokenizer(), architecture.text.vocabulary);
        for said in ["is the bowl empty?", "<image><end_of_utterance> \u{0}\u{1f916}"] {
            let Ok(prompt) = tokenizer.prompt(said, 1) else { continue };
            assert!(prompt.len() < architecture.context);
            assert!(prompt.iter().all(|token| (*token as usize) < vocabulary), "{prompt:?} of {vocabulary}");
            let images = prompt.iter().filter(|token| **token == tokenizer.image_token()).count();
            assert_eq!(images, architecture.vision.tokens(), "nobody but the host shows images");
        }
        let network = TextNetwork::new(architecture);
        network.encode(1).unwrap();
        network.prompt(5).unwrap();
        network.decode(7).unwrap();
    });
});
