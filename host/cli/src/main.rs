//! `waza`, the one binary: demo, run, model, sim, doctor and bench. Every verb's `--help` has an example.

mod assets;
mod caption;
mod commands;
mod fault;
mod film;
mod output;
mod report;
mod statistics;
mod toolchain;
mod video;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match commands::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", fault::line(&error));
            fault::exit_code(&error)
        }
    }
}
