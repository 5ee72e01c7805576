//! The quarantine, as a host left it on the disk.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use waza_fuzz::begin_with;
use waza_state::fuzzing;

static REAL: LazyLock<Vec<u8>> = LazyLock::new(fuzzing::a_quarantine);

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    begin_with(&[&*REAL], data, size, max_size, seed)
});

fuzz_target!(|file: &[u8]| fuzzing::quarantine(file));
