//! Each file of a policy's checkpoint in turn.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use waza_fuzz::{Folder, begin_with};
use waza_model::Checkpoint;
use waza_model::plan::{Network, Shape};

static CHECKPOINT: LazyLock<Folder> = LazyLock::new(|| {
    Folder::of(
        "host/model/checkpoints/tabletop",
        &[
            "config.json",
            "policy_postprocessor.json",
            "policy_postprocessor_step_0_unnormalizer_processor.safetensors",
            "policy_preprocessor.json",
            "policy_preprocessor_step_5_normalizer_processor.safetensors",
            "vlm/config.json",
            "vlm/tokenizer.json",
            "waza.json",
        ],
    )
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    begin_with(CHECKPOINT.originals(), data, size, max_size, seed)
});

fuzz_target!(|bytes: &[u8]| {
    CHECKPOINT.with(bytes, |folder| {
        let Ok(checkpoint) = Checkpoint::open_without_weights(folder) else { return };
        for said in ["touch the red block", "\u{0}<image> \u{1f916}"] {
            let vocabulary = checkpoint.architecture().text.vocabulary;
            let tokens = waza_model::fuzzing::tokens(&checkpoint, said).unwrap_or_default();
            assert!(tokens.iter().all(|token| (*token as usize) < vocabulary), "{tokens:?} of {vocabulary}");
        }
        let architecture = checkpoint.architecture().clone();
        // Its time embeddings are made when it is planned.
        if architecture.flow.steps * architecture.expert.width < 1 << 16 {
            let frames = architecture.video.map_or(1, |video| video.frames);
            let network = Network::new(architecture);
            let shape = Shape { requests: 2, cameras: 1, empty_cameras: 0, language_tokens: 3 };
            network.encode(1, frames).unwrap();
            network.prefix(shape).unwrap();
            network.denoise(shape).unwrap();
        }
    });
});
