//! What is compiled to WebAssembly has workspaces of its own; one `cargo test` covers them too.

#![allow(clippy::unwrap_used, clippy::expect_used)] // in helpers of tests

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

#[track_caller]
fn tested(workspace: &str) {
    let folder = root().join(workspace);
    let output = Command::new(env!("CARGO"))
        .args(["test", "--locked", "--target-dir"])
        .arg(root().join("skills/target"))
        .current_dir(folder)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && said.contains("test result: ok"), "{said}");
}

#[test]
fn the_sdk_passes_its_own_tests() {
    tested("sdk/rust");
}

#[test]
fn the_skills_pass_their_own_tests() {
    tested("skills");
}

#[test]
fn the_readmes_first_skill_is_the_real_one() {
    let source = std::fs::read_to_string(root().join("skills/touch/src/lib.rs")).unwrap();
    let code = &source[source.find("use waza_sdk").unwrap()..];
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.contains(&format!("```rust\n{code}```")), "README.md shows another touch than skills/touch has");
}
