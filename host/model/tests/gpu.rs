//! The wgpu executor end to end, on whatever adapter is here; CI has Mesa's software one.
#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;

use common::{Copy, rewrite};
use safetensors::Dtype;
use waza_model::verify::{TOLERANCE, verify};
use waza_model::{Checkpoint, Device, Image, ModelError, Noise, Policy, Query};

fn example(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn open(name: &str, device: Device) -> Result<Policy, ModelError> {
    Policy::new(&Checkpoint::open(&example(name).join("checkpoint")).unwrap(), device)
}

/// Whether there is an adapter to test on. With `WAZA_REQUIRE_GPU=1` there has to be one.
fn adapter_is_here() -> bool {
    match waza_model::wgpu::Gpu::open(waza_model::wgpu::Adapters::Any) {
        Ok(_) => true,
        Err(error) if std::env::var_os("WAZA_REQUIRE_GPU").is_some_and(|v| v == "1") => panic!("{error}"),
        Err(error) => {
            eprintln!("skipped: {error}");
            false
        }
    }
}

fn agrees_with_the_reference(name: &str, tensors: usize) {
    if !adapter_is_here() {
        return;
    }
    let verification = verify(&example(name), Device::Gpu).unwrap();
    println!("{verification:#?}");
    assert_eq!(verification.tensors.len(), tensors);
    assert!(verification.passed(), "{verification:#?}");
}

#[test]
fn one_square_camera_at_lerobots_defaults_agrees_with_the_reference() {
    agrees_with_the_reference("smolvla-a", 4);
}

#[test]
fn two_cameras_of_odd_shapes_and_a_missing_one_agree_with_the_reference() {
    agrees_with_the_reference("smolvla-b", 5);
}

#[test]
fn logits_and_greedy_tokens_about_two_frames_agree_with_transformers() {
    agrees_with_the_reference("smolvlm", 2);
}

#[test]
fn weights_in_half_precision_give_the_cpus_numbers_and_nearly_those_of_full_precision() {
    if !adapter_is_here() {
        return;
    }
    let rgb = (0..96 * 96 * 3).map(|i: u32| (i * 7 % 251) as u8).collect();
    let query = Query {
        instruction: "pick up the red cube".to_owned(),
        images: vec![("front".to_owned(), Image::new(96, 96, rgb).unwrap())],
        state: vec![0.2; 6],
        sensors: Vec::new(),
        noise: Noise::Seed(3),
    };
    let mut full = open("smolvla-a", Device::Cpu).unwrap();
    let (full_bytes, full) = (full.device_bytes(), full.act(&query).unwrap().rows.concat());
    let worst = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    for dtype in [Dtype::F16, Dtype::BF16] {
        let copy = Copy::of("smolvla-a");
        rewrite(&copy.path("checkpoint/model.safetensors"), |name, tensor| Some((name.to_owned(), tensor.to(dtype))));
        let open = |device| Policy::new(&Checkpoint::open(&copy.path("checkpoint")).unwrap(), device).unwrap();
        let (mut cpu, mut gpu) = (open(Device::Cpu), open(Device::Gpu));
        for policy in [&cpu, &gpu] {
            assert!(policy.device_bytes() < full_bytes * 6 / 10, "{} of {full_bytes}", policy.device_bytes());
        }
        let (cpu, gpu) = (cpu.act(&query).unwrap().rows.concat(), gpu.act(&query).unwrap().rows.concat());
        assert!(worst(&cpu, &gpu) <= TOLERANCE, "{dtype:?}: {}", worst(&cpu, &gpu));
        let lost = worst(&full, &gpu);
        println!("{dtype:?}: {lost}");
        // bf16 has eight bits for a number, so only f16 is held to the bound.
        assert!(lost > 0.0 && (dtype == Dtype::BF16 || lost <= 2e-2), "{dtype:?}: {lost}");
    }
}

#[test]
fn videos_and_a_window_of_sensors_agree_with_the_reference() {
    agrees_with_the_reference("smolvla-c", 7);
}

#[test]
fn one_policy_agrees_with_the_cpu_while_cameras_and_words_change() {
    if !adapter_is_here() {
        return;
    }
    let mut gpu = open("smolvla-b", Device::Gpu).unwrap();
    let mut cpu = open("smolvla-b", Device::Cpu).unwrap();
    let gradient = |width: u32, height: u32, step: u32| {
        let rgb = (0..width * height * 3).map(|i| (i * step % 251) as u8).collect();
        Image::new(width, height, rgb).unwrap()
    };
    let (front, wrist) = (gradient(160, 120, 7), gradient(64, 90, 11));
    let both = vec![("front".to_owned(), front), ("wrist".to_owned(), wrist.clone())];
    let one = vec![("wrist".to_owned(), wrist)];
    let state_size = gpu.about().state_size;
    // The first shape comes back at the end, when its buffers hold what the others have left.
    for (seed, (instruction, images)) in
        [("put", both.clone()), ("lift the cup", both.clone()), ("put", one), ("put", both)].into_iter().enumerate()
    {
        let state = (0..state_size).map(|i| 0.1 * i as f32).collect();
        let query = Query {
            instruction: instruction.to_owned(),
            images,
            state,
            sensors: Vec::new(),
            noise: Noise::Seed(seed as u64),
        };
        let (on_gpu, on_cpu) = (gpu.act(&query).unwrap(), cpu.act(&query).unwrap());
        for (a, b) in on_gpu.rows.iter().flatten().zip(on_cpu.rows.iter().flatten()) {
            assert!((a - b).abs() <= TOLERANCE, "{instruction}: {a} on the GPU, {b} on the CPU");
        }
        assert_eq!(on_gpu.rows, gpu.act(&query).unwrap().rows, "{instruction}: two runs differ");
    }
}

#[test]
fn auto_never_takes_a_software_adapter_and_gpu_says_that_it_is_one() {
    if !adapter_is_here() {
        return;
    }
    let (auto, gpu) = (open("smolvla-a", Device::Auto).unwrap(), open("smolvla-a", Device::Gpu).unwrap());
    assert!(!auto.about().device.contains("software"), "{}", auto.about().device);
    // Where `auto` found hardware, `gpu` takes the same; else it takes a software adapter and says so.
    let software = gpu.about().device.contains("software");
    assert_eq!(software, auto.about().device != gpu.about().device, "{}", gpu.about().device);
}
