//! `waza`, the one binary: demo, run, replay, serve, ctl, model, sim, link and doctor. Every verb's `--help` has an example.
//!
//! This crate owns what people see: words, tables, pictures, exit codes. It refuses to know how a model works, how a robot
//! moves and how a skill is kept in its sandbox.
//!
//! | module | owns |
//! |---|---|
//! | [`commands`] | a file a verb |
//! | [`episode`] | one episode: scene, robot, skill, judge |
//! | [`recording`] | from a run to the flight recorder, and back |
//! | [`report`] | what episodes come to |
//! | [`statistics`] | Wilson's interval |
//! | [`film`] | what the cameras saw, with words under it |
//! | [`caption`] | words and pictures on a canvas |
//! | [`video`] | pictures to an mp4 file |
//! | [`picture`] | PNG files to images |
//! | [`output`] | files that are written whole or not at all |
//! | [`lines`] | lines of a host that works, for whoever looks |
//! | [`log`] | which events become such lines |
//! | [`say`] | what is printed |
//! | [`progress`] | what moves on stderr |
//! | [`compiler`] | the process that compiles skills |
//! | `watchdog` | the process that holds a robot when its host dies |
//! | [`assets`] | where the checkout keeps things |
//! | [`fault`] | one line on stderr, and the exit code |

#[macro_use]
mod say;

mod assets;
mod caption;
mod commands;
mod compiler;
mod episode;
mod fault;
mod film;
mod lines;
mod log;
mod output;
mod picture;
mod progress;
mod recording;
mod report;
mod statistics;
mod video;
#[cfg(unix)]
mod watchdog;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    if let Some(ended) = compiler::work() {
        return ended;
    }
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // Mesa looks for a desktop session when it lists adapters, and complains on stderr where there is none.
        // SAFETY: this is the only thread so far.
        unsafe { std::env::set_var("XDG_RUNTIME_DIR", std::env::temp_dir()) };
    }
    match commands::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", fault::line(&error));
            fault::exit_code(&error)
        }
    }
}
