//! The worked examples of LeRobot's own implementation, on the CPU.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests, too

use std::path::PathBuf;

use waza_model::verify::{TOLERANCE, verify};
use waza_model::{Checkpoint, Device, Image, Noise, Policy, Query};

fn example(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A copy of an example that a test may change.
fn copy(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for part in ["", "checkpoint", "vlm"] {
        std::fs::create_dir_all(folder.path().join(part)).unwrap();
        for file in std::fs::read_dir(example(name).join(part)).unwrap().map(Result::unwrap) {
            if file.file_type().unwrap().is_file() {
                std::fs::copy(file.path(), folder.path().join(part).join(file.file_name())).unwrap();
            }
        }
    }
    folder
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

#[test]
fn videos_and_a_window_of_sensors_agree_with_fewer_frames_too() {
    let tensors = [
        "image_embeds.front",
        "image_embeds.wrist",
        "velocity",
        "actions_normalized",
        "actions",
        "actions.newest_1",
        "actions.newest_2",
    ];
    agrees("smolvla-c", &tensors);
}

#[test]
fn an_example_whose_files_contradict_each_other_is_refused_with_its_place() {
    let folder = copy("smolvla-c");
    let case = folder.path().join("case.json");
    let text = std::fs::read_to_string(&case).unwrap();
    for frames in ["0", "2", "7"] {
        std::fs::write(&case, text.replace("\"frames\": 3", &format!("\"frames\": {frames}"))).unwrap();
        let error = verify(folder.path(), Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("case.safetensors"), "{frames}: {error}");
    }
}

#[test]
fn a_model_of_videos_does_with_one_frame_what_it_does_as_a_stock_model_bit_for_bit() {
    let (stock, folder) = (example("smolvla-a"), copy("smolvla-a"));
    let config = folder.path().join("checkpoint/config.json");
    let mut fields: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    fields["video"] = serde_json::json!({ "frames": 3, "every_n_layers": 2 });
    std::fs::write(&config, fields.to_string()).unwrap();

    let act = |folder: &std::path::Path| {
        let checkpoint = Checkpoint::open(&folder.join("checkpoint")).unwrap();
        let mut policy = Policy::new(&checkpoint, Device::Cpu).unwrap();
        let rgb = (0..96 * 64 * 3).map(|i: u32| (i.wrapping_mul(7) >> 3) as u8).collect();
        let query = Query {
            instruction: "pick up the red cube".to_owned(),
            images: vec![("front".to_owned(), Image::new(96, 64, rgb).unwrap())],
            state: vec![0.5, -0.25, 0.0, 1.0, 0.3, -1.0],
            sensors: Vec::new(),
            noise: Noise::Seed(11),
        };
        (checkpoint.architecture().video.is_some(), policy.act(&query).unwrap().rows)
    };
    let ((no_video, stock), (video, one_frame)) = (act(&stock), act(folder.path()));
    assert!(video && !no_video);
    assert_eq!(one_frame, stock);
}
