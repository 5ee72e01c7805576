//! Joints that are driven tick by tick from outside the control loop.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod follower;

use std::collections::BTreeSet;
use std::time::Duration;

use follower::{Bench, REST, chunk, steepest, wait};
use waza_robot::{Drive, DriveInput, Ended, Pace, PlayError, PlayReport, RobotError, Rule};

const PAN: usize = 0;

fn drive(bench: &Bench) -> Drive {
    bench.robot.drive(&BTreeSet::from([PAN]), None).unwrap()
}

/// Answers until the drive is over or `answer` has none.
fn answer(mut drive: Drive, mut answer: impl FnMut(&DriveInput) -> Option<f32>) -> Result<PlayReport, RobotError> {
    while let Some(input) = wait(drive.next()) {
        let mut positions = input.joints.positions.clone();
        let Some(pan) = answer(input) else { break };
        positions[PAN] = pan;
        drive.demand(&positions).unwrap();
    }
    wait(drive.end()).value
}

/// From rest to 0.01 rad a tick, which it has after 20.
fn ramp(input: &DriveInput, first: u64) -> f32 {
    let ticks = (input.tick - first) as f32;
    if ticks < 20.0 { 0.00025 * ticks * ticks } else { 0.1 + 0.01 * (ticks - 20.0) }
}

#[test]
fn a_driver_moves_its_joints_and_no_others_in_the_tick_after_its_answer() {
    let bench = Bench::start(Pace::Lockstep);
    let mut first = None;
    let report = answer(drive(&bench), |input| {
        let first = *first.get_or_insert(input.tick);
        (input.tick < first + 30).then(|| ramp(input, first))
    });
    let report = report.unwrap();
    assert_eq!((report.ended, report.interventions), (Ended::Held, vec![]));
    let first = first.unwrap() as usize;
    let commands = bench.joint(PAN);
    // `commands[tick - 1]` is a tick's; the answer to the input of tick `first + 20` is commanded in the next.
    assert_eq!(commands[first + 20], 0.1);
    bench.reach(bench.robot.tick() + 30);
    let last = bench.log.lock().unwrap().commands.last().unwrap().clone();
    assert_eq!(last[1..], REST[1..]);
    assert!(last[PAN] > 0.18 && last[PAN] == bench.joint(PAN)[bench.joint(PAN).len() - 10], "it stands");
}

#[test]
fn whatever_a_driver_demands_the_commands_keep_the_limits_and_it_is_told() {
    let bench = Bench::start(Pace::Lockstep);
    let mut ticks = 0;
    let report = answer(drive(&bench), |_| {
        ticks += 1;
        match ticks {
            1..40 => Some(1.0),
            40..60 => Some(f32::NAN),
            60..200 => Some(-9.0),
            _ => None,
        }
    });
    let rules: BTreeSet<_> = report.unwrap().interventions.iter().map(|it| it.rule).collect();
    for rule in [Rule::NotANumber, Rule::Position, Rule::Velocity] {
        assert!(rules.contains(&rule), "{rules:?}");
    }
    let joint = &bench.robot.embodiment().joints[PAN];
    let (speed, change) = steepest(&bench.joint(PAN));
    assert!(speed <= joint.velocity * 1.001 && change <= joint.acceleration * 1.01, "{speed} rad/s, {change} rad/s²");
}

#[test]
fn joints_brake_in_a_tick_that_a_driver_misses_and_go_on_after_it() {
    let bench = Bench::start(Pace::Lockstep);
    let mut drive = drive(&bench);
    let first = wait(drive.next()).unwrap().tick;
    for _ in 0..40 {
        let input = wait(drive.next()).unwrap().clone();
        // The next call of `next` lets time go on without an answer.
        if input.tick != first + 20 {
            let mut positions = input.joints.positions.clone();
            positions[PAN] = ramp(&input, first);
            drive.demand(&positions).unwrap();
        }
    }
    let report = wait(drive.end()).value.unwrap();
    let missed: Vec<_> = report.interventions.iter().filter(|it| it.rule == Rule::CommandAge).collect();
    assert_eq!(missed.len(), 1);
    // The very first input was not answered either.
    assert_eq!((missed[0].first_tick, missed[0].ticks), (first + 1, 2));
    let commands = bench.joint(PAN);
    let step = |tick: u64| commands[tick as usize - 1] - commands[tick as usize - 2];
    assert!(step(first + 21) < step(first + 20) - 0.001, "it brakes in the tick that has no answer");
    let change = bench.robot.embodiment().joints[PAN].acceleration;
    assert!(steepest(&commands).1 <= change * 1.01);
    assert!((commands[first as usize + 38] - 0.28).abs() < 1e-3, "it caught up");
}

#[test]
fn a_driver_that_answers_nothing_any_more_is_given_up_and_the_joints_stand() {
    let bench = Bench::start(Pace::Lockstep);
    let mut drive = drive(&bench);
    let mut seen = 0;
    while let Some(input) = wait(drive.next()) {
        seen += 1;
        let mut positions = input.joints.positions.clone();
        if seen <= 20 {
            positions[PAN] = 0.02 * seen as f32;
            drive.demand(&positions).unwrap();
        }
    }
    assert_eq!(wait(drive.end()).value.unwrap().ended, Ended::Late);
    // A quarter of a second at 100 Hz.
    assert!((44..=46).contains(&seen), "{seen}");
    let commands = bench.joint(PAN);
    assert_eq!(commands[commands.len() - 1], commands[commands.len() - 5]);
}

#[test]
fn in_real_time_the_loop_waits_for_no_driver() {
    let bench = Bench::start(Pace::RealTime);
    let mut drive = drive(&bench);
    let first = wait(drive.next()).unwrap().tick;
    std::thread::sleep(Duration::from_millis(100));
    let second = wait(drive.next()).unwrap().tick;
    assert!(second >= first + 5, "ticks {first} and {second}");
    std::thread::sleep(Duration::from_millis(400));
    assert!(wait(drive.next()).is_none());
    assert_eq!(wait(drive.end()).value.unwrap().ended, Ended::Late);
}

#[test]
fn what_ends_a_play_ends_a_drive() {
    type Ends = fn(&Bench);
    let causes: [(Ends, Ended); 4] = [
        (|bench| drop(bench.robot.play(chunk(PAN, [0.1]))), Ended::Superseded),
        (|bench| drop(bench.robot.drive(&BTreeSet::from([PAN, 1]), None).unwrap()), Ended::Superseded),
        (|bench| bench.robot.hold(&BTreeSet::from([PAN])), Ended::Held),
        (|bench| bench.robot.stop(), Ended::Stopped),
    ];
    for (cause, ended) in causes {
        let bench = Bench::start(Pace::Lockstep);
        let mut ticks = 0;
        let report = answer(drive(&bench), |input| {
            ticks += 1;
            if ticks == 10 {
                cause(&bench);
            }
            Some(input.joints.positions[PAN] + 0.005)
        });
        assert_eq!((report.unwrap().ended, ticks), (ended, 10));
    }
}

#[test]
fn a_drive_takes_joints_from_a_play_and_a_play_of_other_joints_leaves_it_alone() {
    let bench = Bench::start(Pace::Lockstep);
    let hold = bench.robot.hold_time();
    let playing = bench.robot.play(chunk(PAN, [0.1, 0.2, 0.3, 0.4]));
    let drive = drive(&bench);
    let beside = bench.robot.play(chunk(1, [-0.55]));
    drop(hold);
    let driver = std::thread::spawn(move || answer(drive, |input| (input.tick < 60).then_some(-0.1)));
    let [playing, beside] = follower::ends([playing, beside]);
    assert_eq!((playing, beside), (Ended::Superseded, Ended::Finished));
    assert_eq!(driver.join().unwrap().unwrap().ended, Ended::Held);
    let last = bench.log.lock().unwrap().commands.last().unwrap().clone();
    assert!((last[PAN] + 0.1).abs() < 1e-3 && (last[1] + 0.55).abs() < 1e-3, "{last:?}");
}

#[test]
fn a_link_that_fails_ends_a_drive_and_says_why() {
    let bench = Bench::start(Pace::Lockstep);
    let mut ticks = 0;
    let error = answer(drive(&bench), |_| {
        ticks += 1;
        bench.set(|log| log.reads_fail = ticks == 5);
        Some(0.1)
    });
    assert!(matches!(error.unwrap_err(), RobotError::Link(_)));
}

#[test]
fn a_latched_stop_lets_no_drive_begin() {
    let bench = Bench::start(Pace::Lockstep);
    bench.robot.stop();
    assert_eq!(answer(drive(&bench), |_| Some(0.1)).unwrap().ended, Ended::Stopped);
    bench.reach(20);
    assert!(bench.joint(PAN).iter().all(|&pan| pan == 0.0));
}

#[test]
fn dropping_a_drive_lets_go_of_its_joints_and_of_time() {
    let bench = Bench::start(Pace::Lockstep);
    let mut driving = drive(&bench);
    for _ in 0..20 {
        let mut positions = wait(driving.next()).unwrap().joints.positions.clone();
        positions[PAN] += 0.01;
        driving.demand(&positions).unwrap();
    }
    let _unanswered = wait(driving.next()).is_some();
    drop(driving);
    bench.reach(60);
    let commands = bench.joint(PAN);
    assert!(commands[59] > 0.05 && commands[50] == commands[59]);
    // An input that nobody has looked at keeps time still no longer than its drive.
    let driving = drive(&bench);
    std::thread::sleep(Duration::from_millis(20));
    drop(driving);
    bench.reach(80);
}

#[test]
fn a_demand_of_another_width_and_a_drive_of_no_joints_are_refused() {
    let bench = Bench::start(Pace::Lockstep);
    let refused = |joints: &[usize]| bench.robot.drive(&joints.iter().copied().collect(), None).err().unwrap();
    assert_eq!(refused(&[]), RobotError::Play(PlayError::NoJoints));
    assert!(matches!(refused(&[6]), RobotError::Play(PlayError::UnknownJoint { joint: 6, last: 5, .. })));
    let mut drive = drive(&bench);
    assert!(matches!(drive.demand(&[0.0; 5]).unwrap_err(), PlayError::Width { width: 5, expected: 6, .. }));
}

#[test]
fn a_drive_repeats_bit_for_bit_however_long_its_driver_thinks() {
    let episode = |seed: u64| {
        let bench = Bench::start(Pace::Lockstep);
        let report = answer(drive(&bench), |input| {
            std::thread::sleep(Duration::from_micros(input.tick * (seed + 3) * 7919 % 900));
            (input.tick < 120).then(|| input.joints.positions[PAN] + 0.02 * (input.tick as f32 / 9.0).sin())
        });
        let _end = wait(bench.robot.reach(200));
        (bench.joint(PAN).into_iter().map(f32::to_bits).collect::<Vec<_>>(), report)
    };
    let first = episode(0);
    assert!(first.0.windows(2).filter(|pair| pair[0] != pair[1]).count() > 80, "it moves");
    for seed in 1..4 {
        assert_eq!(first, episode(seed));
    }
}
