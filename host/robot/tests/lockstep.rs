//! Under lockstep an episode repeats bit for bit, however long anybody takes to think.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod follower;

use std::collections::BTreeSet;
use std::time::Duration;

use follower::{Bench, REST, wait};
use waza_robot::{Pace, Play, Robot, TimeHold};

/// Long enough for a loop that does not stand still to run thousands of ticks.
const A_WHILE: Duration = Duration::from_millis(20);

#[test]
fn time_stands_still_while_nobody_waits_and_nothing_moves() {
    let bench = Bench::start(Pace::Lockstep);
    std::thread::sleep(A_WHILE);
    assert_eq!(bench.robot.tick(), 0);
    bench.reach(10);
    std::thread::sleep(A_WHILE);
    assert_eq!(bench.robot.tick(), 10);
}

#[test]
fn time_stands_still_while_anybody_holds_it_and_others_wait() {
    let bench = Bench::start(Pace::Lockstep);
    let hold = bench.robot.hold_time();
    let second = hold.clone();
    let reaching = bench.robot.reach(5);
    drop(hold);
    std::thread::sleep(A_WHILE);
    assert_eq!(bench.robot.tick(), 0);
    drop(second);
    assert_eq!(wait(reaching).value.unwrap(), 5);
}

#[test]
fn whoever_is_answered_holds_time_until_the_answer_is_dropped() {
    let bench = Bench::start(Pace::Lockstep);
    let far = bench.robot.reach(1000);
    let seen = wait(bench.robot.observe());
    std::thread::sleep(A_WHILE);
    assert_eq!(bench.robot.tick(), seen.value.as_ref().unwrap().tick);
    drop(seen);
    assert_eq!(wait(far).value.unwrap(), 1000);
}

#[test]
fn an_answer_that_nobody_takes_does_not_stop_time() {
    let bench = Bench::start(Pace::Lockstep);
    drop(bench.robot.observe());
    drop(bench.robot.reach(3));
    bench.reach(20);
    let answered = bench.robot.observe();
    std::thread::sleep(A_WHILE);
    drop(answered);
    bench.reach(40);
}

#[test]
fn a_tick_that_works_longer_than_its_period_counts_as_missed() {
    let bench = Bench::start(Pace::Lockstep);
    bench.reach(3);
    assert_eq!(bench.robot.statistics().missed, 0);
    bench.set(|log| log.work = Duration::from_micros(10_100));
    bench.reach(5);
    let statistics = bench.robot.statistics();
    assert_eq!((statistics.ticks, statistics.missed), (5, 2));
    assert!(statistics.longest_work >= Duration::from_micros(10_100));
}

/// What a skill does: look, think, ask for a motion that depends on what it saw, overlap the next thought with it.
fn skill(robot: &Robot, joint: usize, started: TimeHold, pause: impl Fn(u64)) {
    let mut hold = started;
    for round in 0..12 {
        let observing = robot.observe();
        drop(hold);
        let seen = wait(observing);
        let moment = seen.value.unwrap();
        pause(round);
        // A model that takes seven ticks.
        let thinking = robot.reach(moment.tick + 7);
        drop(seen.hold);
        let thought = wait(thinking);
        pause(round + 100);
        let here = moment.joints.positions[joint];
        let towards = if here > REST[joint] { -0.03 } else { 0.04 };
        let row = |step: u16| {
            let mut row = REST.to_vec();
            row[joint] = here + towards * f32::from(step);
            row
        };
        let (joints, rows) = (BTreeSet::from([joint]), (1..=8).map(row).collect());
        drop(robot.play(Play { joints, rate_hz: 10.0, rows, since_tick: Some(moment.tick), within: None }));
        let executing = robot.reach(robot.tick() + 23 + joint as u64);
        drop(thought.hold);
        hold = wait(executing).hold;
    }
}

#[test]
fn two_skills_on_their_own_threads_repeat_bit_for_bit_however_long_each_thinks() {
    let episode = |seed: u64| {
        let bench = Bench::start(Pace::Lockstep);
        let starts = [bench.robot.hold_time(), bench.robot.hold_time()];
        std::thread::scope(|scope| {
            for (joint, start) in starts.into_iter().enumerate() {
                let robot = bench.robot.clone();
                scope.spawn(move || {
                    skill(&robot, joint, start, |moment| {
                        let micros = (moment + 1) * (seed + 3) * (joint as u64 + 5) * 7919 % 1500;
                        std::thread::sleep(Duration::from_micros(micros));
                    });
                });
            }
        });
        // The last plays go on when their skills have ended.
        let _end = wait(bench.robot.reach(2000));
        let commands = bench.log.lock().unwrap().commands.clone();
        let bits = |row: Vec<f32>| row.into_iter().map(f32::to_bits).collect();
        let commands: Vec<Vec<u32>> = commands.into_iter().map(bits).collect();
        (commands, bench.robot.statistics().interventions)
    };
    let (commands, interventions) = episode(0);
    assert_eq!(commands.len(), 2000);
    assert!(commands.windows(2).filter(|pair| pair[0] != pair[1]).count() > 200, "the episode moves");
    for seed in 1..6 {
        let again = episode(seed);
        let differs = (0..2000).find(|&tick| commands[tick] != again.0[tick]);
        assert_eq!(differs, None, "the tick that differs with other thinking times");
        assert_eq!(interventions, again.1);
    }
}
