//! What a vision-language model does with questions, good and bad, on the CPU.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests, too

use std::path::PathBuf;

use waza_model::{Ability, Decoding, Device, Image, ModelError, Question, Sampling, Step, Vlm, VlmCheckpoint};

fn vlm() -> Vlm {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/smolvlm");
    Vlm::new(&VlmCheckpoint::open(&folder).unwrap(), Device::Cpu).unwrap()
}

fn image(seed: u32) -> Image {
    Image::new(96, 64, (0..96 * 64 * 3).map(|i: u32| (i.wrapping_mul(seed) >> 3) as u8).collect()).unwrap()
}

fn question(text: &str, images: &[u32]) -> Question {
    Question { text: text.to_owned(), images: images.iter().copied().map(image).collect() }
}

const SHORT: Decoding = Decoding { most_tokens: 12, sampling: None };

#[test]
fn an_answer_streams_in_the_pieces_that_it_is_made_of() {
    let mut vlm = vlm();
    let asked = question("is the bowl empty?", &[7]);
    let whole = vlm.ask(&asked, &SHORT).unwrap();
    assert!(whole.tokens <= 12 && whole.confidence > 0.0 && whole.confidence <= 1.0);
    let (mut generation, mut pieces) = (vlm.begin(&asked, &SHORT).unwrap(), String::new());
    loop {
        match vlm.step(&mut generation).unwrap() {
            Step::Text(piece) => pieces += &piece,
            Step::Done(answer) => {
                assert_eq!(answer, whole);
                // The end of the last character may have come with the answer only.
                assert!(answer.text.starts_with(pieces.trim()), "{answer:?} {pieces:?}");
                break;
            }
        }
    }
    assert_eq!(vlm.step(&mut generation).unwrap(), Step::Done(whole));
}

#[test]
fn images_their_order_and_the_words_all_change_what_follows() {
    let mut vlm = vlm();
    let mut ask = |text: &str, images: &[u32]| vlm.embed(text, &question("", images).images).unwrap();
    let base = ask("is the bowl empty?", &[7, 9]);
    let others = [
        ask("is the bowl full?", &[7, 9]),
        ask("is the bowl empty?", &[9, 7]),
        ask("is the bowl empty?", &[7]),
        ask("is the bowl empty?", &[]),
    ];
    let cosine = |other: &[f32]| base.iter().zip(other).map(|(a, b)| a * b).sum::<f32>();
    assert!((cosine(&base) - 1.0).abs() < 1e-5);
    for other in &others {
        assert!(cosine(other) < 0.9999, "{}", cosine(other));
    }
}

#[test]
fn equal_seeds_draw_equal_answers_and_others_draw_others() {
    let mut vlm = vlm();
    let asked = question("is the bowl empty?", &[7]);
    let mut ask = |seed| {
        let sampling = Some(Sampling { temperature: 1.5, top_p: 0.95, seed });
        vlm.ask(&asked, &Decoding { most_tokens: 24, sampling }).unwrap().text
    };
    let first = ask(1);
    assert_eq!(first, ask(1));
    assert!((2..6).any(|seed| ask(seed) != first));
}

#[test]
fn an_image_that_several_questions_are_about_is_encoded_once() {
    let mut vlm = vlm();
    vlm.ask(&question("is the bowl empty?", &[7]), &SHORT).unwrap();
    vlm.ask(&question("is the cup empty?", &[7, 9, 7]), &SHORT).unwrap();
    assert_eq!(vlm.images_encoded(), 2);
}

#[test]
fn beginning_an_answer_ends_the_one_before() {
    let mut vlm = vlm();
    let mut first = vlm.begin(&question("is the bowl empty?", &[7]), &SHORT).unwrap();
    vlm.step(&mut first).unwrap();
    let mut second = vlm.begin(&question("is the cup empty?", &[7]), &SHORT).unwrap();
    assert!(matches!(vlm.step(&mut first), Err(ModelError::Superseded)));
    vlm.step(&mut second).unwrap();
}

#[test]
fn questions_that_do_not_fit_are_refused_and_the_next_is_answered() {
    let mut vlm = vlm();
    let nucleus =
        |temperature, top_p| Decoding { most_tokens: 4, sampling: Some(Sampling { temperature, top_p, seed: 0 }) };
    let fine = question("is the bowl empty?", &[7]);
    let bad = [
        (question("   ", &[7]), SHORT, "question"),
        (question(&"why ".repeat(4000), &[7]), SHORT, "tokens"),
        (question("why", &[7; 65]), SHORT, "65 images"),
        (fine.clone(), Decoding { most_tokens: 100_000, sampling: None }, "the answer up to 100000"),
        (fine.clone(), Decoding { most_tokens: 0, sampling: None }, "at least one token"),
        (fine.clone(), nucleus(0.0, 0.5), "temperature"),
        (fine.clone(), nucleus(1.0, f32::NAN), "top_p"),
    ];
    for (asked, decoding, says) in bad {
        let message = vlm.begin(&asked, &decoding).unwrap_err().to_string();
        assert!(message.contains(says) && !message.contains('\n'), "{message}");
    }
    vlm.ask(&fine, &SHORT).unwrap();
}

#[test]
fn a_stock_model_answers_and_embeds_and_claims_no_more() {
    assert_eq!(vlm().about().abilities, [Ability::Answer, Ability::Embed]);
}
