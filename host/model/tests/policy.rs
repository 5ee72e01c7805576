//! What a policy does with queries, good and bad, on the CPU.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests, too

use std::path::PathBuf;

use waza_model::{Checkpoint, Device, Image, LARGEST_BATCH, ModelError, Noise, Policy, Query, Work};

fn policy(example: &str) -> Policy {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(example).join("checkpoint");
    Policy::new(&Checkpoint::open(&folder).unwrap(), Device::Cpu).unwrap()
}

fn image(seed: u32) -> Image {
    Image::new(96, 64, (0..96 * 64 * 3).map(|i: u32| (i.wrapping_mul(seed) >> 3) as u8).collect()).unwrap()
}

fn query() -> Query {
    Query {
        instruction: "pick up the red cube".to_owned(),
        images: vec![("front".to_owned(), image(7))],
        state: vec![0.5, -0.25, 0.0, 1.0, 0.3, -1.0],
        sensors: Vec::new(),
        noise: Noise::Seed(11),
    }
}

#[test]
fn equal_queries_give_equal_actions_bit_for_bit_whatever_came_between() {
    let mut policy = policy("smolvla-a");
    let first = policy.act(&query()).unwrap();
    policy.act(&Query { instruction: "put it down again, slowly".to_owned(), ..query() }).unwrap();
    policy.act(&Query { noise: Noise::Seed(12), ..query() }).unwrap();
    let again = policy.act(&query()).unwrap();
    assert_eq!(first.rows, again.rows);
    assert_eq!((first.rows.len(), first.rows[0].len()), (50, 6));
}

#[test]
fn every_input_moves_the_actions() {
    let mut policy = policy("smolvla-a");
    let base = policy.act(&query()).unwrap().rows;
    let mut state = query().state;
    state[3] += 1.0;
    let changed = [
        Query { instruction: "pick up the blue cube".to_owned(), ..query() },
        Query { images: vec![("front".to_owned(), image(9))], ..query() },
        Query { state, ..query() },
        Query { noise: Noise::Seed(12), ..query() },
    ];
    for query in changed {
        let rows = policy.act(&query).unwrap().rows;
        let most = rows.concat().iter().zip(base.concat()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(most > 1e-2, "{most}");
    }
}

#[test]
fn images_may_come_in_any_order_and_some_may_be_missing() {
    let mut policy = policy("smolvla-b");
    assert_eq!(policy.about().cameras, ["front", "wrist", "top"]);
    let state = vec![0.1; 7];
    let (front, wrist) = (("front".to_owned(), image(7)), ("wrist".to_owned(), image(9)));
    let mut act = |images| policy.act(&Query { images, state: state.clone(), ..query() }).unwrap().rows;
    let both = act(vec![front.clone(), wrist.clone()]);
    assert_eq!(both, act(vec![wrist, front.clone()]));
    assert_ne!(both, act(vec![front]));
}

#[test]
fn a_frame_that_several_queries_look_at_is_encoded_once() {
    let mut policy = policy("smolvla-a");
    let alone = policy.act(&query()).unwrap().rows;
    assert_eq!(policy.work(), Work { frames: 1, prefixes: 1, chunks: 1, runs: 1 });
    // The same pixels, in other memory.
    let other = Query { instruction: "pick up the blue cube".to_owned(), ..query() };
    policy.act(&other).unwrap();
    assert_eq!(policy.work(), Work { frames: 1, prefixes: 2, chunks: 2, runs: 2 });
    policy.act(&Query { images: vec![("front".to_owned(), image(9))], ..query() }).unwrap();
    assert_eq!(policy.work().frames, 2);
    assert_eq!(policy.act(&query()).unwrap().rows, alone);
}

#[test]
fn an_observation_and_instruction_that_have_not_changed_are_not_read_again() {
    let mut policy = policy("smolvla-a");
    let fresh = policy.act(&Query { noise: Noise::Seed(12), ..query() }).unwrap().rows;
    policy.forget();
    policy.act(&query()).unwrap();
    assert_eq!(policy.act(&Query { noise: Noise::Seed(12), ..query() }).unwrap().rows, fresh);
    assert_eq!(policy.work(), Work { frames: 2, prefixes: 2, chunks: 3, runs: 3 });
    let state = vec![0.5, -0.25, 0.0, 1.0, 0.3, -0.9];
    policy.act(&Query { state, ..query() }).unwrap();
    assert_eq!((policy.work().frames, policy.work().prefixes), (2, 3));
}

#[test]
fn queries_of_one_shape_run_together_and_agree_with_what_each_gets_alone() {
    let queries: Vec<Query> = (0..5)
        .map(|i| Query {
            // Two are of another length.
            instruction: ["pick up the red cube", "lift"][usize::from(i > 2)].to_owned(),
            images: vec![("front".to_owned(), image(5 + i))],
            noise: Noise::Seed(i.into()),
            ..query()
        })
        .collect();
    let mut policy = policy("smolvla-a");
    let alone: Vec<_> = queries.iter().map(|query| policy.act(query).unwrap().rows).collect();
    policy.forget();
    let before = policy.work();
    let bad = Query { state: vec![f32::NAN; 6], ..query() };
    let mut all: Vec<&Query> = queries.iter().collect();
    all.insert(2, &bad);
    let mut together = policy.act_together(&all);
    assert!(matches!(together.remove(2), Err(ModelError::NotFinite { .. })));
    assert_eq!(policy.work().runs, before.runs + 2);
    for (alone, together) in alone.iter().zip(together) {
        for (a, b) in alone.iter().flatten().zip(together.unwrap().rows.iter().flatten()) {
            assert!((a - b).abs() < 1e-4, "{a} alone, {b} together");
        }
    }
}

#[test]
fn queries_that_do_not_fit_are_refused_with_what_would() {
    let mut policy = policy("smolvla-a");
    let front = |name: &str| (name.to_owned(), image(7));
    let bad = [
        (Query { state: vec![0.0; 5], ..query() }, "5 numbers, the model takes 6"),
        (Query { state: vec![f32::NAN; 6], ..query() }, "not finite"),
        (Query { noise: Noise::Given(vec![0.0; 3]), ..query() }, "the noise has 3 numbers, the model takes 1600"),
        (Query { noise: Noise::Given(vec![f32::INFINITY; 1600]), ..query() }, "not finite"),
        (Query { images: vec![], ..query() }, "Give at least one of the cameras front"),
        (Query { images: vec![front("side")], ..query() }, "camera `side` is unknown"),
        (Query { images: vec![front("front"), front("front")], ..query() }, "given 2 times, the model looks at 1"),
        (Query { sensors: vec![0.0; 3], ..query() }, "the sensor window has 3 numbers, the model takes 0"),
        (Query { instruction: "  ".to_owned(), ..query() }, "empty"),
        (Query { instruction: "x".repeat(100_000), ..query() }, "at most 16384 are read"),
    ];
    for (query, says) in bad {
        let message = policy.act(&query).unwrap_err().to_string();
        assert!(message.contains(says) && !message.contains('\n'), "{message}");
    }
    policy.act(&query()).unwrap();
}

#[test]
fn an_instruction_beyond_the_tokenizers_length_is_cut_there() {
    let mut policy = policy("smolvla-a");
    let mut act = |instruction: String| policy.act(&Query { instruction, ..query() }).unwrap().rows;
    assert_eq!(act("a".repeat(48) + "b"), act("a".repeat(48) + "c"));
    assert_ne!(act("a".repeat(46) + "b"), act("a".repeat(46) + "c"));
}

#[test]
fn the_largest_batch_of_different_observations_agrees_with_what_each_gets_alone() {
    let queries: Vec<Query> = (0..LARGEST_BATCH as u32)
        .map(|i| Query {
            images: ["front", "wrist", "top"]
                .into_iter()
                .zip(3 * i..)
                .map(|(c, i)| (c.to_owned(), image(5 + i)))
                .collect(),
            state: vec![0.1; 7],
            noise: Noise::Seed(i.into()),
            ..query()
        })
        .collect();
    let mut policy = policy("smolvla-b");
    let together = policy.act_together(&queries.iter().collect::<Vec<_>>());
    assert_eq!(policy.work().runs, 1);
    for (query, together) in queries.iter().zip(together) {
        policy.forget();
        let alone = policy.act(query).unwrap().rows.concat();
        let worst = together.unwrap().rows.concat().iter().zip(alone).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{worst}");
    }
}
