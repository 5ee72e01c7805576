//! A joint with a jerk limit: what is played keeps it, and the arm can still stop at once.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod follower;

use std::collections::BTreeSet;

use follower::{Bench, REST, chunk, steepest, wait};
use proptest::prelude::*;
use waza_robot::{Embodiment, Ended, Pace, Play, Rule};

/// The bundled robot with joints whose acceleration takes 80 ms to come and go.
fn robot() -> Embodiment {
    let mut robot = Embodiment::so101();
    robot.joints.iter_mut().for_each(|joint| joint.jerk = Some(25.0 * joint.acceleration));
    robot
}

fn bench(robot: Embodiment) -> Bench {
    Bench::of(robot, Pace::Lockstep, |_| [0.2, 0.0, 0.2])
}

/// The largest jerk in commands of one joint at 100 Hz, rad/s³.
fn jerk(commands: &[f32]) -> f64 {
    let third = |at: &[f32]| {
        let [a, b, c, d] = [0, 1, 2, 3].map(|index| f64::from(at[index]));
        (d - 3.0 * c + 3.0 * b - a).abs() * 1e6
    };
    commands.windows(4).map(third).fold(0.0, f64::max)
}

/// Eight roundings of a position of up to 2 rad to `f32`, as a jerk at 100 Hz.
const ROUNDING: f64 = 1.0;

fn any_play() -> impl Strategy<Value = Play> {
    // Far from every joint's limits: these are the filter's business.
    let row = prop::collection::vec(0.0_f32..1.0, 6);
    (prop::collection::btree_set(0_usize..6, 1..=6), 2.0_f32..=100.0, prop::collection::vec(row, 1..12))
        .prop_map(|(joints, rate_hz, rows)| Play { joints, rate_hz, rows, since_tick: None, within: None })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn plays_over_plays_keep_every_joints_jerk(plays in prop::collection::vec((any_play(), 1_u64..60), 1..8)) {
        let robot = Embodiment { discontinuity_rad: None, collisions: vec![], ..robot() };
        let bench = bench(robot.clone());
        let mut rest = REST;
        rest[1] = 0.1;
        let start = Play::joints_to(&robot, [1].into(), &REST, &rest, 1.0).unwrap();
        prop_assert_eq!(bench.finish(start).unwrap().interventions, vec![]);
        let mut hold = bench.robot.hold_time();
        for (mut play, ticks) in plays {
            // A play that loses a joint to another brakes, and so do its other joints: all of them, or none.
            play.joints = (0..6).collect();
            drop(bench.robot.play(play));
            let reaching = bench.robot.reach(bench.robot.tick() + ticks);
            drop(hold);
            hold = wait(reaching).hold;
        }
        drop(hold);
        bench.reach(bench.robot.tick() + 800);
        for (index, joint) in robot.joints.iter().enumerate() {
            let commands = bench.joint(index);
            let (speed, change) = steepest(&commands);
            prop_assert!(speed <= joint.velocity + 1e-3, "{} at {} rad/s", joint.name, speed);
            prop_assert!(change <= joint.acceleration + 2e-2, "{} at {} rad/s²", joint.name, change);
            let (jerk, most) = (jerk(&commands), f64::from(joint.jerk.unwrap()));
            prop_assert!(jerk <= most + ROUNDING, "{} at {} rad/s³", joint.name, jerk);
        }
    }
}

#[test]
fn a_planned_move_takes_its_corners_roundly_and_goes_through_unchanged() {
    let robot = robot();
    let bench = bench(robot.clone());
    let mut target = REST;
    (target[0], target[5]) = (1.2, 1.0);
    let play = Play::joints_to(&robot, [0, 5].into(), &REST, &target, 1.0).unwrap();
    let report = bench.finish(play).unwrap();
    assert_eq!((report.ended, report.interventions), (Ended::Finished, vec![]));
    assert_eq!(bench.robot.commanded(), target);
    let commands = bench.joint(0);
    assert!(jerk(&commands) <= 300.0 + ROUNDING, "{} rad/s³", jerk(&commands));
    assert!(steepest(&commands).0 > 1.99, "it still gets to full speed");
}

/// Drives joint 0 to where `demand` says, so many ticks after the first, for 200 ticks; says which rules acted.
fn drive(bench: &Bench, demand: impl Fn(f32) -> f32) -> Vec<Rule> {
    let mut drive = bench.robot.drive(&BTreeSet::from([0]), None).unwrap();
    let mut first = None;
    while let Some(input) = wait(drive.next()) {
        let passed = input.tick - *first.get_or_insert(input.tick);
        if passed == 200 {
            break;
        }
        let mut positions = input.joints.positions.clone();
        positions[0] = demand(passed as f32);
        drive.demand(&positions).unwrap();
    }
    wait(drive.end()).value.unwrap().interventions.iter().map(|it| it.rule).collect()
}

#[test]
fn what_a_driver_demands_too_abruptly_is_rounded_off_and_caught_up_with() {
    let bench = bench(robot());
    // 8 rad/s² at once for 0.1 s, and 0.8 rad/s from then on.
    let demand = |tick: f32| if tick > 10.0 { 0.04 + 0.008 * (tick - 10.0) } else { 4e-4 * tick * tick };
    assert_eq!(drive(&bench, demand), [Rule::Jerk]);
    // Then the driver lets go, and the joint brakes.
    let commands = &bench.joint(0)[..200];
    assert!(jerk(commands) <= 300.0 + ROUNDING, "{} rad/s³", jerk(commands));
    let furthest = commands.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f32::max);
    assert!(furthest < 0.011, "{furthest} rad in a tick, to make up for what it lost");
    assert!(commands[100..].contains(&demand(150.0)), "it has caught up");
}

#[test]
fn a_hold_brakes_with_the_whole_acceleration_at_once() {
    let bench = bench(robot());
    let hold = bench.robot.hold_time();
    let playing = bench.robot.play(chunk(0, (1..=10).map(|row| 0.15 * row as f32)));
    let reaching = bench.robot.reach(60);
    drop(hold);
    let moving = wait(reaching);
    bench.robot.hold(&[0].into());
    drop(moving);
    assert_eq!(wait(playing).value.unwrap().ended, Ended::Held);
    bench.reach(100);
    let commands = bench.joint(0);
    let (speed, _) = steepest(&commands[50..60]);
    let braking = commands[60..].windows(2).take_while(|pair| pair[0] != pair[1]).count();
    assert!(speed > 1.4 && braking as f32 <= (speed / 0.12).ceil(), "{braking} ticks from {speed} rad/s");
    assert!(steepest(&commands).1 <= 12.01);
}

#[test]
fn rows_that_turn_too_abruptly_are_rounded_off_and_reported() {
    let mut robot = robot();
    // The slowest that is allowed: an acceleration that takes half a second to come and go.
    robot.joints[0].jerk = Some(48.0);
    let bench = bench(robot);
    let swing = (1..=40).map(|row| 0.08 * (row as f32 * 0.9).sin());
    let report = bench.finish(chunk(0, swing)).unwrap();
    let rules: Vec<_> = report.interventions.iter().map(|it| it.rule).collect();
    assert!(rules.contains(&Rule::Jerk), "{rules:?}");
    assert!(jerk(&bench.joint(0)) <= 48.0 + ROUNDING, "{} rad/s³", jerk(&bench.joint(0)));
    assert_eq!(report.ended, Ended::Finished);
}

#[test]
fn a_jerk_that_would_take_longer_than_half_a_second_to_build_up_is_refused() {
    let bundled = include_str!("../embodiments/so101.toml");
    let slow = bundled.replacen("acceleration = 12.0", "acceleration = 12.0\njerk = 47.0", 1);
    let error = Embodiment::parse(&slow, "slow.toml").unwrap_err().to_string();
    assert!(error.contains("joint shoulder_pan: jerk is 47 rad/s³, it must be at least 48"), "{error}");
}
