//! What `cargo run` does first, with a rustc, a rustup and a cargo that only write down what they were asked.

#![cfg(unix)]
#![allow(clippy::unwrap_used)] // in helpers of tests

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// A machine of its own: a PATH with nothing on it but what a test puts there.
struct Machine(TempDir);

impl Machine {
    /// With a rustc that has no target yet, and a cargo.
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        fs::create_dir(machine.path().join("bin")).unwrap();
        machine.tool("rustc", "echo \"$HERE/std\"");
        machine.tool("cargo", "echo \"cargo $*\" >> \"$HERE/asked\"");
        machine
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn tool(&self, name: &str, does: &str) {
        let tool = self.path().join("bin").join(name);
        fs::write(&tool, format!("#!/bin/sh\n{does}\n")).unwrap();
        fs::set_permissions(tool, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A rustup that does this when it shall add a target.
    fn rustup(&self, adds: &str) {
        self.tool("rustup", &format!("[ \"$1\" = --version ] && exit\necho \"rustup $*\" >> \"$HERE/asked\"\n{adds}"));
    }

    fn has_target(&self) {
        fs::create_dir(self.path().join("std")).unwrap();
    }

    fn start(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_waza-start"))
            .args(arguments)
            .env("PATH", self.path().join("bin"))
            .env("HERE", self.path())
            .env("CARGO", self.path().join("bin/cargo"))
            .output()
            .unwrap()
    }

    /// Everything that rustup and cargo were asked, in order.
    fn asked(&self) -> Vec<String> {
        let asked = fs::read_to_string(self.path().join("asked")).unwrap_or_default();
        asked.lines().map(str::to_owned).collect()
    }
}

#[track_caller]
fn refused(output: &Output, expected: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    let error = stderr.lines().last().unwrap();
    for part in expected.iter().chain(&["error: rustc cannot build for wasm32-wasip2", "--bin waza"]) {
        assert!(error.contains(part), "{part:?} is missing in: {error}");
    }
}

#[test]
fn a_target_that_is_missing_is_added_before_anything_is_built() {
    let machine = Machine::new();
    machine.rustup("/bin/mkdir \"$HERE/std\"");
    let output = machine.start(&["demo", "--seed", "7"]);
    assert!(output.status.success());
    let [first, second] = machine.asked().try_into().unwrap();
    assert_eq!(first, "rustup target add wasm32-wasip2");
    assert!(second.starts_with("cargo run --bin waza --manifest-path "), "{second}");
    assert!(second.ends_with(" -- demo --seed 7"), "{second}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("rustup target add wasm32-wasip2"), "{said}");
}

#[test]
fn a_target_that_is_there_is_nothing_to_speak_of() {
    let machine = Machine::new();
    machine.has_target();
    machine.rustup("");
    let output = machine.start(&[]);
    assert!(output.status.success() && output.stderr.is_empty());
    assert!(matches!(machine.asked().as_slice(), [built] if built.starts_with("cargo run ")));
}

#[test]
fn where_there_is_no_rustup_nothing_is_built_and_the_way_out_is_said() {
    let machine = Machine::new();
    refused(&machine.start(&["demo"]), &["there is no rustup", "https://rustup.rs"]);
    assert!(machine.asked().is_empty());
}

#[test]
fn where_rustup_fails_nothing_is_built_and_its_error_is_said() {
    let machine = Machine::new();
    machine.rustup("echo 'info: downloading' >&2; echo 'error: no network' >&2; echo 'info: rolled back' >&2; exit 1");
    refused(&machine.start(&["demo"]), &["(no network)", "run `rustup target add wasm32-wasip2`"]);
    assert_eq!(machine.asked(), ["rustup target add wasm32-wasip2"]);
}

#[test]
fn the_exit_code_is_that_of_what_was_started() {
    let machine = Machine::new();
    machine.has_target();
    machine.tool("cargo", "exit 101");
    assert_eq!(machine.start(&["demo"]).status.code(), Some(101));
}
