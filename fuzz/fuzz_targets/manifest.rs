//! A package's manifest.

#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use waza_fuzz::{begin_with, repository};
use waza_package::fuzzing;

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let of = |skill: &str| std::fs::read(repository().join("skills").join(skill).join("skill.toml")).unwrap();
    let limits = b"[[limits.joints]]\nname = \"shoulder_pan\"\nvelocity = 0.5\n";
    let narrowed = [of("touch"), limits.to_vec()].concat();
    begin_with(&[of("touch"), of("pick-place"), narrowed], data, size, max_size, seed)
});

fuzz_target!(|file: &[u8]| fuzzing::manifest(file));
