//! `waza-bench` as programs read it.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

use serde_json::Value;

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_waza-bench")).args(arguments).output().unwrap()
}

fn bench(arguments: &[&str]) -> Value {
    let output = run(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number(value: &Value, measured: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} in {measured}"))
}

#[test]
fn a_measurement_holds_times_work_and_memory_that_fit_each_other() {
    let measured = bench(&["model", "--device", "cpu", "--runs", "3", "--batch", "2"]);
    let own = &measured["waza"];
    let number = |value: &Value| number(value, &measured);
    assert_eq!((&own["runs"], &own["cameras"]), (&3.into(), &1.into()));
    assert!(own["device"].as_str().unwrap().starts_with("cpu"));
    assert!(own["dispatches"].is_null(), "a CPU has none");
    for part in ["vision", "prefix", "denoise", "total"] {
        let (p50, p99) = (number(&own[part]["p50_ms"]), number(&own[part]["p99_ms"]));
        assert!(0.0 < p50 && p50 <= p99 && p99 <= number(&own["total"]["p99_ms"]), "{part}: {measured}");
    }
    let speed = number(&own["gflop"]) / number(&own["total"]["p50_ms"]) * 1e3;
    assert!((speed / number(&own["gflop_per_s"]) - 1.0).abs() < 1e-6, "{measured}");
    let share = number(&own["gflop_per_s"]) / number(&own["gemm_peak_gflop_per_s"]);
    assert!((share / number(&own["share_of_gemm_peak"]) - 1.0).abs() < 1e-6, "{measured}");
    assert!(number(&own["device_bytes"]) > 5e6, "the bundled checkpoint alone is larger: {measured}");
    if cfg!(target_os = "linux") {
        assert!(number(&own["process_peak_bytes"]) > number(&own["device_bytes"]), "{measured}");
    }
    assert_eq!(own["batch"]["size"], 2);
    assert!(number(&own["batch"]["throughput_ratio"]) > 0.0, "{measured}");
    assert!(measured["lerobot"].is_null() && measured["ratio"].is_null());
}

#[test]
fn hostile_skills_run_beside_the_control_loop_and_every_stop_is_seen() {
    let measured = bench(&["isolation", "--seconds", "1", "--stops", "2"]);
    assert!(measured["hostile_starts"].as_u64().unwrap() >= 8, "{measured}");
    for without_or_with in ["alone", "beside_hostile"] {
        let [p50, p999, max] =
            ["p50_us", "p99_9_us", "max_us"].map(|it| number(&measured[without_or_with][it], &measured));
        assert!(0.0 <= p50 && p50 <= p999 && p999 <= max, "{measured}");
    }
    assert!(number(&measured["latest_stop_ms"], &measured) > 0.0, "{measured}");
}

#[test]
fn many_skills_wait_and_each_sees_its_share() {
    let measured = bench(&["skills", "--idle", "5", "--seeing", "4", "--seconds", "1"]);
    let [fewest, most, asked] = ["observations_fewest", "observations_most", "observations_asked_each"]
        .map(|it| number(&measured[it], &measured));
    assert!(0.0 < fewest && fewest <= most && most <= asked + 1.0, "{measured}");
    assert!(number(&measured["fairness"], &measured) <= 1.0 + 1e-9, "{measured}");
    if cfg!(target_os = "linux") {
        assert!(measured["loaded_and_waiting_bytes"].as_u64() >= measured["loaded_bytes"].as_u64(), "{measured}");
    }
}

#[test]
fn measurements_that_cannot_be_made_are_refused_with_what_can() {
    let python = ["--device", "cpu", "--runs", "1", "--against", "lerobot", "--python", "no-such-python"];
    for (arguments, expected) in [
        (&["--cameras", "2", "--device", "cpu"][..], &["--cameras 2", "at most 1"][..]),
        (&["--model", "no-such-checkpoint"], &["no-such-checkpoint"]),
        (&python, &["no-such-python", "lerobot[smolvla]", "--python"]),
        (&["--shape", "tiny"], &["smolvla-450m"]),
        (&["--batch", "17"], &["1..=16"]),
        (&["--runs", "0"], &["1..=100000"]),
        (&["--against", "nobody"], &["lerobot"]),
    ] {
        let output = run(&[&["model"], arguments].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && output.stdout.is_empty(), "{arguments:?}");
        for part in expected {
            assert!(stderr.contains(part), "{part:?} is missing in: {stderr}");
        }
    }
}

#[test]
fn a_link_is_measured_in_both_directions() {
    if cfg!(unix) {
        let measured = bench(&["link"]);
        for way in ["read_us", "write_us"] {
            let (p50, p99) = (number(&measured[way]["p50"], &measured), number(&measured[way]["p99"], &measured));
            assert!(0.0 < p50 && p50 <= p99, "{measured}");
        }
    }
}
