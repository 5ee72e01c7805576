//! How chunks and moves become motion.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod follower;

use std::collections::BTreeSet;

use proptest::prelude::*;

use follower::{Bench, REST, chunk, ends, steepest, wait};
use waza_robot::{Embodiment, Ended, Pace, Play, PlayError, Response, RobotError, Rule};

#[test]
fn every_row_is_reached_when_it_is_due_and_the_last_one_at_rest() {
    let bench = Bench::start(Pace::Lockstep);
    let rows = [0.02, 0.06, 0.1, 0.13, 0.15, 0.16];
    let report = bench.finish(Play { since_tick: Some(0), ..chunk(0, rows) }).unwrap();
    assert_eq!((report.ended, report.interventions), (Ended::Finished, vec![]));
    let commands = bench.joint(0);
    for (row, position) in rows.iter().enumerate().take(5) {
        assert!((commands[row * 10 + 9] - position).abs() < 1e-6, "row {row}");
    }
    // Its last row is reached at tick 70, and at tick 71 the joint has stood for a tick.
    assert_eq!((commands.len(), commands[69]), (71, 0.16));
    assert!(commands.is_sorted(), "no position between two rows leaves their range");
    assert!((commands[69] - commands[68]) * 100.0 < 0.02, "the joint comes to rest");
}

#[test]
fn a_joint_that_turns_at_a_row_does_not_swing_past_it() {
    let bench = Bench::start(Pace::Lockstep);
    let report = bench.finish(chunk(0, [0.01, 0.03, 0.05, 0.06, 0.02, -0.02, -0.04, -0.04])).unwrap();
    assert_eq!(report.interventions, []);
    let commands = bench.joint(0);
    let highest = commands.iter().copied().fold(f32::MIN, f32::max);
    let lowest = commands.iter().copied().fold(f32::MAX, f32::min);
    assert!(highest <= 0.06 + 1e-6 && lowest >= -0.04 - 1e-6, "from {lowest} to {highest}");
}

#[test]
fn a_joint_that_swings_past_the_last_row_is_back_on_it_before_its_play_ends() {
    let mut robot = Embodiment::so101();
    // 2^-10 rad per tick²: a joint that brakes stands for exactly one tick before it turns back.
    robot.joints[0].acceleration = 10_000.0 / 1024.0;
    let bench = Bench::of(robot, Pace::Lockstep, |_| [0.2, 0.0, 0.2]);
    // 0.78 rad/s until the last row, after which there are two ticks to lose it.
    let rows = (1..=60).map(|row| row as f32 / 128.0);
    let report = bench.finish(Play { rate_hz: 100.0, ..chunk(0, rows) }).unwrap();
    assert_eq!(report.ended, Ended::Finished);
    let commands = bench.joint(0);
    let highest = commands.iter().copied().fold(f32::MIN, f32::max);
    assert!(highest > 0.48 && commands.windows(2).any(|pair| pair == [highest; 2]), "it stood at {highest} rad");
    assert_eq!(bench.robot.commanded()[0], 0.46875);
}

#[test]
fn rows_that_are_late_are_skipped() {
    let bench = Bench::start(Pace::Lockstep);
    bench.reach(25);
    // Rows 0 and 1 were due at ticks 10 and 20.
    let report = bench.finish(Play { since_tick: Some(0), ..chunk(0, [-0.5, -0.5, 0.01, 0.05, 0.1]) }).unwrap();
    assert_eq!(report.ended, Ended::Finished);
    assert_eq!(report.interventions, []);
    assert!(bench.joint(0).iter().all(|position| *position >= 0.0), "nothing went back for a late row");
    assert!((bench.joint(0)[39] - 0.05).abs() < 1e-6, "row 3 is due at tick 40");
}

#[test]
fn a_chunk_whose_rows_are_all_late_moves_nothing_and_an_older_one_goes_on() {
    let bench = Bench::start(Pace::Lockstep);
    bench.reach(50);
    let hold = bench.robot.hold_time();
    let older = bench.robot.play(chunk(0, [0.05, 0.1, 0.15]));
    let late = bench.robot.play(Play { since_tick: Some(5), ..chunk(0, [-0.5, -0.5]) });
    drop(hold);
    assert_eq!(ends([late, older]), [Ended::Late, Ended::Finished]);
    assert_eq!(bench.robot.commanded()[0], 0.15);
}

#[test]
fn a_newer_chunk_takes_over_without_a_jerk() {
    let bench = Bench::start(Pace::Lockstep);
    let hold = bench.robot.hold_time();
    let older = bench.robot.play(chunk(0, (1..=16).map(|row| 0.04 * row as f32)));
    let reaching = bench.robot.reach(50);
    drop(hold);
    let moving = wait(reaching);
    // The newer chunk believes the joint to be 0.03 rad off.
    let newer =
        bench.robot.play(Play { since_tick: Some(44), ..chunk(0, (1..=8).map(|row| 0.206 + 0.04 * row as f32)) });
    drop(moving);
    assert_eq!(wait(older).value.unwrap().ended, Ended::Superseded);
    let report = wait(newer).value.unwrap();
    assert_eq!((report.ended, report.interventions), (Ended::Finished, vec![]));
    let commands = bench.joint(0);
    let (_, change) = steepest(&commands[30..80]);
    assert!(change < 6.0, "{change} rad/s² at the change of chunks");
    assert!((commands[93] - (0.206 + 0.04 * 5.0)).abs() < 1e-6, "the newer chunk has prevailed after 0.3 s");
}

#[test]
fn a_play_that_takes_one_joint_of_another_ends_it_and_the_rest_of_it_holds() {
    let bench = Bench::start(Pace::Lockstep);
    let rows = (1..=10).map(|row| REST.iter().map(|rest| rest + 0.03 * row as f32).collect()).collect();
    let both = Play { joints: [0, 1].into(), rate_hz: 10.0, rows, since_tick: None, within: None };
    let hold = bench.robot.hold_time();
    let older = bench.robot.play(both);
    let reaching = bench.robot.reach(40);
    drop(hold);
    let moving = wait(reaching);
    let newer = bench.robot.play(chunk(1, [-0.4, -0.4]));
    drop(moving);
    assert_eq!(ends([older, newer]), [Ended::Superseded, Ended::Finished]);
    let (first, last) = (bench.joint(0)[40], bench.robot.commanded()[0]);
    assert!(last - first < 0.01 && last < 0.15, "joint 0 went on to {last}");
    assert_eq!(bench.robot.commanded()[1], -0.4);
}

#[test]
fn holding_a_joint_ends_what_drives_it_and_nothing_else() {
    let bench = Bench::start(Pace::Lockstep);
    let hold = bench.robot.hold_time();
    let held = bench.robot.play(chunk(0, (1..=10).map(|row| 0.1 * row as f32)));
    let other = bench.robot.play(chunk(1, [-0.5, -0.4]));
    let reaching = bench.robot.reach(15);
    drop(hold);
    let moving = wait(reaching);
    bench.robot.hold(&[0].into());
    drop(moving);
    assert_eq!(ends([held, other]), [Ended::Held, Ended::Finished]);
    assert!(bench.robot.commanded()[0] < 0.25);
    assert!(steepest(&bench.joint(0)).1 <= 12.01);
}

#[test]
fn a_planned_move_arrives_together_at_rest_and_no_faster_than_asked() {
    let bench = Bench::start(Pace::Lockstep);
    let robot = Embodiment::so101();
    let target = [0.9, -0.2, 0.8, -0.4, 1.0, 1.2];
    let every = BTreeSet::from_iter(0..6);
    let planned = Play::joints_to(&robot, every, &bench.robot.commanded(), &target, 0.5).unwrap();
    let report = bench.finish(planned).unwrap();
    assert_eq!((report.ended, report.interventions), (Ended::Finished, vec![]));
    assert_eq!(bench.robot.commanded(), target);
    let halfway = bench.joint(0).len() / 2;
    for (index, joint) in robot.joints.iter().enumerate() {
        let (speed, change) = steepest(&bench.joint(index));
        assert!(speed <= 0.5 * joint.velocity + 1e-3, "{} at {speed} rad/s", joint.name);
        assert!(change <= joint.acceleration, "{} at {change} rad/s²", joint.name);
        let share = (bench.joint(index)[halfway] - REST[index]) / (target[index] - REST[index]);
        assert!(index == 2 || (share - 0.5).abs() < 0.03, "{} has {share} of its way behind it", joint.name);
    }
    // The slowest joint has 0.9 rad to go at 1 rad/s, and needs 1 / 11.4 s more for starting and stopping.
    let seconds = bench.joint(0).len() as f32 / 100.0;
    assert!((seconds - 0.99).abs() < 0.05, "{seconds} s");
}

#[test]
fn rows_that_jitter_as_a_models_do_are_played_within_the_limits_and_no_intervention() {
    let bench = Bench::start(Pace::Lockstep);
    let jitter = [0.0, 0.012, -0.012, 0.01, -0.01, 0.012, -0.01, 0.01, -0.012, 0.0];
    let rows: Vec<f32> = (1..).zip(jitter).map(|(row, off)| 0.12 * row as f32 - 0.08 + off).collect();
    let report = bench.finish(chunk(0, rows.clone())).unwrap();
    assert_eq!((report.ended, report.interventions), (Ended::Finished, vec![]));
    let commands = bench.joint(0);
    let (speed, change) = steepest(&commands);
    assert!(speed <= 2.001 && (11.9..=12.01).contains(&change), "{speed} rad/s, {change} rad/s²");
    for (row, position) in rows.iter().enumerate().take(9) {
        // A tick at full speed.
        assert!((commands[row * 10 + 9] - position).abs() < 0.02, "row {row}");
    }
}

#[test]
fn what_the_filter_changed_is_reported_with_the_play_and_counted() {
    let bench = Bench::start(Pace::Lockstep);
    let report = bench.finish(chunk(0, [1.0, 1.0])).unwrap();
    assert_eq!(report.ended, Ended::Finished);
    // The filter's order of rules.
    let [jump, slowed] = report.interventions[..] else { panic!("{:?}", report.interventions) };
    assert_eq!((jump.rule, jump.response, jump.joint), (Rule::Discontinuity, Response::Slow, Some(0)));
    assert_eq!((slowed.rule, slowed.response, slowed.joint), (Rule::Velocity, Response::Slow, Some(0)));
    let counted = bench.robot.statistics().interventions;
    assert_eq!(counted.keys().collect::<Vec<_>>(), [&Rule::Discontinuity, &Rule::Velocity]);
    assert_eq!(bench.robot.commanded()[0], 1.0, "a slowed chunk still arrives");
}

#[test]
fn a_tool_that_a_chunk_sends_below_the_table_stays_above_it() {
    let bench = Bench::with_tool(Pace::Lockstep, |q| [0.2, 0.2 * q[0], 0.1 - 0.2 * q[1]]);
    let mut low = chunk(1, [0.2, 0.45, 0.7, 0.7]);
    low.rows.iter_mut().for_each(|row| row[0] = 0.3);
    low.joints.insert(0);
    let report = bench.finish(low).unwrap();
    let lowest = bench.joint(1).into_iter().map(|q| 0.1 - 0.2 * q).fold(f32::MAX, f32::min);
    assert!(lowest >= 0.002 - 1.1e-5, "the tool was at {lowest} m");
    assert!((bench.robot.commanded()[0] - 0.3).abs() < 1e-6, "the other joint got where it was sent");
    assert!(report.interventions.iter().any(|it| it.rule == Rule::Workspace), "{:?}", report.interventions);
}

#[test]
fn a_play_that_makes_no_sense_is_refused_before_anything_moves() {
    let bench = Bench::start(Pace::Lockstep);
    let good = chunk(0, [0.1, 0.2]);
    let refused = |play: Play| match bench.finish(play).unwrap_err() {
        RobotError::Play(error) => error,
        other => panic!("{other}"),
    };
    assert_eq!(refused(Play { joints: [].into(), ..good.clone() }), PlayError::NoJoints);
    assert!(matches!(
        refused(Play { joints: [0, 6].into(), ..good.clone() }),
        PlayError::UnknownJoint { joint: 6, .. }
    ));
    assert_eq!(refused(Play { rows: vec![], ..good.clone() }), PlayError::NoRows);
    assert_eq!(
        refused(Play { rows: vec![REST.to_vec(), vec![0.0; 5]], ..good.clone() }),
        PlayError::Width { row: 1, width: 5, expected: 6 }
    );
    assert!(matches!(refused(chunk(0, [0.1, f32::INFINITY])), PlayError::NotFinite { row: 1, .. }));
    for rate_hz in [0.0, -1.0, f32::NAN, 100.1] {
        assert!(matches!(refused(Play { rate_hz, ..good.clone() }), PlayError::Rate { .. }), "{rate_hz}");
    }
    assert_eq!(refused(Play { rate_hz: 1e-30, ..good.clone() }), PlayError::TooLong { seconds: 2e30 });
    assert_eq!(
        refused(Play { since_tick: Some(u64::MAX), ..good.clone() }),
        PlayError::FarFuture { since_tick: u64::MAX, tick: 0 }
    );
    assert_eq!(bench.robot.commanded(), REST);
}

#[test]
fn a_move_that_makes_no_sense_is_refused_when_it_is_planned() {
    let robot = Embodiment::so101();
    let planned = |target: &[f32], speed| Play::joints_to(&robot, [0, 5].into(), &REST, target, speed).unwrap_err();
    let mut target = REST;
    for speed in [0.0, 1.1, f32::NAN] {
        assert!(matches!(planned(&target, speed), PlayError::Speed(_)));
    }
    assert!(matches!(planned(&[0.0; 3], 1.0), PlayError::Width { width: 3, .. }));
    target[5] = f32::NAN;
    assert!(matches!(planned(&target, 1.0), PlayError::NotFinite { .. }));
    target[5] = 2.0;
    let error = planned(&target, 1.0);
    assert_eq!(error.to_string(), "the move would take joint gripper to 2 rad, its limits are -0.17453 to 1.74533 rad");
    target[5] = 1.0;
    assert!(matches!(planned(&target, 1e-6), PlayError::TooLong { .. }));
}

#[test]
fn a_move_of_more_ticks_than_can_be_counted_is_too_long_however_it_is_rounded() {
    let mut robot = Embodiment::so101();
    (robot.joints[0].velocity, robot.joints[0].jerk) = (1e-9, Some(100.0));
    let mut target = REST;
    target[0] += 0.5;
    let planned = Play::joints_to(&robot, [0].into(), &REST, &target, 1.0);
    assert!(matches!(planned, Err(PlayError::TooLong { .. })), "{planned:?}");
}

/// Any rows at any rate for any joints, due from long ago until long after.
fn any_play() -> impl Strategy<Value = Play> {
    let row = prop::collection::vec(-3.5_f32..3.5, 6);
    (
        prop::collection::btree_set(0_usize..6, 1..=6),
        0.5_f32..=100.0,
        prop::collection::vec(row, 1..12),
        prop::option::of(0_u64..150),
    )
        .prop_map(|(joints, rate_hz, rows, since_tick)| Play { joints, rate_hz, rows, since_tick, within: None })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_played_over_whatever_moves_every_limit_is_kept(
        plays in prop::collection::vec((any_play(), 1_u64..40), 1..8)
    ) {
        let bench = Bench::start(Pace::Lockstep);
        let mut hold = bench.robot.hold_time();
        for (play, ticks) in plays {
            drop(bench.robot.play(play));
            let reaching = bench.robot.reach(bench.robot.tick() + ticks);
            drop(hold);
            hold = wait(reaching).hold;
        }
        drop(hold);
        bench.reach(400);
        for (index, joint) in Embodiment::so101().joints.iter().enumerate() {
            let commands = bench.joint(index);
            let (speed, change) = steepest(&commands);
            let [low, high] = joint.position;
            prop_assert!(commands.iter().all(|position| (low..=high).contains(position)), "{}", joint.name);
            prop_assert!(speed <= joint.velocity + 1e-3, "{} at {} rad/s", joint.name, speed);
            prop_assert!(change <= joint.acceleration + 2e-2, "{} at {} rad/s²", joint.name, change);
        }
    }
}

#[test]
fn a_chunk_that_acted_on_too_old_an_observation_moves_nothing_and_says_so() {
    let bench = Bench::start(Pace::Lockstep);
    bench.reach(700);
    let old = Play { since_tick: Some(100), ..chunk(0, vec![0.3; 100]) };
    let report = bench.finish(old.clone()).unwrap();
    assert_eq!(report.ended, Ended::Late);
    let [aged] = report.interventions[..] else { panic!("{:?}", report.interventions) };
    // 6 s old, and a tick; 5 s are allowed.
    assert_eq!((aged.rule, aged.response), (Rule::CommandAge, Response::Hold));
    assert!((aged.excess - 1.01).abs() < 1e-3, "{} s", aged.excess);
    assert_eq!(bench.robot.commanded(), REST);
    assert_eq!(bench.finish(Play { since_tick: Some(600), ..old }).unwrap().ended, Ended::Finished);
}
