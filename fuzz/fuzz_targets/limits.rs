//! Limits of a site. Whatever they say, the bundled robot may do no more than before.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use waza_fuzz::{Scratch, begin_with, is_within, sweep};
use waza_robot::{Embodiment, Tightening};

static FILE: LazyLock<Scratch> = LazyLock::new(|| Scratch::new("site.toml"));
static ROBOT: LazyLock<Embodiment> = LazyLock::new(Embodiment::so101);

const REAL: &[u8] = b"command_age_s = 1.0\ndiscontinuity_rad = 0.1\n\
    [[joints]]\nname = \"shoulder_pan\"\nposition = [-1.0, 9.0]\nvelocity = 0.5\nacceleration = 1\njerk = 9e3\neffort = 1\n\
    [workspace]\nmin = [0.0, 0.0, 0.1]\nmax = [0.2, 0.2, 0.2]\n\
    [[forbidden]]\nmin = [0.2, 0.2, 0.0]\nmax = [0.4, 0.4, 0.3]\n\
    [[force_limits]]\nsensor = \"wrist_wrench\"\nnewtons = 3\n";

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    begin_with(&[REAL], data, size, max_size, seed)
});

fuzz_target!(|text: &[u8]| {
    let Ok(limits) = Tightening::open(&FILE.holding(text)) else { return };
    let written = toml::to_string(&limits).unwrap();
    let again: Tightening = toml::from_str(&written).unwrap();
    assert_eq!(toml::to_string(&again).unwrap(), written);
    if let Ok(within) = ROBOT.tightened(&limits, "site.toml") {
        is_within(&within, &ROBOT);
        sweep(&within);
    }
});
