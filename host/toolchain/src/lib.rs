//! The Rust toolchain that builds skills: cargo, and a rustc that has the standard library of their target.
//!
//! This crate owns how that target comes to be there and how a workspace of skills is built. It refuses to know what a skill
//! is, and depends on nothing: `waza-start`, which `cargo run` starts in a clone, is made of it, so that what is missing is
//! added, or named, before the long build and not after it.
//!
//! ```no_run
//! use std::path::Path;
//! use waza_toolchain::{Build, add_target, build};
//!
//! # fn example() -> Result<(), waza_toolchain::ToolchainError> {
//! let skills = Path::new("skills");
//! add_target(skills, |said| eprintln!("{said}"))?;
//! build(skills, Build::Packages(&["touch"]), |said| eprintln!("{said}"))?;
//! # Ok(()) }
//! ```

use std::error::Error;
use std::fmt;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What skills are compiled for.
pub const TARGET: &str = "wasm32-wasip2";

/// Why skills cannot be built.
#[derive(Debug)]
pub enum ToolchainError {
    /// There is no cargo.
    NoCargo,
    /// rustc lacks the standard library of [`TARGET`], and rustup did not add it.
    NoTarget {
        /// Whose toolchain was asked: rustup chooses one by folder.
        folder: PathBuf,
        /// What rustup said, or none where there is no rustup.
        rustup: Option<String>,
    },
    /// cargo could not be started.
    Start(io::Error),
    /// cargo could not build the skills.
    Build {
        /// Their workspace.
        workspace: PathBuf,
        /// What cargo said.
        said: String,
    },
}

impl fmt::Display for ToolchainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCargo => {
                write!(f, "cargo is not on the PATH: building the skills: install it with https://rustup.rs")
            }
            Self::NoTarget { folder, rustup: None } => write!(
                f,
                "rustc cannot build for {TARGET}, and there is no rustup to add it: {}: install Rust with \
                 https://rustup.rs, or the standard library for {TARGET} as this rustc was installed",
                folder.display()
            ),
            Self::NoTarget { folder, rustup: Some(said) } => write!(
                f,
                "rustc cannot build for {TARGET}, and rustup could not add it ({said}): {}: run `rustup target add {TARGET}` \
                 there, with a network",
                folder.display()
            ),
            Self::Start(error) => write!(f, "starting cargo: {error}"),
            Self::Build { workspace, said } => {
                write!(f, "cargo could not build the skills in {}:\n{said}", workspace.display())
            }
        }
    }
}

impl Error for ToolchainError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Start(error) => Some(error),
            Self::NoCargo | Self::NoTarget { .. } | Self::Build { .. } => None,
        }
    }
}

/// What of a workspace is built.
#[derive(Debug, Clone, Copy)]
pub enum Build<'a> {
    /// The skills of these packages, where their `skill.toml` expects them.
    Packages(&'a [&'a str]),
    /// The examples of a package, which are components too; [`example`] says where they are.
    Examples(&'a str),
}

/// The first line that a tool prints about itself, or none where it cannot be run.
pub fn version(tool: &str) -> Option<String> {
    let output = Command::new(tool).arg("--version").stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.lines().next().unwrap_or_default().to_owned())
}

/// Whether rustc, as seen from `folder`, has the standard library of [`TARGET`].
pub fn has_target(folder: &Path) -> bool {
    let asked =
        Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).current_dir(folder).output();
    asked.is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

/// Lets rustup add [`TARGET`] to the toolchain of `folder` where it is missing. `said` is told before that takes its time.
///
/// # Errors
/// [`ToolchainError::NoTarget`] if it is missing still.
pub fn add_target(folder: &Path, said: impl Fn(&str)) -> Result<(), ToolchainError> {
    if has_target(folder) {
        return Ok(());
    }
    let missing = |rustup| Err(ToolchainError::NoTarget { folder: folder.to_owned(), rustup });
    if version("rustup").is_none() {
        return missing(None);
    }
    said(&format!("adding the target {TARGET}, which skills are compiled for: rustup target add {TARGET}"));
    let mut rustup = Command::new("rustup");
    // A backtrace is longer than what it is of.
    rustup.args(["target", "add", TARGET]).current_dir(folder).env("RUST_BACKTRACE", "0").stdin(Stdio::null());
    let added = rustup.output();
    // However rustup ended: somebody else may have added it meanwhile.
    if has_target(folder) {
        return Ok(());
    }
    missing(Some(match added {
        Ok(output) => complaint(&String::from_utf8_lossy(&output.stderr)).to_owned(),
        Err(error) => error.to_string(),
    }))
}

/// The error among what rustup said, or else the last that it said.
fn complaint(said: &str) -> &str {
    let error = said.lines().find_map(|line| line.strip_prefix("error: "));
    let last = || said.lines().rev().find(|line| !line.trim().is_empty());
    error.or_else(last).unwrap_or("it did not say why").trim()
}

/// Builds skills into the target folder of their workspace. `said` is told what cargo says.
///
/// # Errors
/// A [`ToolchainError`] if something is missing that cannot be added, or cargo fails.
pub fn build(workspace: &Path, what: Build<'_>, said: impl Fn(&str)) -> Result<(), ToolchainError> {
    if version("cargo").is_none() {
        return Err(ToolchainError::NoCargo);
    }
    add_target(workspace, &said)?;
    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "--release", "--locked", "--target", TARGET])
        .arg("--target-dir")
        .arg(workspace.join("target"));
    match what {
        Build::Packages(packages) => cargo.args(packages.iter().flat_map(|package| ["--package", package])),
        Build::Examples(package) => cargo.args(["--package", package, "--examples"]),
    };
    // Flags and wrappers that the host was built with are none of a skill's business.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("CARGO_BUILD_TARGET");
    let mut child = cargo
        .current_dir(workspace)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(ToolchainError::Start)?;
    let mut transcript = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            said(line.trim());
            transcript.push(line);
        }
    }
    if child.wait().map_err(ToolchainError::Start)?.success() {
        Ok(())
    } else {
        Err(ToolchainError::Build { workspace: workspace.to_owned(), said: transcript.join("\n") })
    }
}

/// The component of an example that was built.
pub fn example(workspace: &Path, name: &str) -> PathBuf {
    workspace.join("target").join(TARGET).join("release/examples").join(name).with_extension("wasm")
}
