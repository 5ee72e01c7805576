//! Who gives way to whom.

use std::time::Duration;

use waza_robot::{Pace, Reply, TimeHold};
use waza_runtime::{HostOptions, Outcome, Refusal, Running, SkillError, TaskRequest};

use crate::fixture::{ALL, Bench};

fn start(bench: &Bench, instruction: &str, priority: u8) -> Running {
    bench.start_with(TaskRequest { instruction: instruction.into(), priority, ..TaskRequest::default() })
}

fn ended(running: Running) -> Result<Outcome, SkillError> {
    futures_executor::block_on(running).value
}

/// Lets robot time, which stands still by `from`, go on to a tick. It stands still there while what is returned lives.
fn stand_at(bench: &Bench, from: TimeHold, tick: u64) -> TimeHold {
    let reached = bench.robot.reach(tick);
    drop(from);
    let Reply { hold, .. } = futures_executor::block_on(reached);
    hold
}

/// Starts a run and lets it go on to a tick.
fn start_until(bench: &Bench, instruction: &str, priority: u8, tick: u64) -> (Running, TimeHold) {
    let hold = bench.robot.hold_time();
    let running = start(bench, instruction, priority);
    (running, stand_at(bench, hold, tick))
}

fn refusal(ended: Result<Outcome, SkillError>) -> Refusal {
    match ended.unwrap_err() {
        SkillError::Returned { refusal, .. } => refusal,
        error => panic!("{error}"),
    }
}

#[test]
fn one_of_higher_priority_has_the_joints_at_the_holders_next_safe_point() {
    let bench = Bench::new();
    let (holder, hold) = start_until(&bench, "keep moving", 1, 20);
    let early = start(&bench, "acquire: arm", 2);
    drop(hold);
    let Refusal::Unavailable(why) = refusal(ended(early)) else { panic!() };
    assert_eq!(why, "test/conduct moves these joints and gives them up soon; ask again");
    let Refusal::Preempted(why) = refusal(ended(holder)) else { panic!() };
    assert_eq!(why, "test/conduct has priority");
    // The move under way went to its end.
    assert!((bench.newest(0, 1)[0].abs() - 0.3).abs() < 1e-3, "{:?}", bench.newest(0, 1));
    assert_eq!(ended(start(&bench, "acquire: arm", 2)).map(drop), Ok(()));
}

#[test]
fn joints_that_one_of_higher_priority_waits_for_are_kept_from_others() {
    let bench = Bench::new();
    let (holder, hold) = start_until(&bench, "keep moving", 1, 20);
    // It asks again twice a second.
    let patient = start(&bench, "acquire patiently: arm", 2);
    drop(hold);
    let preempted = futures_executor::block_on(holder);
    let other = start(&bench, "acquire: arm", 0);
    drop(preempted.hold);
    assert_eq!(
        refusal(ended(other)),
        Refusal::Unavailable("test/conduct has priority and waits for these joints".into())
    );
    assert_eq!(ended(patient).map(drop), Ok(()));
    assert_eq!(ended(start(&bench, "acquire: arm", 0)).map(drop), Ok(()));
}

#[test]
fn a_holder_that_does_not_move_gives_way_at_once() {
    let bench = Bench::new();
    let (holder, hold) = start_until(&bench, "hold the arm", 1, 20);
    let urgent = start(&bench, "acquire: arm", 2);
    drop(hold);
    assert_eq!(ended(urgent).map(drop), Ok(()));
    assert!(ended(holder).is_ok());
}

#[test]
fn one_that_moves_without_end_gives_way_after_a_while() {
    let bench = Bench::new();
    let (holder, mut hold) = start_until(&bench, "roll out: 60", 0, 20);
    for (next, expected) in [(120, false), (260, false), (261, true)] {
        let urgent = start(&bench, "acquire: arm", 2);
        let reached = bench.robot.reach(next);
        drop(hold);
        assert_eq!(ended(urgent).is_ok(), expected, "before tick {next}");
        hold = futures_executor::block_on(reached).hold;
    }
    drop(hold);
    assert!(matches!(refusal(ended(holder)), Refusal::Preempted(_)));
    bench.assert_the_arm_holds();
}

#[test]
fn the_lease_of_a_holder_that_says_nothing_expires() {
    let options = HostOptions { lease_term: Duration::from_millis(300), ..HostOptions::default() };
    let bench = Bench::with(Pace::Lockstep, options, ALL);
    let (holder, mut hold) = start_until(&bench, "hold the arm", 0, 20);
    for (next, expected) in [(50, false), (51, true)] {
        let other = start(&bench, "acquire: arm", 0);
        let reached = bench.robot.reach(next);
        drop(hold);
        assert_eq!(ended(other).is_ok(), expected, "before tick {next}");
        hold = futures_executor::block_on(reached).hold;
    }
    drop(hold);
    assert!(ended(holder).is_ok());
}

#[test]
fn a_holder_that_moves_or_waits_for_another_skill_keeps_its_lease() {
    let options = HostOptions { lease_term: Duration::from_millis(100), ..HostOptions::default() };
    let bench = Bench::with(Pace::Lockstep, options, ALL);
    assert_eq!(bench.data("move: 1.0"), "0");
    assert_eq!(bench.data("invoke while holding the arm: 0.2, 0.4"), "0, then 0");
}
