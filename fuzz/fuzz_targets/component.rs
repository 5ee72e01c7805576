//! A component, as it is looked at before it is compiled.

#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use waza_fuzz::begin_with;
use waza_package::fuzzing;

/// The beginning of a component, and one with a module and two instances of it inside.
const REAL: [&[u8]; 2] =
    [b"\0asm\x0d\0\x01\0", b"\0asm\x0d\0\x01\0\x01\x0d\0asm\x01\0\0\0\x05\x03\x01\0\x01\x02\x07\x02\0\0\0\0\0\0"];

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    begin_with(&REAL, data, size, max_size, seed)
});

fuzz_target!(|file: &[u8]| fuzzing::component(file));
