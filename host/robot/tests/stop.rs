//! The host stop: who may stop, who must be seen alive before, and what resets it.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod follower;

use std::time::{Duration, Instant};

use follower::{Bench, REST, chunk, wait};
use waza_robot::{Ended, Pace, RobotError, StopFile};

#[test]
fn nothing_moves_until_every_declared_stop_source_has_been_seen_alive() {
    let bench = Bench::start(Pace::Lockstep);
    let key = bench.robot.declare_stop_source("key");
    let file = bench.robot.declare_stop_source("file");
    key.alive();
    let seen: Vec<_> = bench.robot.stop_sources().into_iter().map(|source| (source.name, source.seen)).collect();
    assert_eq!(seen, [("key".into(), true), ("file".into(), false)]);
    let refused = bench.finish(chunk(0, [0.1])).unwrap_err();
    assert_eq!(refused, RobotError::NotArmed { unseen: vec!["file".into()] });
    assert_eq!(bench.robot.commanded(), REST);
    file.alive();
    assert_eq!(bench.finish(chunk(0, [0.1])).unwrap().ended, Ended::Finished);
}

#[test]
fn a_stop_source_stops_in_the_next_tick() {
    let bench = Bench::start(Pace::Lockstep);
    let key = bench.robot.declare_stop_source("key");
    key.alive();
    let hold = bench.robot.hold_time();
    let playing = bench.robot.play(chunk(0, [0.02, 0.06, 0.12, 0.2, 0.28, 0.36]));
    let reaching = bench.robot.reach(30);
    drop(hold);
    let moving = wait(reaching);
    key.stop();
    drop(moving);
    assert_eq!(wait(playing).value.unwrap().ended, Ended::Stopped);
    bench.reach(32);
    let commands = bench.joint(0);
    // Braking at 12 rad/s² takes 1.2e-3 rad off the way of a tick of 10 ms.
    let step = |tick: usize| commands[tick - 1] - commands[tick - 2];
    assert!((step(30) - step(31) - 1.2e-3).abs() < 1e-5, "{} after {}", step(31), step(30));
}

#[test]
fn a_reset_acknowledges_one_stop_and_not_the_next() {
    let bench = Bench::start(Pace::Lockstep);
    assert_eq!(bench.robot.stopped(), None);
    bench.robot.stop();
    let first = bench.robot.stopped().unwrap();
    assert!(bench.robot.reset(first));
    bench.robot.stop();
    assert_ne!(bench.robot.stopped().unwrap().number(), first.number());
    assert!(!bench.robot.reset(first), "this stop has been seen by nobody");
    assert!(bench.robot.is_stopped());
    assert!(bench.robot.reset(bench.robot.stopped().unwrap()));
    assert!(!bench.robot.is_stopped());
}

#[test]
fn a_stop_that_was_latched_for_now_is_taken_back_unless_somebody_has_asked_for_one_meanwhile() {
    let bench = Bench::start(Pace::Lockstep);
    let button = bench.robot.declare_stop_source("button");
    let own = bench.robot.stop_for_now().unwrap();
    assert!(bench.robot.take_back(own) && !bench.robot.is_stopped());
    let own = bench.robot.stop_for_now().unwrap();
    button.stop();
    assert!(!bench.robot.take_back(own) && bench.robot.is_stopped());
    assert_eq!(bench.robot.stop_for_now(), None, "it is somebody else's");
    assert!(bench.robot.reset(own));
}

/// Far longer than the file is looked at, for a machine under load.
fn within_a_minute(what: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(60) {
        if what() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

#[test]
fn a_stop_file_arms_while_it_is_not_there_stops_when_it_is_and_stops_when_its_folder_is_gone() {
    let folder = std::env::temp_dir().join(format!("waza-stop-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("STOP");
    let bench = Bench::start(Pace::Lockstep);
    StopFile::watch(bench.robot.declare_stop_source("file"), &path).unwrap();
    assert!(within_a_minute(|| bench.finish(chunk(0, [0.1])).is_ok()));

    std::fs::write(&path, "").unwrap();
    assert!(within_a_minute(|| bench.robot.is_stopped()));
    let stopped = bench.robot.stopped().unwrap();
    bench.robot.reset(stopped);
    assert!(within_a_minute(|| bench.robot.stopped().is_some_and(|again| again != stopped)), "the file is still there");

    std::fs::remove_file(&path).unwrap();
    assert!(within_a_minute(|| {
        bench.robot.stopped().map(|stopped| bench.robot.reset(stopped));
        std::thread::sleep(Duration::from_millis(20));
        !bench.robot.is_stopped()
    }));
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(within_a_minute(|| bench.robot.is_stopped()));
}
