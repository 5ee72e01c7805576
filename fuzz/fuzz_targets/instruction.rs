//! What people and skills say to a model, with each kind of tokenizer.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use waza_fuzz::repository;
use waza_model::{Checkpoint, VlmCheckpoint};

static POLICIES: LazyLock<[Checkpoint; 2]> = LazyLock::new(|| {
    ["checkpoints/tabletop", "tests/fixtures/smolvla-a/checkpoint"]
        .map(|folder| Checkpoint::open(&repository().join("host/model").join(folder)).unwrap())
});

static VLM: LazyLock<VlmCheckpoint> =
    LazyLock::new(|| VlmCheckpoint::open(&repository().join("host/model/tests/fixtures/smolvlm")).unwrap());

fuzz_target!(|said: &str| {
    for policy in POLICIES.iter() {
        let Ok(tokens) = waza_model::fuzzing::tokens(policy, said) else { continue };
        let vocabulary = policy.architecture().text.vocabulary;
        assert!(!tokens.is_empty() && tokens.iter().all(|token| (*token as usize) < vocabulary), "{tokens:?}");
    }
    let Ok(prompt) = VLM.tokenizer().prompt(said, 1) else { return };
    let images = prompt.iter().filter(|token| **token == VLM.tokenizer().image_token()).count();
    assert_eq!(images, VLM.architecture().vision.tokens(), "nobody but the host shows images");
    let mut stream = VLM.tokenizer().stream();
    let mut told: String = prompt.iter().map(|token| stream.push(*token)).collect();
    told += &stream.finish();
    assert_eq!(told, VLM.tokenizer().decode(&prompt));
});
