//! Components of the world `controller`.

use std::time::Duration;

use waza_robot::Pace;
use waza_runtime::Input;
use waza_runtime::{Budget, Controller, ControllerChange, Event, HostOptions, Refusal, SkillError, TaskRequest};

use crate::fixture::{ALL, Bench, REST};
use crate::packages::{component, manifest};

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
fn a_skill_is_no_controller_for_a_caller_that_drives_it() {
    let bench = Bench::new();
    let skill = bench.package("probe", &[]);
    assert!(bench.host.controller(&skill).err().unwrap().to_string().contains("`skill`"));
}

/// Loads the follower as of a version.
pub fn install(bench: &Bench, version: &str) {
    let manifest = manifest("follower", &[]).replace("0.1.0\"\nwit", &format!("{version}\"\nwit"));
    bench.host.load(&bench.package_of("follower", &manifest, &component("follower"))).unwrap();
}

/// What became of controllers in the runs of `conduct`.
pub fn changes(bench: &Bench) -> Vec<ControllerChange> {
    let events = bench.events.lock().unwrap();
    let change = |event: &Event| match event {
        Event::Controller { change, .. } => Some(change.clone()),
        _ => None,
    };
    events.iter().filter_map(change).collect()
}

fn version(text: &str) -> semver::Version {
    text.parse().unwrap()
}

/// Whether no tick's command keeps less than the robot's limits.
fn assert_within_limits(bench: &Bench) {
    let commands = bench.commands.lock().unwrap();
    for (index, joint) in bench.robot.embodiment().joints.iter().enumerate() {
        let steps: Vec<f32> = commands.windows(2).map(|pair| (pair[1][index] - pair[0][index]) * 100.0).collect();
        assert!(steps.iter().all(|step| step.abs() <= joint.velocity * 1.001));
        assert!(steps.windows(2).all(|pair| (pair[1] - pair[0]).abs() * 100.0 <= joint.acceleration * 1.02));
    }
}

#[test]
fn an_engaged_controller_drives_the_leases_joints_until_the_next_motion() {
    let bench = Bench::new();
    install(&bench, "0.1.0");
    let skill = |id: &str| bench.host.skills().iter().any(|it| it.id.as_str() == id);
    assert!(!skill("test/follower") && bench.host.controllers()[0].id.as_str() == "test/follower");
    let data = bench.data("engage: 0.3");
    assert!(data.starts_with("0.30 ["), "{data}");
    assert_eq!(bench.newest(0, 1), [0.0], "the move after it took over");
    assert_eq!(changes(&bench), []);
    assert_within_limits(&bench);
    // The gripper is not leased: the goal's value for it is passed over.
    assert_eq!(bench.newest(5, 1), [REST[5]]);
}

#[test]
fn an_engaged_controller_ends_with_a_hold_and_with_the_run() {
    let bench = Bench::new();
    install(&bench, "0.1.0");
    let pan: f32 = bench.data("engage and hold: 1").parse().unwrap();
    assert!(pan > 0.05 && pan < 0.3, "{pan}");
    let engaged = bench.start("keep engaged: 1");
    bench.reach(bench.robot.tick() + 20);
    assert!(bench.newest(0, 1)[0] > bench.newest(0, 5)[0], "it moves");
    drop(engaged);
    // Robot time may go on for many ticks before the run's thread has noticed.
    while !bench.host.runs().is_empty() {
        bench.reach(bench.robot.tick() + 1);
    }
    bench.assert_the_arm_holds();
    assert_within_limits(&bench);
}

#[test]
fn a_lease_that_is_revoked_and_a_host_stop_end_what_a_controller_does() {
    let bench = Bench::with(Pace::RealTime, HostOptions::default(), ALL);
    install(&bench, "0.1.0");
    let revoke: fn(&Bench) = |bench| bench.host.revoke(&"test/conduct".to_owned().try_into().unwrap());
    for end in [revoke, |bench| bench.robot.stop()] {
        let engaged = bench.start("keep engaged: 1");
        let from = bench.robot.commanded()[0];
        while bench.robot.commanded()[0] < from + 0.05 {
            bench.reach(bench.robot.tick() + 1);
        }
        end(&bench);
        bench.reach(bench.robot.tick() + 40);
        let pans = bench.newest(0, 10);
        assert!(pans.windows(2).all(|pair| pair[0] == pair[1]), "{pans:?}");
        drop(engaged);
    }
}

#[test]
fn a_skill_may_engage_what_it_declares_and_what_is_installed() {
    let bench = Bench::new();
    let refusal = |what: &str| match bench.run(what).unwrap_err() {
        SkillError::Returned { refusal, .. } => refusal,
        other => panic!("{other}"),
    };
    assert!(matches!(refusal("engage: 0.1"), Refusal::Unavailable(_)));
    let Refusal::Denied(why) = refusal("engage a stranger: other/follower") else { panic!() };
    assert!(why.contains("skills:other/follower"), "{why}");
    install(&bench, "0.1.0");
    assert!(matches!(refusal("engage: NaN"), Refusal::Invalid(_)));
    bench.data("engage: 0.1");
    bench.host.unload(&"test/follower".to_owned().try_into().unwrap());
    assert!(matches!(refusal("engage: 0.1"), Refusal::Unavailable(_)));
}

#[test]
fn a_controller_that_misbehaves_is_ended_the_joints_hold_and_the_skill_learns_why_from_its_next_motion() {
    for (asked, expected) in [(11, "5ms"), (12, "crashed"), (13, "1 positions for 6 joints"), (14, "NaN")] {
        let bench = Bench::new();
        install(&bench, "0.1.0");
        let data = bench.data(&format!("engage: 0.3, {asked}"));
        assert!(data.starts_with("0.00 [") && data.contains("controller test/follower 0.1.0"), "{data}");
        assert!(data.contains(expected), "{data}");
        let changes = changes(&bench);
        let [ControllerChange::Ended { why, .. }] = changes.as_slice() else { panic!("{changes:?}") };
        assert!(why.contains(expected), "{why}");
        assert_within_limits(&bench);
    }
}

#[test]
fn a_controller_that_failed_three_times_is_quarantined_and_engaged_no_more_until_it_is_pardoned() {
    let bench = Bench::new();
    install(&bench, "0.1.0");
    for asked in [11, 12, 13] {
        assert_eq!(bench.host.quarantined(), []);
        assert!(bench.data(&format!("engage: 0.3, {asked}")).starts_with("0.00 ["));
    }
    let [condemned] = bench.host.quarantined().try_into().unwrap();
    assert_eq!((condemned.skill.as_str(), condemned.why.len()), ("test/follower", 3));
    let error = bench.run("engage: 0.3").unwrap_err().to_string();
    assert!(error.contains("test/follower 0.1.0 is quarantined") && error.contains("crashed"), "{error}");
    // Another version starts afresh, and an operator may forget.
    install(&bench, "0.2.0");
    assert!(bench.data("engage: 0.3").starts_with("0.30 ["));
    install(&bench, "0.1.0");
    assert!(bench.run("engage: 0.3").is_err());
    assert!(bench.host.pardon(&condemned.skill));
    assert!(bench.data("engage: 0.3").starts_with("0.30 ["));
}

#[test]
fn a_quarantined_version_is_not_offered_to_whatever_drives() {
    let bench = Bench::new();
    install(&bench, "0.2.0");
    let follower = "test/follower".to_owned().try_into().unwrap();
    assert!(bench.host.quarantine(&follower, "the operator does not trust it"));
    let data = swap(&bench, "engage: 0.3");
    assert!(data.starts_with("0.30 ["), "{data}");
    assert_eq!(changes(&bench), []);
    assert!(bench.run("engage: 0.3").unwrap_err().to_string().contains("does not trust"));
}

#[test]
fn joints_that_a_controller_drives_are_moved_for_one_of_higher_priority() {
    let bench = Bench::new();
    install(&bench, "0.1.0");
    let hold = bench.robot.hold_time();
    let engaged = bench.start("keep engaged: 1");
    let reached = bench.robot.reach(20);
    drop(hold);
    let hold = futures_executor::block_on(reached).hold;
    let request = TaskRequest { instruction: "acquire: arm".into(), priority: 2, ..TaskRequest::default() };
    let urgent = bench.start_with(request);
    drop(hold);
    let why = futures_executor::block_on(urgent).value.unwrap_err().to_string();
    assert!(why.contains("test/conduct moves these joints and gives them up soon"), "{why}");
    drop(engaged);
}

/// Runs `conduct` with the follower engaged, lets version 0.2.0 arrive in the middle, and returns what the skill says.
pub fn swap(bench: &Bench, instruction: &str) -> String {
    install(bench, "0.1.0");
    let hold = bench.robot.hold_time();
    let running = bench.start(instruction);
    let middle = bench.robot.reach(bench.robot.tick() + 15);
    drop(hold);
    let middle = futures_executor::block_on(middle);
    install(bench, "0.2.0");
    drop(middle);
    futures_executor::block_on(running).value.unwrap().data
}

#[test]
fn a_new_version_takes_over_between_two_ticks_with_the_state_of_the_old() {
    let bench = Bench::new();
    let data = swap(&bench, "engage: 0.3");
    assert!(data.starts_with("0.30 ["), "{data}");
    assert!(!data.contains("command_age") && !data.contains("controller"), "no tick was without its answer: {data}");
    let (from, to) = (version("0.1.0"), version("0.2.0"));
    assert_eq!(changes(&bench), [ControllerChange::Swapped { from, to }]);
    assert_within_limits(&bench);
    // As if there had been but one.
    let alone = Bench::new();
    install(&alone, "0.1.0");
    alone.data("engage: 0.3");
    // The loop may still tick once or twice when a run has ended.
    let (alone, swapped) = (alone.commands.lock().unwrap().clone(), bench.commands.lock().unwrap().clone());
    assert!(alone.len().min(swapped.len()) > 130);
    assert!(alone.iter().zip(&swapped).all(|(alone, swapped)| alone == swapped));
}

#[test]
fn a_new_version_that_will_not_start_from_the_state_leaves_the_old_one_in_place() {
    for (asked, expected) in [(1, "it cannot read that state"), (2, "crashed"), (3, "5ms")] {
        let bench = Bench::new();
        let data = swap(&bench, &format!("engage: 0.3, {asked}"));
        assert!(data.starts_with("0.30 ["), "{data}");
        let changes = changes(&bench);
        let [ControllerChange::Kept { version: kept, refused, why }] = changes.as_slice() else {
            panic!("{changes:?}")
        };
        assert_eq!((kept, refused), (&version("0.1.0"), &version("0.2.0")));
        assert!(why.contains(expected), "{why}");
        assert_eq!(bench.host.controllers()[0].version, version("0.1.0"), "the newer one is withdrawn");
        let quarantined = bench.host.quarantined();
        assert_eq!(quarantined.len(), usize::from(asked != 1), "to refuse a state is no fault: {quarantined:?}");
    }
}

#[test]
fn a_new_version_that_fails_on_probation_is_replaced_by_the_old_one_in_the_same_tick() {
    for (asked, expected) in [(4, "5ms"), (5, "crashed")] {
        let bench = Bench::new();
        let data = swap(&bench, &format!("engage: 0.3, {asked}"));
        assert!(data.starts_with("0.30 [") && !data.contains("command_age"), "{data}");
        let changes = changes(&bench);
        let [ControllerChange::Swapped { .. }, ControllerChange::Kept { version: kept, why, .. }] = changes.as_slice()
        else {
            panic!("{changes:?}")
        };
        assert_eq!(*kept, version("0.1.0"));
        assert!(why.contains(expected), "{why}");
        assert_eq!(bench.host.controllers()[0].version, version("0.1.0"));
        let [condemned] = bench.host.quarantined().try_into().unwrap();
        assert_eq!(condemned.version, version("0.2.0"));
    }
}

#[test]
fn a_version_that_fails_after_its_probation_is_ended_and_not_replaced() {
    let bench = Bench::with(
        Pace::Lockstep,
        HostOptions { controller_probation: Duration::from_millis(20), ..HostOptions::default() },
        ALL,
    );
    swap(&bench, "engage: 0.3, 5");
    let changes = changes(&bench);
    let [ControllerChange::Swapped { .. }, ControllerChange::Ended { version: ended, .. }] = changes.as_slice() else {
        panic!("{changes:?}")
    };
    assert_eq!(*ended, version("0.2.0"));
}

#[test]
fn in_real_time_versions_swap_without_a_missed_answer_of_the_loop() {
    let bench = Bench::with(Pace::RealTime, HostOptions::default(), ALL);
    install(&bench, "0.1.0");
    let running = bench.start("keep engaged: 0.5");
    for patch in 1..=5 {
        bench.reach(bench.robot.tick() + 20);
        install(&bench, &format!("0.2.{patch}"));
    }
    bench.reach(bench.robot.tick() + 20);
    drop(running);
    bench.assert_the_arm_holds();
    let changes = changes(&bench);
    assert!(matches!(changes.first(), Some(ControllerChange::Swapped { .. })), "{changes:?}");
    assert_within_limits(&bench);
}

#[test]
fn what_a_controller_does_repeats_bit_for_bit() {
    let episode = || {
        let bench = Bench::new();
        let data = swap(&bench, "engage: 0.4, 5");
        let mut commands = bench.commands.lock().unwrap().clone();
        // The loop may still tick once or twice when a run has ended.
        commands.truncate(130);
        (data, commands, changes(&bench))
    };
    let first = episode();
    for _ in 0..3 {
        assert!(first == episode());
    }
}
