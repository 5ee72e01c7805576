//! What skills ask of the model, and how their requests reach it.

use std::path::Path;
use std::time::{Duration, Instant};

use waza_model::architecture::Sensors;
use waza_model::{Ability, Broker, Decoding, Device, Image, Priority, Question, Vlm, VlmCheckpoint};
use waza_robot::Pace;
use waza_runtime::{HostOptions, Refusal, SkillError};

use crate::fixture::{ALL, Bench, Turner};

fn lockstep(turner: Turner) -> Bench {
    let (asked, tickets) = (turner.asked.clone(), turner.tickets.clone());
    Bench { asked, tickets, ..Bench::asking(turner, Pace::Lockstep, HostOptions::default(), ALL) }
}

fn refusal(ended: Result<waza_runtime::Outcome, SkillError>) -> Refusal {
    match ended.unwrap_err() {
        SkillError::Returned { refusal, .. } => refusal,
        error => panic!("{error}"),
    }
}

fn vlm() -> Vlm {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/smolvlm");
    Vlm::new(&VlmCheckpoint::open(&folder).unwrap(), Device::Cpu).unwrap()
}

#[test]
fn questions_are_answered_about_all_cameras_and_their_time_is_charged() {
    let model = Broker::start(|| Ok(vlm().into())).unwrap();
    let bench = Bench::asking(model.clone(), Pace::Lockstep, HostOptions::default(), ALL);
    let grey = |width: u32, height: u32| Image::new(width, height, vec![127; (width * height * 3) as usize]).unwrap();
    let question = Question { text: "what is there?".into(), images: vec![grey(4, 3), grey(2, 2)] };
    let expected = vlm().ask(&question, &Decoding::default()).unwrap();
    assert_eq!(bench.data("ask: what is there?"), format!("{:.3} 50 ms late {}", expected.confidence, expected.text));
    let numbers = vlm().embed("a cube", &[]).unwrap().len();
    assert_eq!(bench.data("embed: a cube"), format!("{numbers} numbers"));
    assert_eq!(model.statistics().served, 2);
    assert!(matches!(refusal(bench.run("act: turn")), Refusal::Unavailable(_)));
    let long = refusal(bench.run(&format!("ask: {}", "why? ".repeat(3000))));
    assert!(matches!(long, Refusal::Invalid(_)), "{long:?}");
}

#[test]
fn a_model_without_words_is_not_asked_for_them() {
    let bench = Bench::new();
    for request in ["ask: what is there?", "embed: a cube", "locate: a cube"] {
        let refusal = refusal(bench.run(request));
        assert!(matches!(&refusal, Refusal::Unavailable(why) if why.contains("it can act")), "{refusal:?}");
    }
}

#[test]
fn several_observations_are_a_video_for_a_model_that_sees_one() {
    assert!(matches!(refusal(Bench::new().run("act on a video")), Refusal::Unavailable(_)));
    let mut turner = Turner::new(Duration::ZERO);
    turner.about.abilities.push(Ability::Video);
    let bench = lockstep(turner);
    assert_eq!(bench.data("act on a video"), "16");
    let cameras: Vec<_> = bench.asked.lock().unwrap()[0].images.iter().map(|(camera, _)| camera.clone()).collect();
    assert_eq!(cameras, ["front", "front"]);
    let backwards = refusal(bench.run("act on a video: backwards"));
    assert!(matches!(&backwards, Refusal::Invalid(why) if why.contains("oldest first")), "{backwards:?}");
}

#[test]
fn a_model_that_feels_gets_the_newest_samples() {
    let mut turner = Turner::new(Duration::ZERO);
    turner.about.sensors = Some(Sensors { channels: 6, samples: 8, tokens: 2 });
    turner.about.abilities.push(Ability::Sensors);
    let bench = lockstep(turner);
    bench.run("act: turn").unwrap();
    assert_eq!(bench.asked.lock().unwrap()[0].sensors, [0.0; 48]);
}

#[test]
fn requests_about_one_moment_share_its_pixels() {
    let bench = Bench::new();
    bench.run("act twice").unwrap();
    let asked = bench.asked.lock().unwrap();
    let pixels: Vec<_> = asked.iter().map(|query| query.images[0].1.rgb().as_ptr()).collect();
    assert_eq!(pixels.len(), 2);
    assert_eq!(pixels[0], pixels[1]);
}

#[test]
fn a_rollouts_request_is_urgent_and_of_use_until_its_chunk_runs_out() {
    let start = Instant::now();
    let bench = Bench::with(Pace::RealTime, HostOptions::default(), ALL);
    bench.run("roll out: 2").unwrap();
    let tickets = bench.tickets.lock().unwrap();
    assert!(tickets.len() > 1);
    for ticket in tickets.iter() {
        assert_eq!((&*ticket.skill, ticket.priority), ("test/conduct", Priority::High));
        // 16 rows at 10 Hz, after at most 2 s.
        assert!(
            ticket.deadline.unwrap() <= start + Duration::from_secs_f32(start.elapsed().as_secs_f32().max(2.0) + 1.7)
        );
    }
    // While a chunk plays, what is left of it counts.
    assert!(tickets[1].deadline.unwrap() - tickets[0].deadline.unwrap() < Duration::from_millis(100));
}

#[test]
fn under_lockstep_no_answer_can_come_too_late() {
    let bench = Bench::new();
    bench.run("roll out: 2").unwrap();
    assert!(bench.tickets.lock().unwrap().iter().all(|ticket| ticket.deadline.is_none()));
}

#[test]
fn a_rollout_looks_again_when_the_model_had_no_time_and_gives_up_when_it_never_has() {
    let with = |late| lockstep(Turner { late, ..Turner::new(Duration::ZERO) });
    let bench = with(3);
    bench.run("roll out: 2").unwrap();
    assert!(bench.asked.lock().unwrap().len() > 4);
    let busy = with(usize::MAX);
    assert!(matches!(refusal(busy.run("roll out: 2")), Refusal::Exhausted(_)));
    assert_eq!(busy.asked.lock().unwrap().len(), 4);
    busy.assert_the_arm_holds();
}
