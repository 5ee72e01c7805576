//! The worked examples of LeRobot's own implementation, on the CPU.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests, too

use std::path::PathBuf;

use waza_model::Device;
use waza_model::verify::{TOLERANCE, verify};

fn example(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn agrees(name: &str, tensors: &[&str]) {
    let verification = verify(&example(name), Device::Cpu).unwrap();
    let names: Vec<&str> = verification.tensors.iter().map(|t| t.tensor.as_str()).collect();
    assert_eq!(names, tensors);
    for tensor in &verification.tensors {
        println!("{name} {tensor:?}");
        assert!(tensor.max_abs_error <= TOLERANCE, "{tensor:?}");
        assert!(tensor.max_abs_reference > 100.0 * TOLERANCE, "{tensor:?} pins nothing down");
    }
    assert!(verification.passed());
}

#[test]
fn one_square_camera_at_lerobots_defaults_agrees() {
    agrees("smolvla-a", &["image_embeds.front", "velocity", "actions_normalized", "actions"]);
}

#[test]
fn two_cameras_of_odd_shapes_and_a_missing_one_agree() {
    let tensors = ["image_embeds.front", "image_embeds.wrist", "velocity", "actions_normalized", "actions"];
    agrees("smolvla-b", &tensors);
}

#[test]
fn logits_and_greedy_tokens_about_two_frames_agree_with_transformers() {
    let verification = verify(&example("smolvlm"), Device::Cpu).unwrap();
    println!("{verification:?}");
    let names: Vec<&str> = verification.tensors.iter().map(|t| t.tensor.as_str()).collect();
    assert_eq!(names, ["logits", "generated"]);
    assert!(verification.tensors[0].tolerance <= 2e-3 && verification.tensors[0].max_abs_reference > 0.2);
    assert!(verification.passed(), "{verification:?}");
}
