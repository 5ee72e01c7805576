//! Sensing, the model, the operator, checkpoints, other skills and WASI, as a skill sees them.

use waza_model::Noise;
use waza_robot::Pace;
use waza_runtime::{Event, HostOptions, Operator, Refusal, SkillError, TaskRequest};

use crate::fixture::{ALL, Bench};

#[test]
fn a_skill_learns_what_robot_it_is_on_and_what_it_senses() {
    let bench = Bench::new();
    assert_eq!(bench.data("robot"), "so101-tabletop has 6 joints and 3 parts");
    assert_eq!(bench.data("look"), "shoulder_pan 0.000 6");
    assert_eq!(bench.data("what model"), "turner true 16");
}

#[test]
fn watching_gives_an_observation_at_the_rate_that_was_asked_for() {
    let times: Vec<u64> =
        Bench::new().data("watch").trim_matches(['[', ']']).split(", ").map(|time| time.parse().unwrap()).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 50), "{times:?}");
}

#[test]
fn the_model_gets_the_state_and_the_cameras_that_it_looks_at_and_its_time_is_charged() {
    let bench = Bench::new();
    assert_eq!(bench.data("act: turn"), "16 rows, 50 ms late");
    let asked = bench.asked.lock().unwrap();
    let [query] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!((query.instruction.as_str(), query.state.len()), ("turn", 6));
    let [(camera, image)] = query.images.as_slice() else { panic!("{:?}", query.images) };
    assert_eq!((camera.as_str(), image.width(), image.height()), ("front", 4, 3));
}

#[test]
fn each_request_of_a_run_has_its_own_noise_and_the_same_run_has_the_same() {
    let noise = |seed| {
        let bench = Bench::new();
        let request = TaskRequest { instruction: "roll out: 3".into(), seed, ..TaskRequest::default() };
        futures_executor::block_on(bench.start_with(request)).value.unwrap();
        let asked = bench.asked.lock().unwrap();
        asked.iter().map(|query| query.noise.clone()).collect::<Vec<Noise>>()
    };
    let (first, again, other) = (noise(1), noise(1), noise(2));
    assert!(first.len() > 2);
    assert_eq!(first, again);
    assert!(first.iter().zip(&other).all(|(a, b)| a != b));
    assert!(first.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn progress_reaches_whoever_started_the_run() {
    let bench = Bench::new();
    bench.run("progress").unwrap();
    let expected = Event::Progress { fraction: 0.5, note: "half way".into() };
    assert_eq!(*bench.events.lock().unwrap(), [expected]);
}

#[test]
fn a_question_is_answered_as_the_operator_decided() {
    let with = |operator| Bench::with(Pace::Lockstep, HostOptions { operator, ..HostOptions::default() }, ALL);
    assert_eq!(with(Operator::SaysYes).data("confirm: sure?"), "true");
    assert_eq!(with(Operator::SaysNo).data("confirm: sure?"), "false");
    let error = with(Operator::Absent).run("confirm: sure?").unwrap_err();
    assert!(matches!(error, SkillError::Returned { refusal: Refusal::Unavailable(_), .. }), "{error}");
}

#[test]
fn a_run_resumes_from_the_last_checkpoint() {
    let bench = Bench::new();
    let id = bench.host.skills()[0].id.clone();
    assert_eq!(bench.host.checkpoint(&id), None);
    for expected in ["0", "1", "2"] {
        let request =
            TaskRequest { instruction: "count".into(), resume: bench.host.checkpoint(&id), ..TaskRequest::default() };
        assert_eq!(futures_executor::block_on(bench.start_with(request)).value.unwrap().data, expected);
    }
}

#[test]
fn a_skill_runs_another_that_it_was_granted_and_gets_its_outcome() {
    let bench = Bench::new();
    assert_eq!(bench.data("invoke: test/conduct, look"), "shoulder_pan 0.000 6");
    let error = bench.run("invoke: test/secret, look").unwrap_err().to_string();
    assert!(error.contains("skills:test/secret"), "{error}");
    let error = bench.run("invoke: test/conduct, panic").unwrap_err().to_string();
    assert!(error.contains("failed: test/conduct crashed"), "{error}");
}

#[test]
fn skills_cannot_invoke_each_other_without_end() {
    let error = Bench::new().run("invoke yourself").unwrap_err().to_string();
    assert!(error.contains("the depth of skills that invoke each other is used up (limit: 8)"), "{error}");
}

#[test]
fn a_caller_lends_its_joints_to_the_skill_that_it_invokes_and_has_them_back_afterwards() {
    let bench = Bench::new();
    assert_eq!(bench.data("invoke while holding the arm: 0.2, 0.4"), "0, then 0");
    assert_eq!(bench.newest(0, 1), [0.4]);
    bench.assert_the_arm_holds();
}

#[test]
fn what_a_skill_writes_arrives_line_by_line() {
    let bench = Bench::new();
    bench.run("say: hello").unwrap();
    let log = |line: &str| Event::Log { line: line.into() };
    assert_eq!(*bench.events.lock().unwrap(), [log("hello"), log("and to standard error")]);
}

#[test]
fn a_skills_sleep_passes_in_robot_time_and_repeats() {
    let bench = Bench::new();
    assert_eq!(bench.data("sleep"), "50");
    assert_eq!(bench.data("sleep"), "50");
}

#[test]
fn a_skills_random_numbers_come_from_the_runs_seed() {
    let random = |seed| {
        let request = TaskRequest { instruction: "random".into(), seed, ..TaskRequest::default() };
        futures_executor::block_on(Bench::new().start_with(request)).value.unwrap().data
    };
    assert_eq!(random(1), random(1));
    assert_ne!(random(1), random(2));
}

#[test]
fn a_skill_that_is_not_loaded_is_refused_with_those_that_are() {
    let bench = Bench::new();
    let ended = futures_executor::block_on(bench.host.run("test/absent", TaskRequest::default(), |_| ())).value;
    assert_eq!(ended.unwrap_err().to_string(), "no skill test/absent is loaded; loaded are test/conduct");
}
