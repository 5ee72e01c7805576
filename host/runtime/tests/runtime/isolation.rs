//! Whatever a skill does, it ends with an error that says what it did, and the arm holds.

use std::time::{Duration, Instant};

use waza_robot::Pace;
use waza_runtime::{Budget, Budgets, Event, HostOptions, Permission, Refusal, SkillError};

use crate::fixture::{ALL, Bench};

fn tight() -> HostOptions {
    let budgets = Budgets {
        cpu_burst: Duration::from_millis(100),
        memory_bytes: 16 << 20,
        handles: 64,
        run_time: Duration::from_secs(5),
        log_bytes: 4096,
        ..Budgets::default()
    };
    HostOptions { budgets, ..HostOptions::default() }
}

fn exhausted(ended: Result<impl std::fmt::Debug, SkillError>) -> Budget {
    match ended.unwrap_err() {
        SkillError::Exhausted { budget, .. } => budget.budget,
        other => panic!("{other}"),
    }
}

#[test]
fn a_skill_that_loops_forever_is_ended_by_its_cpu_budget() {
    let bench = Bench::with(Pace::Lockstep, tight(), ALL);
    let error = bench.run("spin").unwrap_err();
    assert_eq!(error.to_string(), "test/conduct was ended: the CPU time between two waits is used up (limit: 100ms)");
    bench.assert_the_arm_holds();
}

#[test]
fn a_skill_that_loops_forever_while_the_arm_moves_leaves_it_holding() {
    for pace in [Pace::Lockstep, Pace::RealTime] {
        let bench = Bench::with(pace, tight(), ALL);
        assert_eq!(exhausted(bench.run("spin while moving")), Budget::CpuBurst);
        assert!(bench.newest(0, 1)[0] > 0.0, "the arm never moved");
        bench.assert_the_arm_holds();
    }
}

#[test]
fn a_skill_that_panics_while_the_arm_moves_is_reported_with_its_last_words_and_leaves_the_arm_holding() {
    let bench = Bench::new();
    let error = bench.run("panic while moving").unwrap_err();
    let SkillError::Trapped { what, .. } = &error else { panic!("{error}") };
    assert!(what.contains("unreachable") && what.contains("on purpose"), "{what}");
    assert!(bench.newest(0, 1)[0] > 0.0, "the arm never moved");
    bench.assert_the_arm_holds();
}

#[test]
fn a_skill_that_exits_instead_of_returning_has_crashed() {
    let bench = Bench::new();
    let error = bench.run("exit").unwrap_err().to_string();
    assert!(error.contains("it called exit"), "{error}");
}

#[test]
fn a_skill_that_eats_memory_is_ended_by_its_memory_budget() {
    let bench = Bench::with(Pace::Lockstep, tight(), ALL);
    let error = bench.run("eat memory").unwrap_err();
    assert!(error.to_string().contains("limit: 16 MiB"), "{error}");
    assert_eq!(exhausted(Err::<(), _>(error)), Budget::Memory);
    bench.assert_the_arm_holds();
}

#[test]
fn runs_that_fill_the_hosts_memory_are_ended_without_a_strike_and_small_ones_go_on_until_it_is_full() {
    let options = HostOptions { memory_bytes: 256 << 20, ..HostOptions::default() };
    let bench = Bench::with(Pace::RealTime, options, ALL);
    let filled = || {
        let is_filled = |event: &&Event| matches!(event, Event::Progress { note, .. } if note == "filled");
        bench.events.lock().unwrap().iter().filter(is_filled).count()
    };
    let began = Instant::now();
    let fill = |mib: u32| {
        let before = filled();
        let running = bench.start(&format!("fill memory: {mib}"));
        while filled() == before {
            assert!(began.elapsed() < Duration::from_secs(60), "it never fills its memory");
            std::thread::sleep(Duration::from_millis(1));
        }
        running
    };
    // Each is far below its own budget; of what all have, an eighth is not for them.
    let large = [fill(100), fill(100)];
    // More often than a version may fail.
    for _ in 0..5 {
        let error = bench.run("fill memory: 100").unwrap_err();
        assert!(error.to_string().contains("256 MiB for all runs"), "{error}");
        assert_eq!(exhausted(Err::<(), _>(error)), Budget::HostMemory);
    }
    assert_eq!(bench.host.quarantined(), []);
    bench.run("say: small").unwrap();

    // What is left is taken by small ones, and then no other begins.
    let small = fill(24);
    let full = bench.run("say: small").unwrap_err();
    assert!(matches!(full, SkillError::Full { .. }), "{full}");
    let full = full.to_string();
    assert!(full.contains("the host is full: ") && full.contains("of 256 MiB"), "{full}");
    drop((large, small));
    while bench.run("say: small").is_err() {
        assert!(began.elapsed() < Duration::from_secs(60), "it stays full");
    }
}

#[test]
fn a_skill_that_hoards_observations_is_ended_by_its_handle_budget() {
    let bench = Bench::with(Pace::Lockstep, tight(), ALL);
    assert_eq!(exhausted(bench.run("hoard observations")), Budget::Handles);
    bench.assert_the_arm_holds();
}

#[test]
fn a_skill_that_waits_forever_is_ended_by_its_run_time() {
    let bench = Bench::with(Pace::Lockstep, tight(), ALL);
    assert_eq!(exhausted(bench.run("wait forever")), Budget::RunTime);
    let after = bench.robot.tick();
    assert!((500..700).contains(&after), "5 s are 500 ticks, it was ended after {after}");
    bench.assert_the_arm_holds();
}

#[test]
fn what_a_skill_writes_beyond_its_budget_is_dropped_and_the_skill_goes_on() {
    let bench = Bench::with(Pace::Lockstep, tight(), ALL);
    bench.run("chatter").unwrap();
    let events = bench.events.lock().unwrap();
    let lines: Vec<_> = events
        .iter()
        .map(|event| match event {
            Event::Log { line } => line.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(lines[0], "line 0");
    assert!((300..600).contains(&lines.len()), "{} lines", lines.len());
    assert!(lines.last().unwrap().contains("full"), "{:?}", lines.last());
}

#[test]
fn a_spinning_skill_delays_neither_another_nor_the_control_loop() {
    let budgets = Budgets { cpu_burst: Duration::from_secs(60), ..Budgets::default() };
    let bench = Bench::with(Pace::RealTime, HostOptions { budgets, ..HostOptions::default() }, ALL);
    let spinning = bench.start("spin");
    let start = Instant::now();
    let first = bench.robot.tick();
    for _ in 0..3 {
        bench.data("look");
    }
    bench.reach(first + 50);
    // Bounds far above what an idle machine needs: this fails if anything waits for the skill, not if the machine is slow.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    drop(spinning);
}

#[test]
fn a_spinning_skill_ends_when_nobody_waits_for_it_any_more() {
    let budgets = Budgets { cpu_burst: Duration::from_secs(600), ..Budgets::default() };
    let bench = Bench::with(Pace::Lockstep, HostOptions { budgets, ..HostOptions::default() }, ALL);
    drop(bench.start("spin while moving"));
    // While it spins robot time stands still; that this is ever reached shows that it has ended.
    bench.assert_the_arm_holds();
}

#[test]
fn the_host_stop_works_while_a_skill_hangs() {
    let budgets = Budgets { cpu_burst: Duration::from_secs(60), ..Budgets::default() };
    let bench = Bench::with(Pace::RealTime, HostOptions { budgets, ..HostOptions::default() }, ALL);
    let hanging = bench.start("spin while moving");
    while bench.robot.commanded()[0] <= 0.05 {
        bench.reach(bench.robot.tick() + 1);
    }
    bench.robot.stop();
    bench.reach(bench.robot.tick() + 100);
    let pans = bench.newest(0, 20);
    assert!(pans.windows(2).all(|pair| pair[0] == pair[1]), "the arm still moves: {pans:?}");
    drop(hanging);
}

#[test]
fn a_skill_that_moves_under_the_host_stop_is_told_so() {
    let bench = Bench::new();
    bench.robot.stop();
    for instruction in ["move: 0.3", "roll out: 2"] {
        let SkillError::Returned { refusal, .. } = bench.run(instruction).unwrap_err() else { panic!() };
        assert_eq!(refusal, Refusal::Stopped);
    }
    assert!(bench.robot.reset(bench.robot.stopped().unwrap()));
    bench.assert_the_arm_holds();
}

#[test]
fn pixels_of_a_camera_that_was_not_granted_are_denied_by_name() {
    let bench = Bench::with(Pace::Lockstep, HostOptions::default(), &[ALL, &["pixels:wrist"]].concat());
    assert_eq!(bench.data("peek: wrist"), "2x2 12");
    let SkillError::Returned { refusal: Refusal::Denied(why), .. } = bench.run("peek: front").unwrap_err() else {
        panic!()
    };
    assert!(why.contains("`pixels:front`"), "{why}");
}

#[test]
fn a_part_that_was_not_granted_cannot_be_leased() {
    let permissions = [&ALL[..2], &["motion:arm"], &ALL[3..]].concat();
    let bench = Bench::with(Pace::Lockstep, HostOptions::default(), &permissions);
    for parts in ["gripper", "arm, gripper", "body"] {
        let error = bench.run(&format!("acquire: {parts}")).unwrap_err();
        assert!(matches!(&error, SkillError::Returned { refusal: Refusal::Denied(_), .. }), "{error}");
    }
    bench.run("acquire: arm").unwrap();
}

#[test]
fn what_the_operator_withholds_is_refused_at_every_call_though_the_manifest_declares_it() {
    let withheld = |permission| HostOptions { withheld: [permission].into(), ..HostOptions::default() };
    let bench = Bench::with(Pace::Lockstep, withheld(Permission::Model), ALL);
    for instruction in ["act: turn", "locate: block", "roll out: 1"] {
        let error = bench.run(instruction).unwrap_err();
        let SkillError::Returned { refusal: Refusal::Denied(why), .. } = &error else { panic!("{error}") };
        assert!(why.contains("`model`"), "{why}");
    }
    assert_eq!(bench.run("what model").unwrap_err().denied(), Some(&Permission::Model));
    bench.assert_the_arm_holds();

    let bench = Bench::with(Pace::Lockstep, withheld(Permission::Sensing), ALL);
    assert!(matches!(bench.run("look").unwrap_err(), SkillError::Returned { refusal: Refusal::Denied(_), .. }));
    assert_eq!(bench.run("robot").unwrap_err().denied(), Some(&Permission::Sensing));
    let bench = Bench::with(Pace::Lockstep, withheld(Permission::Operator), ALL);
    assert_eq!(bench.run("progress").unwrap_err().denied(), Some(&Permission::Operator));
    let bench = Bench::with(Pace::Lockstep, withheld(Permission::Durable), ALL);
    assert!(matches!(bench.run("count").unwrap_err(), SkillError::Returned { refusal: Refusal::Denied(_), .. }));
}

#[test]
fn a_skill_has_no_arguments_and_no_environment() {
    assert_eq!(Bench::new().data("environment"), "0 variables, 0 arguments");
}
