//! The Rust toolchain that builds skills.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::fault::bad_input;

/// What skills compile to.
pub const TARGET: &str = "wasm32-wasip2";

/// The first line that a tool prints about itself, or none where it cannot be run.
pub fn version(tool: &str) -> Option<String> {
    let output = Command::new(tool).arg("--version").stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.lines().next().unwrap_or_default().to_owned())
}

/// Whether rustc, as seen from `folder`, has the standard library for [`TARGET`].
pub fn has_target(folder: &Path) -> bool {
    let asked =
        Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).current_dir(folder).output();
    asked.is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

/// Builds skill packages of a workspace into its own target folder. `said` is told what cargo says.
pub fn build_skills(workspace: &Path, packages: &[&str], said: impl Fn(&str)) -> Result<()> {
    let packages: Vec<_> = packages.iter().flat_map(|package| ["--package", package]).collect();
    build(workspace, &packages, said)
}

/// Builds the examples of a package of a workspace: components too, of which [`example`] says where they are.
pub fn build_examples(workspace: &Path, package: &str, said: impl Fn(&str)) -> Result<()> {
    build(workspace, &["--package", package, "--examples"], said)
}

/// The component of an example.
pub fn example(workspace: &Path, name: &str) -> PathBuf {
    workspace.join("target").join(TARGET).join("release/examples").join(name).with_extension("wasm")
}

fn build(workspace: &Path, what: &[&str], said: impl Fn(&str)) -> Result<()> {
    if version("cargo").is_none() {
        return Err(bad_input("cargo is not on the PATH", "building the skills", "install it with https://rustup.rs"));
    }
    if !has_target(workspace) {
        let way_out = format!("run `rustup target add {TARGET}`");
        return Err(bad_input(format!("rustc cannot build for {TARGET}"), workspace.display(), way_out));
    }
    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "--release", "--locked", "--target", TARGET])
        .arg("--target-dir")
        .arg(workspace.join("target"));
    cargo.args(what);
    // Flags and wrappers that the host was built with are none of a skill's business.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("CARGO_BUILD_TARGET");
    let mut child = cargo
        .current_dir(workspace)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting cargo")?;
    let mut transcript = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            said(line.trim());
            transcript.push(line);
        }
    }
    if !child.wait().context("waiting for cargo")?.success() {
        bail!("cargo could not build the skills in {}:\n{}", workspace.display(), transcript.join("\n"));
    }
    Ok(())
}
