//! What a play under stricter limits keeps, and that they come and go without a jerk or a gap.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod follower;

use std::collections::BTreeSet;
use std::sync::Arc;

use follower::{Bench, REST, chunk, steepest, wait};
use waza_robot::embodiment::JointTightening;
use waza_robot::embodiment::Workspace;
use waza_robot::{Embodiment, Ended, Pace, Play, PlayError, RobotError, Rule, Tightening, Within};

/// The shoulder's limits made stricter.
fn shoulder(
    bench: &Bench,
    position: Option<[f32; 2]>,
    velocity: Option<f32>,
    acceleration: Option<f32>,
) -> Arc<Within> {
    let name = "shoulder_pan".into();
    let joint = JointTightening { name, position, velocity, acceleration, ..JointTightening::default() };
    bench.robot.within(&Tightening { joints: vec![joint], ..Tightening::default() }, "skill.toml").unwrap()
}

/// Turns the shoulder to a position at as full a speed as it may.
fn turn(bench: &Bench, target: f32, within: Option<Arc<Within>>) -> Play {
    let from = bench.robot.commanded();
    let mut there = from.clone();
    there[0] = target;
    let robot = within.as_ref().map_or(&**bench.robot.embodiment(), |within| within.embodiment());
    Play::joints_to(robot, [0].into(), &from, &there, 1.0).unwrap().within(within)
}

#[test]
fn a_play_under_stricter_limits_keeps_them_and_the_next_one_has_the_robots_again() {
    let bench = Bench::start(Pace::Lockstep);
    let careful = shoulder(&bench, Some([-0.4, 0.4]), Some(0.5), Some(2.0));
    // The rows ask for more of everything.
    let report = bench.finish(chunk(0, [0.1, 0.5, 0.9, 1.0, 1.0, 1.0]).within(Some(careful.clone()))).unwrap();
    let rules: Vec<_> = report.interventions.iter().map(|it| it.rule).collect();
    assert!(rules.contains(&Rule::Position) && rules.contains(&Rule::Velocity), "{rules:?}");
    let commands = bench.joint(0);
    let (speed, change) = steepest(&commands);
    assert!(speed <= 0.5 + 1e-4 && change <= 2.0 + 1e-2, "{speed} rad/s, {change} rad/s²");
    assert!(speed > 0.49, "{speed} rad/s");
    assert_eq!(bench.robot.commanded()[0], 0.4);

    let begin = bench.joint(0).len();
    assert_eq!(bench.finish(turn(&bench, -0.8, None)).unwrap().interventions, []);
    let (speed, _) = steepest(&bench.joint(0)[begin..]);
    assert!((1.9..=2.001).contains(&speed), "{speed} rad/s");

    // A move that was planned for what is left goes through unchanged.
    assert_eq!(
        bench.finish(turn(&bench, 0.3, Some(shoulder(&bench, None, Some(0.5), None)))).unwrap().interventions,
        []
    );
}

#[test]
fn a_joint_that_is_faster_than_its_new_driver_may_be_slows_within_its_acceleration() {
    let bench = Bench::start(Pace::Lockstep);
    let hold = bench.robot.hold_time();
    drop(bench.robot.play(turn(&bench, 1.8, None)));
    let reaching = bench.robot.reach(50);
    drop(hold);
    let moving = wait(reaching);
    let careful = shoulder(&bench, None, Some(0.3), Some(4.0));
    let here = bench.robot.commanded()[0];
    let playing = bench.robot.play(chunk(0, (1..=30).map(|row| here + 0.03 * row as f32)).within(Some(careful)));
    drop(moving);
    assert_eq!(wait(playing).value.unwrap().ended, Ended::Finished);
    let commands = bench.joint(0);
    assert!(steepest(&commands[..51]).0 > 1.9, "it was fast");
    // 1.7 rad/s are lost in 0.43 s, and never regained.
    assert!(steepest(&commands[100..]).0 <= 0.3 + 1e-4);
    assert!(steepest(&commands[50..]).1 <= 4.0 + 1e-2);
}

#[test]
fn a_joint_outside_its_new_drivers_range_only_moves_inwards_and_brakes_as_hard_as_it_can() {
    let bench = Bench::start(Pace::Lockstep);
    bench.finish(turn(&bench, 1.0, None)).unwrap();
    let begin = bench.joint(0).len();
    let near = shoulder(&bench, Some([-0.5, 0.5]), None, None);
    bench.finish(chunk(0, [1.2, 1.2, 1.2, 1.0]).within(Some(near.clone()))).unwrap();
    let commands = bench.joint(0)[begin..].to_vec();
    assert!(commands.windows(2).all(|pair| pair[1] <= pair[0]));
    assert_eq!(*commands.last().unwrap(), 0.5);

    // At full speed towards the edge of the robot's own range, under an acceleration that could not stop it there.
    let hold = bench.robot.hold_time();
    drop(bench.robot.play(turn(&bench, 1.91986, None)));
    let reaching = bench.robot.reach(bench.robot.tick() + 70);
    drop(hold);
    let moving = wait(reaching);
    let playing = bench.robot.play(chunk(0, [3.0; 5]).within(Some(shoulder(&bench, None, None, Some(0.5)))));
    drop(moving);
    wait(playing).value.unwrap();
    let highest = bench.joint(0).into_iter().fold(f32::MIN, f32::max);
    assert!(highest <= 1.91986 && steepest(&bench.joint(0)).1 <= 12.0 + 2e-2, "{highest} rad");
}

#[test]
fn a_driver_under_stricter_limits_keeps_them_and_the_next_one_has_the_robots_again() {
    let bench = Bench::start(Pace::Lockstep);
    let drive = |within: Option<Arc<Within>>, target: f32| {
        let begin = bench.joint(0).len();
        let mut drive = bench.robot.drive(&BTreeSet::from([0]), within).unwrap();
        for _ in 0..150 {
            let mut positions = wait(drive.next()).unwrap().joints.positions.clone();
            positions[0] = target;
            drive.demand(&positions).unwrap();
        }
        let report = wait(drive.end()).value.unwrap();
        (report, bench.joint(0)[begin..].to_vec())
    };
    let careful = shoulder(&bench, Some([-0.4, 0.4]), Some(0.5), Some(2.0));
    let (report, commands) = drive(Some(careful), 1.0);
    let rules: Vec<_> = report.interventions.iter().map(|it| it.rule).collect();
    assert!(rules.contains(&Rule::Position) && rules.contains(&Rule::Velocity), "{rules:?}");
    let (speed, change) = steepest(&commands);
    assert!(speed <= 0.5 + 1e-4 && change <= 2.0 + 1e-2, "{speed} rad/s, {change} rad/s²");
    assert_eq!((bench.robot.commanded()[0], commands.last()), (0.4, Some(&0.4)));

    let (_, commands) = drive(None, -0.8);
    assert!(steepest(&commands).0 > 1.9 && bench.robot.commanded()[0] == -0.8);

    let theirs = Arc::new(Embodiment { name: "another".into(), ..Embodiment::so101() });
    let theirs = theirs.within(&Tightening::default(), "skill.toml").unwrap();
    let error = bench.robot.drive(&BTreeSet::from([0]), Some(theirs)).err().unwrap();
    assert!(matches!(error, RobotError::Play(PlayError::ForeignLimits { .. })), "{error}");
}

#[test]
fn the_places_of_a_play_are_kept_while_it_drives_and_by_whatever_else_moves_the_arm() {
    let bench = Bench::with_tool(Pace::Lockstep, |q| [0.2, 0.2 * q[0], 0.2]);
    let workspace = Some(Workspace { min: [-1.0, -0.1, -1.0], max: [1.0, 0.1, 1.0] });
    let narrow = bench.robot.within(&Tightening { workspace, ..Tightening::default() }, "skill.toml").unwrap();
    let hold = bench.robot.hold_time();
    let gripper = bench.robot.play(chunk(5, [0.3; 20]).within(Some(narrow)));
    let arm = bench.robot.play(chunk(0, [0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0]));
    drop(hold);
    assert!(wait(arm).value.unwrap().interventions.iter().any(|it| it.rule == Rule::Workspace));
    let furthest = 0.2 * bench.robot.commanded()[0];
    assert!((0.09..=0.1 + 1.1e-5).contains(&furthest), "{furthest} m");
    wait(gripper).value.unwrap();
    assert_eq!(bench.finish(turn(&bench, 1.0, None)).unwrap().interventions, []);
}

#[test]
fn a_play_acts_on_no_older_an_observation_than_its_own_limits_allow() {
    let bench = Bench::start(Pace::Lockstep);
    bench.reach(300);
    let old = Play { since_tick: Some(100), ..chunk(0, vec![0.05; 40]) };
    let fresh = Tightening { command_age_s: Some(1.0), ..Tightening::default() };
    let report = bench.finish(old.clone().within(Some(bench.robot.within(&fresh, "skill.toml").unwrap()))).unwrap();
    assert_eq!((report.ended, report.interventions[0].rule), (Ended::Late, Rule::CommandAge));
    assert_eq!(bench.finish(old).unwrap().ended, Ended::Finished);
}

#[test]
fn a_play_begins_no_further_out_of_reach_than_its_own_limits_allow() {
    let bench = Bench::start(Pace::Lockstep);
    let far = || chunk(0, [0.5, 0.5, 0.5]);
    let near = Tightening { discontinuity_rad: Some(0.1), ..Tightening::default() };
    let report = bench.finish(far().within(Some(bench.robot.within(&near, "skill.toml").unwrap()))).unwrap();
    assert_eq!((report.ended, report.interventions[0].rule), (Ended::Held, Rule::Discontinuity));
    assert_eq!(bench.robot.commanded(), REST, "it moved nothing");
    assert_eq!(bench.finish(far()).unwrap().ended, Ended::Finished);
}

#[test]
fn limits_that_were_made_for_another_robot_are_refused() {
    let bench = Bench::start(Pace::Lockstep);
    let mut other = Embodiment::so101();
    other.joints[0].velocity = 9.0;
    let theirs = Arc::new(other).within(&Tightening::default(), "skill.toml").unwrap();
    let error = bench.finish(chunk(0, [0.1]).within(Some(theirs))).unwrap_err();
    assert!(matches!(error, RobotError::Play(PlayError::ForeignLimits { .. })), "{error}");
    assert_eq!(bench.robot.commanded(), REST);
}
