//! The header of a safetensors file.

#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use waza_fuzz::begin_with;

const REAL: &[u8] =
    include_bytes!("../../host/model/checkpoints/tabletop/policy_preprocessor_step_5_normalizer_processor.safetensors");

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    begin_with(&[REAL], data, size, max_size, seed)
});

fuzz_target!(|file: &[u8]| {
    let Ok(mut places) = waza_model::fuzzing::places(file) else { return };
    places.sort_by_key(|bytes| (bytes.start, bytes.end));
    let total: usize = places.iter().map(|bytes| file[bytes.clone()].len()).sum();
    assert!(total + 8 <= file.len());
    assert!(places.windows(2).all(|pair| pair[0].end <= pair[1].start), "tensors share bytes");
});
