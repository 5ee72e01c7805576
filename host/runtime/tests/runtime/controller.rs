//! Components of the world `controller`.

use waza_runtime::controller::Input;
use waza_runtime::{Budget, Controller, Refusal, RuntimeError, SkillError};

use crate::fixture::{Bench, REST};

fn controller(bench: &Bench) -> Controller {
    bench.host.controller(&bench.package("follower", &[])).unwrap()
}

fn input(pan: f32, goal: f32) -> Input {
    let at = |pan| {
        let mut positions = REST.to_vec();
        positions[0] = pan;
        positions
    };
    let still = vec![0.0; 6];
    Input {
        at: 0,
        positions: at(pan),
        velocities: still.clone(),
        efforts: still,
        samples: vec![0.0; 6],
        goal: at(goal),
    }
}

#[test]
fn a_controller_steps_towards_its_goal_and_hands_its_state_to_the_next() {
    let bench = Bench::new();
    let mut first = controller(&bench);
    first.start("", None).unwrap();
    let mut pan = 0.0;
    for _ in 0..5 {
        pan = first.tick(&input(pan, 0.03)).unwrap()[0];
    }
    assert!((pan - 0.03).abs() < 1e-6);
    let state = first.state().unwrap();
    let mut next = controller(&bench);
    next.start("", Some(&state)).unwrap();
    next.tick(&input(pan, 0.03)).unwrap();
    assert_eq!(next.state().unwrap(), 6u64.to_le_bytes());
}

#[test]
fn a_controller_that_takes_too_long_is_interrupted_and_stays_so() {
    let mut spinning = controller(&Bench::new());
    spinning.start("spin", None).unwrap();
    let SkillError::Exhausted { budget, .. } = spinning.tick(&input(0.0, 0.1)).unwrap_err() else { panic!() };
    assert_eq!((budget.budget, budget.limit.as_str()), (Budget::Tick, "5ms"));
    assert!(matches!(spinning.tick(&input(0.0, 0.1)).unwrap_err(), SkillError::Trapped { .. }));
}

#[test]
fn what_a_controller_answers_is_checked_before_it_is_believed() {
    for (conduct, expected) in [("short", "1 positions for 6 joints"), ("nan", "NaN")] {
        let mut bad = controller(&Bench::new());
        bad.start(conduct, None).unwrap();
        let error = bad.tick(&input(0.0, 0.1)).unwrap_err();
        let SkillError::Returned { refusal: Refusal::Invalid(why), .. } = &error else { panic!("{error}") };
        assert!(why.contains(expected), "{why}");
    }
}

#[test]
fn a_controller_that_panics_or_refuses_says_so() {
    let mut bad = controller(&Bench::new());
    assert!(bad.start("refuse", None).unwrap_err().to_string().contains("it does not want to"));
    let mut bad = controller(&Bench::new());
    bad.start("panic", None).unwrap();
    assert!(matches!(bad.tick(&input(0.0, 0.1)).unwrap_err(), SkillError::Trapped { .. }));
}

#[test]
fn a_component_of_the_other_world_is_refused() {
    let bench = Bench::new();
    let error = bench.load("follower", &[]).unwrap_err();
    assert!(matches!(&error, RuntimeError::Misfit { .. }) && error.to_string().contains("`controller`"), "{error}");
    let skill = bench.package("probe", &[]);
    assert!(bench.host.controller(&skill).err().unwrap().to_string().contains("`skill`"));
}
