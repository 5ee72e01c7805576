//! Versions that take the place of one that works.

use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use waza_robot::{Pace, Reply, TimeHold};
use waza_runtime::{Budgets, Event, HostOptions, Refusal, Running, SkillError, SwapOptions, TaskRequest};

use crate::fixture::{ALL, Bench};
use crate::packages::{manifest, relay};

const PERMISSIONS: &[&str] = &["sensing", "model", "motion:body", "durable"];

fn options() -> HostOptions {
    let swap = SwapOptions {
        patience: Duration::from_millis(500),
        first_call: Duration::from_millis(500),
        probation: Duration::from_secs(1),
    };
    let budgets = Budgets { cpu_burst: Duration::from_millis(100), ..Budgets::default() };
    HostOptions { swap, budgets, ..HostOptions::default() }
}

/// A bench with version 0.1.0 of `relay`.
fn bench(pace: Pace, options: HostOptions, conduct: &str) -> Bench {
    let bench = Bench::with(pace, options, ALL);
    load(&bench, "0.1.0", conduct);
    bench
}

/// Loads a version that behaves like that.
fn load(bench: &Bench, version: &str, conduct: &str) {
    let manifest = manifest("relay", PERMISSIONS).replace("version = \"0.1.0\"", &format!("version = \"{version}\""));
    bench.host.load(&bench.package_of("relay", &manifest, &relay(conduct))).unwrap();
}

/// Lets robot time, which stands still by `from`, go on to a tick, and loads a version while it stands still there.
fn load_at(bench: &Bench, from: TimeHold, tick: u64, version: &str, conduct: &str) -> TimeHold {
    let reached = bench.robot.reach(tick);
    drop(from);
    let Reply { hold, .. } = futures_executor::block_on(reached);
    load(bench, version, conduct);
    hold
}

fn start(bench: &Bench, instruction: &str, steps: u8) -> Running {
    start_from(bench, instruction, steps, None)
}

fn start_from(bench: &Bench, instruction: &str, steps: u8, resume: Option<Vec<u8>>) -> Running {
    let (instruction, parameters) = (instruction.into(), steps.to_string());
    let request = TaskRequest { instruction, parameters, resume, ..TaskRequest::default() };
    let events = bench.events.clone();
    bench.host.run("test/relay", request, move |event| events.lock().unwrap().push(event))
}

/// Runs `steps` steps, and loads version 0.2.0 in the middle of the second.
fn swap(bench: &Bench, instruction: &str, steps: u8, conduct: &str) -> Result<String, SkillError> {
    swap_at(15, bench, instruction, steps, conduct)
}

/// As [`swap`], after so many ticks.
fn swap_at(ticks: u64, bench: &Bench, instruction: &str, steps: u8, conduct: &str) -> Result<String, SkillError> {
    let hold = bench.robot.hold_time();
    let running = start(bench, instruction, steps);
    drop(load_at(bench, hold, bench.robot.tick() + ticks, "0.2.0", conduct));
    futures_executor::block_on(running).value.map(|outcome| outcome.data)
}

/// What was told about versions, in words.
fn story(bench: &Bench) -> Vec<String> {
    let events = bench.events.lock().unwrap();
    let told = |event: &Event| match event {
        Event::SwapOffered { version, .. } => Some(format!("{version} offered")),
        Event::Swapped { from, to, .. } => Some(format!("{from} to {to}")),
        Event::SwapSettled { version, .. } => Some(format!("{version} settled")),
        Event::RolledBack { from, to, why, .. } => Some(format!("{from} back to {to}: {why}")),
        _ => None,
    };
    events.iter().filter_map(told).collect()
}

fn loaded(bench: &Bench) -> String {
    let skills = bench.host.skills();
    skills.into_iter().find(|skill| skill.id.as_str() == "test/relay").unwrap().version.to_string()
}

#[test]
fn a_new_version_goes_on_where_the_old_one_left_a_checkpoint() {
    for (pace, most) in [(Pace::Lockstep, 2), (Pace::RealTime, 9)] {
        let bench = bench(pace, options(), "steady");
        let data = swap(&bench, "count", 20, "newer").unwrap();
        // In real time loading takes robot time.
        assert!((2..=most).any(|step| data == format!("newer from {step} to 20")), "{data}");
        assert_eq!(story(&bench), ["0.2.0 offered", "0.1.0 to 0.2.0", "0.2.0 settled"]);
        assert_eq!(loaded(&bench), "0.2.0");
    }
}

#[test]
fn the_arm_does_not_stand_when_versions_change_in_a_motion() {
    let bench = bench(Pace::Lockstep, options(), "steady");
    assert_eq!(swap(&bench, "roll out", 30, "newer").unwrap(), "newer from 2 to 30");
    let pans = bench.newest(0, usize::MAX);
    let moving: Vec<_> = pans.windows(2).map(|pair| pair[1] - pair[0]).skip(40).take(220).collect();
    assert!(moving.iter().all(|step| *step > 0.0), "the arm stood: {moving:?}");
    bench.assert_the_arm_holds();
}

#[test]
fn a_version_that_refuses_the_state_leaves_the_old_one_at_work() {
    let bench = bench(Pace::Lockstep, options(), "steady");
    assert_eq!(swap(&bench, "roll out", 20, "refuse").unwrap(), "steady from 0 to 20");
    let story = story(&bench);
    assert!(story[1].contains("0.2.0 back to 0.1.0: it refused the state: invalid: a state of 2"), "{story:?}");
    assert_eq!(story.len(), 2, "{story:?}");
    assert_eq!(loaded(&bench), "0.2.0", "no fault of the version's: the next run may have it");
}

#[test]
fn a_version_that_traps_at_once_is_withdrawn_and_the_old_one_goes_on() {
    let bench = bench(Pace::Lockstep, options(), "steady");
    assert_eq!(swap(&bench, "roll out", 20, "panic").unwrap(), "steady from 0 to 20");
    assert!(story(&bench)[1].contains("crashed"), "{:?}", story(&bench));
    assert_eq!(loaded(&bench), "0.1.0");
}

#[test]
fn a_version_that_traps_on_probation_gives_way_to_the_old_one_from_its_checkpoint() {
    let bench = bench(Pace::Lockstep, options(), "steady");
    assert_eq!(swap(&bench, "roll out", 20, "panic later").unwrap(), "steady from 2 to 20");
    let story = story(&bench);
    assert_eq!(story[1], "0.1.0 to 0.2.0");
    assert!(story[2].contains("0.2.0 back to 0.1.0") && story[2].contains("on purpose, later"), "{story:?}");
    assert_eq!(loaded(&bench), "0.1.0");
    bench.assert_the_arm_holds();
}

#[test]
fn a_version_that_never_calls_the_host_is_withdrawn() {
    let bench = bench(Pace::RealTime, options(), "steady");
    assert_eq!(swap(&bench, "count", 20, "spin").unwrap(), "steady from 0 to 20");
    assert!(story(&bench)[1].contains("0.2.0 back to 0.1.0"), "{:?}", story(&bench));
    assert_eq!(loaded(&bench), "0.1.0");
}

#[test]
fn a_version_that_neither_moves_nor_leaves_checkpoints_takes_over_by_working() {
    let bench = bench(Pace::Lockstep, options(), "steady");
    assert_eq!(swap(&bench, "count", 20, "wait").unwrap(), "wait from 2 to 2");
    assert_eq!(story(&bench), ["0.2.0 offered", "0.1.0 to 0.2.0", "0.2.0 settled"]);
}

#[test]
fn a_version_that_draws_interventions_where_the_old_one_drew_none_gives_way_to_it() {
    let bench = bench(Pace::Lockstep, options(), "steady");
    assert_eq!(swap_at(2005, &bench, "move", 220, "jump").unwrap(), "steady from 201 to 220");
    let story = story(&bench);
    assert!(story[2].contains("interventions too often"), "{story:?}");
    assert_eq!(loaded(&bench), "0.1.0");
}

#[test]
fn a_play_that_outlasts_the_probation_is_waited_for_and_judged() {
    let swap_options = SwapOptions { probation: Duration::from_millis(50), ..options().swap };
    let bench = bench(Pace::Lockstep, HostOptions { swap: swap_options, ..options() }, "steady");
    assert_eq!(swap_at(2005, &bench, "move", 220, "jump").unwrap(), "steady from 201 to 220");
    assert!(story(&bench)[2].contains("interventions too often"), "{:?}", story(&bench));
    assert_eq!(loaded(&bench), "0.1.0");
}

#[test]
fn a_version_keeps_its_place_where_the_old_one_was_hardly_watched() {
    let bench = bench(Pace::Lockstep, options(), "steady");
    assert_eq!(swap(&bench, "move", 20, "jump").unwrap(), "jump from 2 to 20");
    assert_eq!(story(&bench), ["0.2.0 offered", "0.1.0 to 0.2.0", "0.2.0 settled"]);
}

#[test]
fn a_version_keeps_its_place_if_the_old_one_drew_as_many_interventions() {
    let swap_options = SwapOptions { probation: Duration::from_secs(10), ..options().swap };
    let bench = bench(Pace::Lockstep, HostOptions { swap: swap_options, ..options() }, "jump");
    let hold = bench.robot.hold_time();
    // One that goes on from a state jumps.
    let running = start_from(&bench, "move", 30, Some(vec![0; 4]));
    drop(load_at(&bench, hold, bench.robot.tick() + 2000, "0.2.0", "jump\t"));
    futures_executor::block_on(running).value.unwrap();
    assert_eq!(story(&bench), ["0.2.0 offered", "0.1.0 to 0.2.0", "0.2.0 settled"]);
    let drawn = bench.events.lock().unwrap().iter().filter(|it| matches!(it, Event::Intervention(_))).count();
    assert!(drawn > 30, "{drawn}");
}

#[test]
fn an_error_that_the_new_version_ends_with_is_the_runs() {
    let bench = bench(Pace::Lockstep, options(), "steady");
    let error = swap(&bench, "move", 20, "fail later").unwrap_err();
    assert!(matches!(&error, SkillError::Returned { refusal: Refusal::Failed(_), .. }), "{error}");
}

#[test]
fn a_run_that_never_left_a_checkpoint_keeps_its_version() {
    let bench = bench(Pace::Lockstep, options(), "never");
    assert_eq!(swap(&bench, "roll out", 20, "newer").unwrap(), "never from 0 to 20");
    assert_eq!(story(&bench), ["0.2.0 offered"]);
    assert_eq!(loaded(&bench), "0.2.0");
}

#[test]
fn the_newest_of_several_versions_is_the_one_that_takes_over() {
    let bench = bench(Pace::Lockstep, options(), "steady");
    let hold = bench.robot.hold_time();
    let running = start(&bench, "count", 30);
    let hold = load_at(&bench, hold, bench.robot.tick() + 12, "0.2.0", "newer");
    load(&bench, "0.3.0", "newest");
    drop(hold);
    let outcome = futures_executor::block_on(running).value.unwrap();
    assert_eq!(outcome.data, "newest from 2 to 30");
    assert_eq!(story(&bench)[2..], ["0.1.0 to 0.3.0", "0.3.0 settled"]);
}

#[test]
fn a_version_that_is_replaced_before_the_next_checkpoint_was_never_there() {
    let bench = bench(Pace::Lockstep, options(), "steady");
    let hold = bench.robot.hold_time();
    let running = start(&bench, "count", 20);
    let hold = load_at(&bench, hold, bench.robot.tick() + 12, "0.2.0", "newer");
    load(&bench, "0.1.0", "steady");
    drop(hold);
    let outcome = futures_executor::block_on(running).value.unwrap();
    assert_eq!(outcome.data, "steady from 0 to 20");
    assert!(story(&bench).iter().all(|told| told == "0.2.0 offered"), "{:?}", story(&bench));
    assert_eq!(loaded(&bench), "0.1.0");
    assert_eq!(bench.host.instances(), 0);
}

#[test]
fn a_version_that_is_unloaded_before_the_next_checkpoint_was_never_there() {
    let bench = bench(Pace::Lockstep, options(), "steady");
    let hold = bench.robot.hold_time();
    let running = start(&bench, "count", 20);
    let hold = load_at(&bench, hold, bench.robot.tick() + 12, "0.2.0", "newer");
    assert!(bench.host.unload(&"test/relay".to_owned().try_into().unwrap()));
    drop(hold);
    assert_eq!(futures_executor::block_on(running).value.unwrap().data, "steady from 0 to 20");
}

#[test]
fn a_version_that_failed_in_one_run_does_not_begin_in_another_to_which_it_was_offered_as_well() {
    let bench = bench(Pace::Lockstep, options(), "steady");
    let hold = bench.robot.hold_time();
    let first = start(&bench, "count", 20);
    // It comes to its checkpoints five ticks after the first.
    let reached = bench.robot.reach(bench.robot.tick() + 5);
    drop(hold);
    let Reply { hold, .. } = futures_executor::block_on(reached);
    let second = start(&bench, "count", 20);
    drop(load_at(&bench, hold, bench.robot.tick() + 3, "0.2.0", "panic"));
    for running in [first, second] {
        assert_eq!(futures_executor::block_on(running).value.unwrap().data, "steady from 0 to 20");
    }
    let back = story(&bench).iter().filter(|told| told.contains("back to")).count();
    assert_eq!(back, 1, "the quarantined version began again: {:?}", story(&bench));
    assert_eq!(bench.host.quarantined().len(), 1);
}

#[test]
fn a_version_that_is_quarantined_before_the_next_checkpoint_does_not_begin() {
    let bench = bench(Pace::Lockstep, options(), "steady");
    let hold = bench.robot.hold_time();
    let running = start(&bench, "count", 20);
    let hold = load_at(&bench, hold, bench.robot.tick() + 12, "0.2.0", "newer");
    assert!(bench.host.quarantine(&"test/relay".to_owned().try_into().unwrap(), "the operator has seen enough"));
    drop(hold);
    assert_eq!(futures_executor::block_on(running).value.unwrap().data, "steady from 0 to 20");
    assert!(story(&bench).iter().all(|told| told == "0.2.0 offered"), "{:?}", story(&bench));
    assert_eq!(bench.host.instances(), 0);
}

#[test]
fn versions_that_are_offered_to_runs_that_end_at_any_time_leave_no_instance() {
    let state = tempfile::tempdir().unwrap();
    let bench = bench(Pace::RealTime, HostOptions { state: Some(state.path().into()), ..options() }, "steady");
    let versions = [("0.1.0", "steady"), ("0.2.0", "newer")];
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut runs = Vec::new();
    for round in 0..1000 {
        runs.push(start(&bench, "count", 1 + (random.next_u32() % 3) as u8));
        let (version, conduct) = versions[round % 2];
        load(&bench, version, conduct);
        while runs.len() > (random.next_u32() % 6) as usize {
            // Dropping a run ends it wherever it stands.
            drop(runs.swap_remove(random.next_u32() as usize % runs.len()));
        }
    }
    for running in runs {
        let _ = futures_executor::block_on(running).value;
    }
    // Some that are offered a version and end before they come to a checkpoint.
    let ended: Vec<_> = (0..4).map(|_| start(&bench, "count", 200)).collect();
    let version = if loaded(&bench) == "0.1.0" { 1 } else { 0 };
    load(&bench, versions[version].0, versions[version].1);
    drop(ended);
    // Runs that nobody waits for end in their own time.
    let patience = Instant::now() + Duration::from_secs(20);
    while (!bench.host.runs().is_empty() || bench.host.instances() > 0) && Instant::now() < patience {
        std::thread::yield_now();
    }
    assert_eq!(bench.host.instances(), 0);
    assert_eq!(bench.host.quarantined(), [], "a run that ends is no fault of what it was offered");
}

#[test]
fn a_hundred_versions_one_after_the_other_lose_no_step() {
    let swap = SwapOptions { probation: Duration::from_millis(50), ..options().swap };
    let bench = bench(Pace::Lockstep, HostOptions { swap, ..options() }, "steady");
    let mut hold = bench.robot.hold_time();
    let running = start(&bench, "roll out", 250);
    let begun = bench.robot.tick();
    for number in 0..100 {
        hold = load_at(&bench, hold, begun + 15 + 20 * number, &format!("0.2.{number}"), &format!("v{number}"));
    }
    drop(hold);
    let outcome = futures_executor::block_on(running).value.unwrap();
    assert!(outcome.data.starts_with("v99 from ") && outcome.data.ends_with(" to 250"), "{}", outcome.data);
    let swapped = story(&bench).iter().filter(|told| told.contains(" to ")).count();
    assert_eq!(swapped, 100, "{:?}", story(&bench));
}
