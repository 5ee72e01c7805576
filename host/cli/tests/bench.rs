//! `waza bench model` as programs read it.

#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::Value;

fn bench(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_waza"))
        .args(["bench", "model", "--device", "cpu", "--json"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_measurement_holds_times_work_and_memory_that_fit_each_other() {
    let measured = bench(&["--runs", "3", "--batch", "2"]);
    let own = &measured["waza"];
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value} in {measured}"));
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
