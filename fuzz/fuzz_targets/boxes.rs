//! Where a model says that things are.

#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use waza_fuzz::begin_with;
use waza_model::{Answer, boxes};

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    begin_with(&[b"10, 20, 30, 40\n(90% 50% 20% 10%)"], data, size, max_size, seed)
});

fuzz_target!(|text: &str| {
    for found in boxes(&Answer { text: text.into(), confidence: 0.5, tokens: 1, ended: true }) {
        let fits = |from: f32, length: f32| (0.0..=1.0).contains(&from) && length > 0.0 && length <= 1.0 - from;
        assert!(fits(found.x, found.width) && fits(found.y, found.height), "{found:?}");
    }
});
