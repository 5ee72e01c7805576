//! Leases, chunks, planned moves and rollouts.

use std::time::Duration;

use waza_robot::Pace;
use waza_runtime::{Event, HostOptions, Refusal, SkillError, SkillId, TaskRequest};

use crate::fixture::{ALL, Bench, REST, Turner};
use crate::packages::{component, manifest};

fn refused(ended: Result<impl std::fmt::Debug, SkillError>) -> Refusal {
    match ended.unwrap_err() {
        SkillError::Returned { refusal, .. } => refusal,
        other => panic!("{other}"),
    }
}

#[test]
fn a_planned_move_ends_at_its_target() {
    let bench = Bench::new();
    assert_eq!(bench.data("move: 0.4"), "0");
    assert!((bench.newest(0, 1)[0] - 0.4).abs() < 1e-4);
    assert!(matches!(refused(bench.run("move: 9")), Refusal::Invalid(why) if why.contains("shoulder_pan")));
}

#[test]
fn everything_that_a_skill_plays_keeps_to_the_limits_of_its_manifest() {
    let bench = Bench::new();
    let limits = "[[limits.joints]]\nname = \"shoulder_pan\"\nposition = [-0.1, 0.3]\nvelocity = 0.15\n";
    let told = format!("{}{limits}", manifest("conduct", ALL));
    bench.host.load(&bench.package_of("conduct", &told, &component("conduct"))).unwrap();
    // The model turns the shoulder by 0.2 rad/s, the hand-made chunk to 0.2 rad at once.
    for instruction in ["roll out: 4", "play", "move: 0.0"] {
        bench.run(instruction).unwrap();
    }
    let pans: Vec<_> = bench.commands.lock().unwrap().iter().map(|it| it[0]).collect();
    let fastest = pans.windows(2).map(|pair| (pair[1] - pair[0]).abs() * 100.0).fold(0.0, f32::max);
    assert!((0.14..=0.1501).contains(&fastest), "{fastest} rad/s");
    assert!(pans.iter().all(|pan| (-0.1..=0.3).contains(pan)));
    let Refusal::Invalid(why) = refused(bench.run("move: 0.4")) else { panic!() };
    assert!(why.contains("its limits are -0.1 to 0.3 rad"), "{why}");
}

#[test]
fn a_chunk_made_by_hand_plays_to_its_last_row() {
    let bench = Bench::new();
    bench.run("play").unwrap();
    assert!((bench.newest(0, 1)[0] - 0.2).abs() < 1e-4);
    let Refusal::Invalid(why) = refused(bench.run("play narrow rows")) else { panic!() };
    assert!(why.contains("1 values"), "{why}");
}

#[test]
fn a_chunk_of_the_models_starts_at_the_row_that_is_due() {
    let bench = Bench::new();
    bench.run("play what the model says: turn").unwrap();
    let last = bench.newest(0, 1)[0];
    assert!((last - 16.0 * 0.02).abs() < 1e-4, "{last}");
    // 16 rows of 100 ms from the observation on, not from when the model had answered.
    let moving = bench.commands.lock().unwrap().iter().filter(|it| it[0] > 0.0 && it[0] < last - 1e-4).count();
    assert!((140..175).contains(&moving), "{moving} ticks");
}

#[test]
fn a_rollout_keeps_asking_while_the_arm_moves_and_the_arm_holds_at_its_end() {
    let bench = Bench::new();
    let data = bench.data("roll out: 4");
    // The first chunk after 0.06 s, then one every 8 rows.
    assert!(data.starts_with("5 chunks, "), "{data}");
    let observations: usize = data.split(", ").nth(2).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((38..=41).contains(&observations), "{data}");
    let asked = bench.asked.lock().unwrap().len();
    assert_eq!(asked, 5);
    let inferences = bench.events.lock().unwrap().iter().filter(|it| matches!(it, Event::Inference { .. })).count();
    assert_eq!(inferences, asked);
    // The model turns on from where the arm is when it is asked, so the arm never stops in between.
    let pans: Vec<_> = bench.commands.lock().unwrap().iter().map(|it| it[0]).collect();
    assert!(pans[50..380].windows(2).all(|pair| pair[1] > pair[0]), "the arm stood still");
    bench.assert_the_arm_holds();
}

#[test]
fn a_rollout_asks_for_the_next_chunk_after_as_many_rows_as_the_checkpoint_says() {
    let asked = |action_steps| {
        let mut turner = Turner::new(Duration::from_millis(1));
        turner.about.action_steps = action_steps;
        let asked = turner.asked.clone();
        let bench = Bench::asking(turner, Pace::Lockstep, HostOptions::default(), ALL);
        bench.run("roll out: 4").unwrap();
        asked.lock().unwrap().len()
    };
    // In 4 s of 10 rows a second. Where nothing is said, half of the 16 rows.
    assert_eq!((asked(None), asked(Some(8)), asked(Some(16))), (5, 5, 3));
    let every_second = asked(Some(2));
    assert!((18..=20).contains(&every_second), "{every_second}");
}

#[test]
fn a_rollout_that_nobody_reads_any_more_ends_and_the_arm_holds_though_the_lease_remains() {
    let bench = Bench::new();
    bench.run("roll out and look away").unwrap();
    assert_eq!(bench.asked.lock().unwrap().len(), 1);
    let pans = bench.newest(0, 40);
    assert!(pans[0] > 0.0 && pans.windows(2).all(|pair| pair[0] == pair[1]), "{pans:?}");
}

#[test]
fn a_lease_that_is_dropped_while_its_rollout_runs_stops_the_arm() {
    let bench = Bench::new();
    bench.run("leave the rollout running").unwrap();
    assert!(bench.newest(0, 1)[0] > 0.0, "the arm never moved");
    bench.assert_the_arm_holds();
}

#[test]
fn a_rollout_ends_with_what_the_model_says_when_it_cannot_answer() {
    let bench = Bench::new();
    let error = refused(bench.run("act: fly"));
    assert!(matches!(&error, Refusal::Failed(why) if why.contains("no image")), "{error:?}");
}

#[test]
fn a_joint_is_in_one_lease_at_a_time_and_the_refusal_names_its_holder() {
    let bench = Bench::with(Pace::RealTime, HostOptions::default(), ALL);
    let other = manifest("other", ALL);
    bench.host.load(&bench.package_of("other", &other, &component("conduct"))).unwrap();
    let request = TaskRequest { instruction: "hold the arm".into(), ..TaskRequest::default() };
    let holding = bench.host.run("test/other", request, |_| ());
    bench.reach(bench.robot.tick() + 20);
    let Refusal::Unavailable(why) = refused(bench.run("acquire: arm")) else { panic!() };
    assert_eq!(why, "test/other holds the joint shoulder_pan");
    bench.run("acquire: gripper").unwrap();
    futures_executor::block_on(holding).value.unwrap();
    bench.run("acquire: arm").unwrap();
}

#[test]
fn a_skill_whose_lease_was_revoked_is_preempted_and_the_arm_holds() {
    let bench = Bench::with(Pace::RealTime, HostOptions::default(), ALL);
    let moving = bench.start("keep moving");
    while bench.robot.commanded()[0] <= 0.02 {
        bench.reach(bench.robot.tick() + 1);
    }
    let id: SkillId = "test/conduct".to_owned().try_into().unwrap();
    bench.host.revoke(&id);
    let ended = futures_executor::block_on(moving).value;
    assert!(matches!(refused(ended), Refusal::Preempted(_)));
    bench.assert_the_arm_holds();
}

#[test]
fn the_gripper_closes_until_it_feels_what_it_holds() {
    let bench = Bench::new();
    let opening: f32 = bench.data("grip: 0").parse().unwrap();
    // The object keeps the gripper at 0.1 rad of -0.175 to 1.745.
    assert!((opening - 0.143).abs() < 0.01, "{opening}");
    let commanded = bench.newest(5, 1)[0];
    assert!(commanded < 0.1 && commanded > 0.0, "it does not squeeze as asked: {commanded} rad");
    assert_eq!(bench.data("grip: 0.5"), "0.50");
    assert!(matches!(refused(bench.run("grip: 2")), Refusal::Invalid(_)));
}

#[test]
fn what_this_host_cannot_do_is_unavailable_and_says_why() {
    let bench = Bench::new();
    for (instruction, expected) in [
        ("move the tool", "inverse kinematics"),
        ("engage: 0.1", "no controller test/follower is installed; installed are none"),
        ("locate: block", "turner cannot locate; it can act"),
        ("acquire: leg", "no part leg; there are body, arm, gripper"),
    ] {
        let refusal = refused(bench.run(instruction));
        let (Refusal::Unavailable(why) | Refusal::Denied(why)) = &refusal else { panic!("{refusal:?}") };
        assert!(why.contains(expected) || why.contains("motion:leg"), "{why}");
    }
    assert_eq!(bench.commands.lock().unwrap().last().map_or(REST[0], |it| it[0]), REST[0]);
}
