//! What a skill and the model get of a camera that fails: nothing, and its name.

use std::time::Duration;

use waza_model::Ability;
use waza_robot::Pace;
use waza_runtime::{HostOptions, Outcome, Refusal, SkillError};

use crate::fixture::{ALL, Bench, Trouble, Turner};

fn unavailable(ended: Result<Outcome, SkillError>) -> String {
    match ended.unwrap_err() {
        SkillError::Returned { refusal: Refusal::Unavailable(why), .. } => why,
        error => panic!("{error}"),
    }
}

#[test]
fn a_rollout_whose_camera_freezes_or_loses_a_frame_ends_with_its_name_and_the_joints_hold() {
    for (trouble, expected) in [
        (Trouble::Freezes { camera: 0, after: 100 }, "the camera front is frozen"),
        (Trouble::Loses { camera: 0, after: 100 }, "the camera front has lost a frame: the cable is out"),
    ] {
        let bench = Bench::new();
        *bench.trouble.lock().unwrap() = Some(trouble);
        let why = unavailable(bench.run("roll out: 30"));
        assert!(why.contains(expected), "{why}");
        assert!(bench.robot.tick() < 1000, "it went on until tick {}", bench.robot.tick());
        assert!(bench.newest(0, 1)[0] > 0.0, "it never moved");
        bench.assert_the_arm_holds();
    }
}

#[test]
fn a_camera_that_the_model_does_not_look_at_may_fail() {
    for trouble in [Trouble::Freezes { camera: 1, after: 0 }, Trouble::Loses { camera: 1, after: 0 }] {
        let bench = Bench::new();
        *bench.trouble.lock().unwrap() = Some(trouble);
        assert!(bench.data("roll out: 4").starts_with("5 chunks, "));
    }
}

#[test]
fn whatever_a_skill_asks_about_a_frame_that_is_lost_or_old_it_is_told_which_camera_failed() {
    for trouble in [Trouble::Freezes { camera: 0, after: 0 }, Trouble::Loses { camera: 0, after: 0 }] {
        let mut turner = Turner::new(Duration::ZERO);
        turner.about.abilities = vec![Ability::Act, Ability::Answer, Ability::Locate, Ability::Embed];
        let asked = turner.asked.clone();
        let permissions = [ALL, &["pixels:front"]].concat();
        let bench = Bench::asking(turner, Pace::Lockstep, HostOptions::default(), &permissions);
        *bench.trouble.lock().unwrap() = Some(trouble);
        // A number has to be seen for a while before it is an old one.
        bench.run("look").unwrap();
        bench.reach(bench.robot.tick() + 100);
        for request in ["act: turn", "ask: what is there?", "locate: a cube", "embed: a cube", "peek: front"] {
            let why = unavailable(bench.run(request));
            assert!(why.contains("the camera front"), "{request}: {why}");
        }
        assert!(asked.lock().unwrap().is_empty(), "the model has seen it");
        // When it is back, so is everything.
        *bench.trouble.lock().unwrap() = None;
        bench.run("act: turn").unwrap();
    }
}
