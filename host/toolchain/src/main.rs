//! What `cargo run` starts in a clone: sees to the toolchain that skills need, then builds `waza` and becomes it.
//!
//! Building Waza takes minutes. A cargo build script could look for the toolchain too, but cargo runs first what most others
//! wait for, and nothing waits for that: it would be among the last.

use std::path::Path;
use std::process::{Command, ExitCode};

use waza_toolchain::add_target;

fn main() -> ExitCode {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = own.ancestors().nth(2).unwrap_or(own);
    if let Err(error) = add_target(root, |said| eprintln!("{said}")) {
        eprintln!("error: {error}; what builds no skills starts with `cargo run --release --bin waza --` and its verb");
        return ExitCode::from(2);
    }
    let mut waza = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    waza.args(["run", "--bin", "waza", "--manifest-path"]).arg(root.join("host/cli/Cargo.toml"));
    if !cfg!(debug_assertions) {
        waza.arg("--release");
    }
    waza.arg("--").args(std::env::args_os().skip(1));
    become_it(waza)
}

/// So that signals reach it, and its exit code whoever started this.
#[cfg(unix)]
fn become_it(mut waza: Command) -> ExitCode {
    let error = std::os::unix::process::CommandExt::exec(&mut waza);
    failed(&error)
}

#[cfg(not(unix))]
fn become_it(mut waza: Command) -> ExitCode {
    match waza.status() {
        Ok(status) => status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from),
        Err(error) => failed(&error),
    }
}

fn failed(error: &std::io::Error) -> ExitCode {
    eprintln!("error: cargo cannot be started: {error}");
    ExitCode::FAILURE
}
