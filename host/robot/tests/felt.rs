//! What the robot does about what it feels, and about plays that begin where it is not.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod follower;

use std::collections::BTreeSet;
use std::sync::Arc;

use follower::{Bench, Follower, chunk, steepest, wait};
use waza_robot::embodiment::ForceLimit;
use waza_robot::sim::{SceneSpec, Simulator, arm};
use waza_robot::{
    Embodiment, Ended, Guard, Intervention, Link, Pace, PlayReport, Response, Robot, RobotError, RobotOptions, Rule,
    Tightening,
};

/// The tool goes sideways by 0.2 m per rad of joint 0, and the wrist may feel 20 N.
fn sideways() -> Bench {
    let limit = ForceLimit { sensor: "wrist_wrench".into(), link: "wrist_roll".into(), newtons: 20.0 };
    let robot = Embodiment { force_limits: vec![limit], ..Embodiment::so101() };
    Bench::of(robot, Pace::Lockstep, |q| [0.2, 0.2 * q[0], 0.2])
}

/// Rows of joint 0 that are 0.15 rad apart.
fn sweep(from: f32, to: f32) -> Vec<f32> {
    let rows = ((to - from).abs() / 0.15).ceil() as usize;
    (1..=rows).map(|row| from + (to - from) * row as f32 / rows as f32).collect()
}

fn of(report: &PlayReport, rule: Rule) -> Option<&Intervention> {
    report.interventions.iter().find(|it| it.rule == rule)
}

#[test]
fn a_joint_that_presses_too_hard_is_slowed_then_holds_and_only_turns_back() {
    let bench = sideways();
    // 50 N m a rad from 0.3 rad on: its 6 N m are reached at 0.42 rad.
    bench.set(|log| log.feels = Some(|q| [50.0 * (q - 0.3).max(0.0), 0.0]));
    let report = bench.finish(chunk(0, sweep(0.0, 1.5))).unwrap();
    let effort = of(&report, Rule::Effort).unwrap();
    assert_eq!((report.ended, effort.response, effort.joint), (Ended::Held, Response::Hold, Some(0)));
    let commands = bench.joint(0);
    let over = commands.iter().position(|q| *q > 0.42).unwrap();
    // 1.5 rad/s until 50 ms later, then down to a quarter of 2 rad/s, and after 250 ms to a stand.
    assert!(steepest(&commands[over..over + 5]).0 > 1.4);
    assert!(steepest(&commands[over + 16..]).0 < 0.501);
    assert!(steepest(&commands).1 <= 12.01);
    bench.reach(bench.robot.tick() + 30);
    let held = bench.robot.commanded()[0];
    assert!((0.5..0.8).contains(&held), "{held} rad");

    let pressing = bench.finish(chunk(0, sweep(held, 1.5))).unwrap();
    assert_eq!((pressing.ended, of(&pressing, Rule::Effort).unwrap().response), (Ended::Held, Response::Hold));
    assert_eq!(bench.robot.commanded()[0], held);
    let back = bench.finish(chunk(0, sweep(held, 0.1))).unwrap();
    assert_eq!((back.ended, of(&back, Rule::Effort), of(&back, Rule::Force)), (Ended::Finished, None, None));
}

#[test]
fn a_torque_or_a_force_that_is_soon_over_changes_nothing() {
    let bench = sideways();
    // At 1.5 rad/s these last 4 and 2 ticks.
    bench.set(|log| {
        log.feels = Some(|q| {
            let within = |from: f32, to: f32| if (from..to).contains(&q) { 1.0 } else { 0.0 };
            [9.0 * within(0.4, 0.455), -50.0 * within(0.7, 0.725)]
        });
    });
    let report = bench.finish(chunk(0, sweep(0.0, 1.2))).unwrap();
    assert_eq!((report.ended, of(&report, Rule::Effort), of(&report, Rule::Force)), (Ended::Finished, None, None));
}

#[test]
fn an_arm_that_feels_too_much_force_holds_and_may_only_lead_away() {
    let bench = sideways();
    // 200 N a rad from 0.3 rad on: 20 N are reached at 0.4 rad.
    bench.set(|log| log.feels = Some(|q| [0.0, -200.0 * (q - 0.3).max(0.0)]));
    let report = bench.finish(chunk(0, sweep(0.0, 1.5))).unwrap();
    let force = of(&report, Rule::Force).unwrap();
    assert_eq!((report.ended, force.response, force.joint), (Ended::Held, Response::Hold, None));
    bench.reach(bench.robot.tick() + 30);
    let held = bench.robot.commanded()[0];
    assert!((0.4..0.6).contains(&held), "{held} rad");
    assert!(steepest(&bench.joint(0)).1 <= 12.01);

    let pressing = bench.finish(chunk(0, sweep(held, 1.5))).unwrap();
    assert_eq!((pressing.ended, bench.robot.commanded()[0]), (Ended::Held, held));
    let back = bench.finish(chunk(0, sweep(held, 0.1))).unwrap();
    assert_eq!((back.ended, of(&back, Rule::Effort), of(&back, Rule::Force)), (Ended::Finished, None, None));

    // A skill may ask to be stopped by less, and by nothing that the robot has no limit for.
    let gentle = toml::from_str("[[force_limits]]\nsensor = \"wrist_wrench\"\nnewtons = 5.0").unwrap();
    let gentle = bench.robot.within(&gentle, "skill.toml").unwrap();
    let slowly = (1..=10).map(|row| 0.1 + 0.03 * row as f32);
    let report = bench.finish(chunk(0, slowly).within(Some(gentle))).unwrap();
    assert_eq!(report.ended, Ended::Held);
    assert_eq!(bench.finish(chunk(0, sweep(bench.robot.commanded()[0], 0.39))).unwrap().ended, Ended::Finished);
    let foreign: Tightening = toml::from_str("[[force_limits]]\nsensor = \"ankle\"\nnewtons = 5.0").unwrap();
    let error = bench.robot.within(&foreign, "skill.toml").unwrap_err().to_string();
    assert_eq!(error, "skill.toml: so101-tabletop has no force limit for a sensor ankle");
}

/// Drives joint 0 on by 0.01 rad a tick until the drive is over by itself.
fn drive_on(bench: &Bench) -> PlayReport {
    let mut drive = bench.robot.drive(&BTreeSet::from([0]), None).unwrap();
    let mut pan = bench.robot.commanded()[0];
    while let Some(input) = wait(drive.next()) {
        let mut positions = input.joints.positions.clone();
        pan += 0.01;
        assert!(pan < 1.5, "nobody ended it");
        positions[0] = pan;
        drive.demand(&positions).unwrap();
    }
    wait(drive.end()).value.unwrap()
}

#[test]
fn what_is_felt_ends_a_drive_that_presses_on_as_it_ends_a_play() {
    type Feels = fn(f32) -> [f32; 2];
    let feels: [(Feels, Rule); 2] =
        [(|q| [0.0, -200.0 * (q - 0.3).max(0.0)], Rule::Force), (|q| [50.0 * (q - 0.3).max(0.0), 0.0], Rule::Effort)];
    for (feels, rule) in feels {
        let bench = sideways();
        bench.set(|log| log.feels = Some(feels));
        for _ in 0..2 {
            let report = drive_on(&bench);
            assert_eq!((report.ended, of(&report, rule).map(|it| it.response)), (Ended::Held, Some(Response::Hold)));
            bench.reach(bench.robot.tick() + 30);
            let held = bench.robot.commanded()[0];
            assert!((0.4..0.8).contains(&held), "{held} rad");
        }
        assert_eq!(bench.finish(chunk(0, sweep(bench.robot.commanded()[0], 0.1))).unwrap().ended, Ended::Finished);
    }
}

#[test]
fn a_play_that_begins_out_of_reach_is_followed_slowly_and_refused_where_it_is_far_out() {
    let robot = Embodiment { discontinuity_rad: Some(1.0), ..Embodiment::so101() };
    let bench = Bench::of(robot, Pace::Lockstep, |_| [0.2, 0.0, 0.2]);
    // Due after 0.1 s, in which 0.2 rad are possible, and a tick's 0.02 rad are no news.
    let report = bench.finish(chunk(0, [0.5, 0.5, 0.5, 0.5])).unwrap();
    let jump = of(&report, Rule::Discontinuity).unwrap();
    assert_eq!((report.ended, jump.response, jump.joint), (Ended::Finished, Response::Slow, Some(0)));
    assert!((jump.excess - 0.28).abs() < 1e-3, "{} rad", jump.excess);
    assert!(of(&bench.finish(chunk(0, [0.71, 0.71, 0.71])).unwrap(), Rule::Discontinuity).is_none());

    let hold = bench.robot.hold_time();
    let before = bench.robot.play(chunk(0, [0.7, 0.6, 0.5, 0.4, 0.3]));
    let reaching = bench.robot.reach(bench.robot.tick() + 20);
    drop(hold);
    let moving = wait(reaching);
    let begin = bench.robot.commanded()[0];
    let teleporting = bench.robot.play(chunk(0, [-1.5, -1.5]));
    drop(moving);
    let report = wait(before).value.unwrap();
    assert_eq!(report.ended, Ended::Held);
    let report = wait(teleporting).value.unwrap();
    let jump = of(&report, Rule::Discontinuity).unwrap();
    assert_eq!((report.ended, jump.response), (Ended::Held, Response::Hold));
    bench.reach(bench.robot.tick() + 30);
    assert!((bench.robot.commanded()[0] - begin).abs() < 0.1, "the joint only came to rest");
    assert!(steepest(&bench.joint(0)).1 <= 12.01);
}

#[test]
fn the_filter_can_be_off_for_the_simulator_and_for_nothing_else() {
    let robot = Arc::new(Embodiment::so101());
    let off = || RobotOptions { pace: Pace::Lockstep, kinematics: Box::new(arm::tool_position), guard: Guard::Off };
    let simulator = Simulator::new(robot.clone(), &SceneSpec::tabletop(), 1);
    assert!(simulator.is_simulated());
    let unguarded = Robot::start(robot.clone(), Box::new(simulator), off()).unwrap();
    let beyond = chunk(5, (1..=17).map(|row| 0.3 + 0.1 * row as f32));
    let report = wait(unguarded.play(beyond)).value.unwrap();
    // Even the embodiment's own limits are no limits then.
    assert_eq!((report.ended, unguarded.commanded()[5]), (Ended::Finished, 2.0));
    let (link, ..) = Follower::new();
    assert_eq!(Robot::start(robot, Box::new(link), off()).err(), Some(RobotError::Unguarded));
}
