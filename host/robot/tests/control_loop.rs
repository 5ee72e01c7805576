//! What the control loop promises whoever holds a robot: observations, the host stop, a link that fails, the end.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod follower;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use follower::{Bench, REST, chunk, ends, steepest, wait};
use waza_robot::{Embodiment, Ended, Guard, LinkError, Pace, Robot, RobotError, RobotOptions, Rule};

#[test]
fn an_observation_is_of_the_tick_at_which_it_was_served_and_only_then_are_cameras_read() {
    let bench = Bench::start(Pace::Lockstep);
    bench.reach(7);
    assert_eq!(bench.log.lock().unwrap().captures, 0);
    let (first, second) = (bench.robot.observe(), bench.robot.observe());
    let seen = wait(first).value.unwrap();
    assert_eq!((seen.tick, seen.taken_ns), (8, 80_000_000));
    assert_eq!((seen.joints.positions.as_slice(), seen.frames.len()), (REST.as_slice(), 2));
    assert_eq!(seen.windows[0].values.len(), 8 * 6);
    wait(second).value.unwrap();
    assert!(bench.log.lock().unwrap().captures <= 2);
}

#[test]
fn a_camera_that_fails_is_told_to_the_observer_and_disturbs_no_motion() {
    let bench = Bench::start(Pace::Lockstep);
    bench.set(|log| log.cameras_fail = true);
    let hold = bench.robot.hold_time();
    let playing = bench.robot.play(chunk(0, [0.1, 0.2]));
    let observing = bench.robot.observe();
    drop(hold);
    let error = wait(observing).value.unwrap_err();
    assert_eq!(error.to_string(), "the robot link failed: the front camera is gone");
    assert_eq!(wait(playing).value.unwrap().ended, Ended::Finished);
}

#[test]
fn the_host_stop_ends_plays_brakes_within_the_limits_and_latches() {
    let bench = Bench::start(Pace::Lockstep);
    let hold = bench.robot.hold_time();
    let playing = bench.robot.play(chunk(0, [0.02, 0.06, 0.12, 0.2, 0.28, 0.36]));
    let reaching = bench.robot.reach(30);
    drop(hold);
    let moving = wait(reaching);
    bench.robot.stop();
    drop(moving);
    let report = wait(playing).value.unwrap();
    assert_eq!(report.ended, Ended::Stopped);
    assert_eq!(
        report.interventions.iter().map(|it| (it.rule, it.first_tick)).collect::<Vec<_>>(),
        [(Rule::HostStop, 31)]
    );
    // 0.7 rad/s at most, 12 rad/s² to lose it.
    bench.reach(45);
    let commands = bench.joint(0);
    assert!(steepest(&commands).1 <= 12.01);
    assert_eq!(commands[40], commands[44]);
    assert!(bench.robot.is_stopped());
    assert_eq!(bench.finish(chunk(0, [0.0])).unwrap().ended, Ended::Stopped);

    assert!(bench.robot.reset(bench.robot.stopped().unwrap()));
    bench.reach(100);
    assert_eq!(bench.joint(0)[99], commands[44], "resetting the stop moves nothing");
    assert_eq!(bench.finish(chunk(0, [0.12])).unwrap().ended, Ended::Finished);
    assert_eq!(bench.robot.statistics().interventions, BTreeMap::from([(Rule::HostStop, 1)]));
}

#[test]
fn a_stop_that_is_reset_before_the_next_tick_still_ends_what_was_asked_before_it() {
    let bench = Bench::start(Pace::Lockstep);
    let hold = bench.robot.hold_time();
    let playing = bench.robot.play(chunk(0, [0.1, 0.2, 0.3, 0.4]));
    let reaching = bench.robot.reach(20);
    drop(hold);
    let moving = wait(reaching);
    let asked_before = bench.robot.play(chunk(1, [-0.59]));
    bench.robot.stop();
    assert!(bench.robot.reset(bench.robot.stopped().unwrap()));
    let asked_after = bench.robot.play(chunk(2, [0.79, 0.78, 0.77, 0.76, 0.75, 0.74]));
    drop(moving);
    let ended = ends([playing, asked_before, asked_after]);
    assert_eq!(ended, [Ended::Stopped, Ended::Stopped, Ended::Finished]);
    assert!(bench.joint(1).iter().all(|position| *position == REST[1]));
}

#[test]
fn a_link_that_fails_ends_plays_and_the_robot_brakes_until_it_is_back() {
    let bench = Bench::start(Pace::Lockstep);
    let hold = bench.robot.hold_time();
    let playing = bench.robot.play(chunk(0, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]));
    let reaching = bench.robot.reach(30);
    drop(hold);
    let moving = wait(reaching);
    bench.set(|log| log.reads_fail = true);
    drop(moving);
    let cable = RobotError::Link(LinkError("the cable is out".into()));
    assert_eq!(wait(playing).value, Err(cable.clone()));
    assert_eq!(wait(bench.robot.observe()).value.unwrap_err(), cable);
    assert_eq!(bench.finish(chunk(0, [0.0])), Err(cable));
    bench.reach(60);
    let commands = bench.joint(0);
    assert!(steepest(&commands).1 <= 12.01);
    assert_eq!(commands[45], commands[59]);
    assert!(bench.robot.statistics().link_errors >= 30);

    bench.set(|log| log.reads_fail = false);
    assert_eq!(bench.finish(chunk(0, [0.5])).unwrap().ended, Ended::Finished);
    assert_eq!(bench.robot.commanded()[0], 0.5);
}

#[test]
fn a_command_that_does_not_arrive_ends_plays() {
    let bench = Bench::start(Pace::Lockstep);
    bench.set(|log| log.writes_fail = true);
    let error = bench.finish(chunk(0, [0.1])).unwrap_err();
    assert_eq!(error.to_string(), "the robot link failed: the bus is busy");
}

#[test]
fn a_robot_that_was_moved_while_its_link_was_down_is_not_snapped_back() {
    let bench = Bench::start(Pace::Lockstep);
    bench.reach(3);
    bench.set(|log| log.reads_fail = true);
    bench.reach(6);
    let mut found = REST.to_vec();
    found[1] = 0.4;
    bench.set(|log| (log.reads_fail, log.reading) = (false, Some(found.clone())));
    bench.reach(10);
    assert_eq!(bench.robot.commanded(), found);
}

#[test]
fn a_reading_that_is_no_number_or_of_the_wrong_width_is_a_link_error() {
    let bench = Bench::start(Pace::Lockstep);
    for (reading, expected) in [
        (vec![0.0, f32::NAN, 0.0, 0.0, 0.0, 0.0], "it read NaN among the positions, for joint shoulder_lift"),
        (vec![0.0; 5], "it read 5 positions of 6 joints"),
    ] {
        bench.set(|log| log.reading = Some(reading));
        let error = wait(bench.robot.observe()).value.unwrap_err();
        assert_eq!(error, RobotError::Link(LinkError(expected.into())));
    }
}

#[test]
fn a_robot_whose_link_cannot_be_read_does_not_start() {
    struct Unplugged;
    impl waza_robot::Link for Unplugged {
        fn read_into(&mut self, _: &mut waza_robot::observation::Measurement) -> Result<(), LinkError> {
            Err(LinkError("no device at the port".into()))
        }
        fn write(&mut self, _: &[f32]) -> Result<(), LinkError> {
            panic!("a robot that was never read must not be commanded")
        }
        fn capture(&mut self) -> Result<Vec<waza_robot::Frame>, LinkError> {
            Ok(Vec::new())
        }
    }
    let options =
        RobotOptions { pace: Pace::RealTime, kinematics: Box::new(|_: &[f32]| [0.2, 0.0, 0.2]), guard: Guard::On };
    let started = Robot::start(Arc::new(Embodiment::so101()), Box::new(Unplugged), options);
    assert_eq!(started.err(), Some(RobotError::Link(LinkError("no device at the port".into()))));
}

#[test]
fn the_loop_ends_after_a_hold_when_the_last_handle_is_dropped() {
    for pace in [Pace::Lockstep, Pace::RealTime] {
        let Bench { robot, log, dropped } = Bench::start(pace);
        let hold = robot.hold_time();
        let playing = robot.play(chunk(0, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]));
        let reaching = robot.clone().reach(30);
        drop(hold);
        let moving = wait(reaching);
        drop(robot);
        dropped.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(wait(playing).value, Err(RobotError::Ended));
        drop(moving);
        let commands: Vec<f32> = log.lock().unwrap().commands.iter().map(|command| command[0]).collect();
        let [before, last] = commands[commands.len() - 2..] else { panic!("the loop ticked") };
        assert_eq!(before, last, "{pace:?}");
        assert!(steepest(&commands).1 <= 12.01);
    }
}

#[test]
fn a_link_that_panics_leaves_nobody_waiting() {
    let bench = Bench::start(Pace::Lockstep);
    bench.set(|log| log.panics = true);
    assert_eq!(wait(bench.robot.observe()).value.unwrap_err(), RobotError::Ended);
    assert_eq!(wait(bench.robot.reach(9)).value, Err(RobotError::Ended));
}

#[test]
fn real_time_passes_at_the_control_rate_whoever_holds_time() {
    let bench = Bench::start(Pace::RealTime);
    let _hold = bench.robot.hold_time();
    let began = std::time::Instant::now();
    let first = wait(bench.robot.reach(0)).value.unwrap();
    let tick = wait(bench.robot.reach(first + 30)).value.unwrap();
    assert_eq!(tick, first + 30);
    // 30 periods of 10 ms; a loaded machine may take longer, none may take less.
    assert!(began.elapsed() >= Duration::from_millis(289), "{:?}", began.elapsed());
}

#[test]
fn a_link_that_drops_for_300_ms_and_returns_resumes_nothing_that_was_asked_before() {
    let bench = Bench::start(Pace::Lockstep);
    let hold = bench.robot.hold_time();
    let playing = bench.robot.play(chunk(0, (1..=10).map(|row| 0.1 * row as f32)));
    let reaching = bench.robot.reach(30);
    drop(hold);
    let moving = wait(reaching);
    bench.set(|log| log.reads_fail = true);
    let asked_while_down = bench.robot.play(chunk(0, [0.9]));
    drop(moving);
    let cable = RobotError::Link(LinkError("the cable is out".into()));
    assert_eq!(wait(playing).value, Err(cable.clone()));
    assert_eq!(wait(asked_while_down).value, Err(cable));
    bench.reach(60);
    bench.set(|log| log.reads_fail = false);
    bench.reach(200);
    let commands = bench.joint(0);
    assert!(commands[59] < 0.5 && commands[60..].iter().all(|position| *position == commands[59]));
    assert_eq!(bench.finish(chunk(0, [0.4])).unwrap().ended, Ended::Finished);
    assert_eq!(bench.robot.commanded()[0], 0.4);
}

#[test]
fn a_camera_that_freezes_is_known_by_the_age_of_its_newest_frame() {
    let bench = Bench::start(Pace::Lockstep);
    let robot = Embodiment::so101();
    let look = |frame| {
        bench.set(|log| log.frame = frame);
        let seen = wait(bench.robot.observe()).value.unwrap();
        (seen.frame_ages_ns.clone(), seen.frozen(&robot).collect::<Vec<_>>())
    };
    assert_eq!(look(None), (vec![None, None], vec![]));
    assert_eq!(look(Some(7)), (vec![Some(0), None], vec![]));
    // Five periods of a camera of 10 Hz are fine, a tick more is not.
    bench.reach(51);
    assert_eq!(look(Some(7)), (vec![Some(500_000_000), None], vec![]));
    assert_eq!(look(Some(7)), (vec![Some(510_000_000), None], vec!["front"]));
    assert_eq!(look(Some(8)), (vec![Some(0), None], vec![]));
}

#[test]
fn a_clock_that_leaps_ends_every_play_and_the_robot_holds_until_something_new_is_played() {
    let bench = Bench::start(Pace::RealTime);
    let playing = bench.robot.play(chunk(0, (1..=40).map(|row| 0.02 * row as f32)));
    let first = wait(bench.robot.reach(0)).value.unwrap();
    bench.reach(first + 20);
    // To a loop with deadlines, a command that takes 0.4 s is a clock that leaps.
    bench.set(|log| log.work = Duration::from_millis(400));
    let report = wait(playing).value.unwrap();
    bench.set(|log| log.work = Duration::ZERO);
    assert_eq!(report.ended, Ended::Held);
    assert_eq!(report.interventions.iter().map(|it| it.rule).collect::<Vec<_>>(), [Rule::ClockJump]);
    assert!(bench.robot.statistics().interventions.contains_key(&Rule::ClockJump));
}
