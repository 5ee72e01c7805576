//! Bad input ends with exit code 2, one line that names a place and a way out, and nothing written.

#![allow(clippy::unwrap_used, clippy::expect_used)] // in helpers of tests

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn waza(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_waza")).args(arguments).output().unwrap()
}

#[track_caller]
fn refused(arguments: &[&str], expected: &[&str]) {
    let Output { status, stdout, stderr } = waza(arguments);
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(2), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "more than a line:\n{stderr}");
    assert!(stdout.is_empty());
    for part in expected {
        assert!(stderr.contains(part), "{part:?} is missing in: {stderr}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_camera_that_is_not_there_is_refused_with_those_that_are() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x.png");
    refused(&["sim", "render", "--camera", "nose", "--out", text(&out)], &["nose", "front", "wrist"]);
    assert!(!out.exists());
}

#[test]
fn a_picture_in_a_folder_that_is_not_there_is_refused() {
    refused(&["sim", "render", "--out", "no-such-folder/x.png"], &["no-such-folder/x.png"]);
}

#[test]
fn a_checkpoint_that_is_not_there_is_refused() {
    refused(&["model", "info", "no-such-checkpoint"], &["no-such-checkpoint"]);
    refused(&["model", "verify", "no-such-example"], &["no-such-example"]);
}

#[test]
fn a_device_that_does_not_exist_is_refused_with_those_that_do() {
    let output = waza(&["demo", "--device", "tpu"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr.contains("tpu") && stderr.contains("auto, cpu or gpu"), "{stderr}");
}

#[test]
fn an_output_folder_that_cannot_be_written_is_refused_before_the_work_starts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let out = file.join("out");
    refused(&["demo", "--out", text(&out)], &[text(&out), "--out"]);
}

#[test]
fn a_skill_that_is_not_there_is_refused_with_those_that_are() {
    refused(&["run", "juggle", "--task", "juggle"], &["juggle", "touch", "pick-place"]);
}

#[test]
fn an_instruction_with_unknown_words_is_refused_with_the_words() {
    let task = "touch the flabbergasting block";
    refused(&["run", "touch", "--task", task, "--device", "cpu"], &["flabbergasting", "red"]);
}

#[test]
fn components_that_are_none_are_refused_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let component = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../skills/target/wasm32-wasip2/release/touch.wasm");
    let built = waza(&["run", "touch", "--task", "touch the red block", "--device", "cpu", "--json"]);
    assert!(!built.stdout.is_empty(), "{}", String::from_utf8_lossy(&built.stderr));
    let mut whole = std::fs::read(component).unwrap();
    whole.truncate(whole.len() / 2);
    for (name, bytes, expected) in [
        ("text.wasm", b"not a component at all".as_slice(), "it is text"),
        ("module.wasm", b"\0asm\x01\0\0\0".as_slice(), "core module"),
        ("half.wasm", whole.as_slice(), "truncated"),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let wasm = text(&path);
        refused(
            &["run", "touch", "--task", "touch the red block", "--device", "cpu", "--wasm", wasm],
            &[wasm, expected],
        );
    }
}

#[test]
fn a_skill_for_another_version_of_the_contract_is_refused_with_both_versions() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = "id = \"acme/juggle\"\nversion = \"1.0.0\"\nwit = \"0.2.0\"\ncomponent = \"juggle.wasm\"\n";
    std::fs::write(folder.path().join("skill.toml"), manifest).unwrap();
    refused(&["run", text(folder.path()), "--task", "juggle", "--device", "cpu"], &["0.2.0", "0.1.0", "skill.toml"]);
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/checkpoints/tabletop");
    let mut info = Command::new(env!("CARGO_BIN_EXE_waza"));
    let mut info =
        info.args(["model", "info"]).arg(checkpoint).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(info.stdout.take());
    let Output { status, stderr, .. } = info.wait_with_output().unwrap();
    assert_eq!((status.code(), String::from_utf8_lossy(&stderr)), (Some(0), "".into()));
}
