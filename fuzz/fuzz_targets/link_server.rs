//! What a client of a served robot link says.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use waza_fuzz::{begin_with, message};
use waza_robot::Embodiment;
use waza_robot::bridge::fuzzing::commands;

static ROBOT: LazyLock<Embodiment> = LazyLock::new(Embodiment::so101);

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let hello = |role| message(1, &[b"WAZA\x03\0".as_slice(), &[role]].concat());
    let host = [hello(0), message(4, &[]), message(6, &[0; 32]), message(7, &[])].concat();
    let cameras = [hello(1), message(9, &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0])].concat();
    let observer = [hello(2), message(11, &[])].concat();
    begin_with(&[&host, &cameras, &observer], data, size, max_size, seed)
});

fuzz_target!(|bytes: &[u8]| {
    for positions in commands(bytes, &ROBOT) {
        // Whatever numbers these are: what is none is the filter's to hold.
        assert_eq!(positions.len(), ROBOT.joints.len());
    }
});
