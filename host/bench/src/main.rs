//! `waza-bench`: what things cost on this machine. Every verb's `--help` has an example.
//!
//! This crate owns measurements, and what is measured against: LeRobot, gRPC. It works in a clone of the repository, is part
//! of no other program, and asserts nothing: a number is read by people.
//!
//! | module | owns |
//! |---|---|
//! | [`calls`], `grpc` | crossing between a skill and the host, and what that would cost over gRPC |
//! | [`isolation`] | the control loop and the host stop beside hostile skills |
//! | [`link`] | a control loop's tick over a socket |
//! | [`model`], [`lerobot`], [`shape`] | from an observation to a chunk of actions |
//! | [`skills`] | many skills at once |
//! | [`swap`] | changing the version of a skill that works |
//! | [`stage`] | the model, the robot and the test skills that these share |
//! | [`statistics`] | percentiles |

mod calls;
#[cfg(feature = "grpc")]
mod grpc;
mod isolation;
mod lerobot;
#[cfg(unix)]
mod link;
mod model;
mod shape;
mod skills;
mod stage;
mod statistics;
mod swap;

use std::process::ExitCode;

use clap::Parser;

/// What things cost on this machine.
#[derive(Debug, Parser)]
#[command(name = "waza-bench", version, max_term_width = 100)]
enum Bench {
    /// Measure how long the model takes from an observation to a chunk of actions.
    #[command(after_help = "Examples:\n  waza-bench model --device cpu --against lerobot\n  \
                            waza-bench model --shape smolvla-450m --cameras 2 --batch 4 --json")]
    Model(model::Model),
    /// Measure what it costs to cross between a skill and the host, with the feature `grpc` over gRPC too, and to start a skill.
    #[command(after_help = "Example:\n  waza-bench calls --json")]
    Calls(calls::Calls),
    /// Measure what hostile skills cost the control loop, and how soon the host stop brakes while every skill hangs.
    #[command(after_help = "Examples:\n  waza-bench isolation\n  waza-bench isolation --seconds 60 --stops 100 --json")]
    Isolation(isolation::Isolation),
    /// Measure the memory of many idle skills, and whether many busy ones share fairly.
    #[command(
        after_help = "Examples:\n  waza-bench skills\n  waza-bench skills --idle 100 --seeing 50 --seconds 5 --json"
    )]
    Skills(skills::Skills),
    /// Change the version of a working skill again and again, under load, and measure how long it takes and what the control
    /// loop notices.
    #[command(after_help = "Example:\n  waza-bench swap --swaps 100 --json")]
    Swap(swap::Swap),
    /// Measure what a control loop's tick costs on the way to a robot link in another process.
    #[cfg(unix)]
    #[command(after_help = "Example:\n  waza-bench link --json")]
    Link(link::Link),
    /// Serve the link that is measured.
    #[cfg(unix)]
    #[command(hide = true)]
    ServeLink(link::ServeLink),
}

fn main() -> ExitCode {
    let measured = match Bench::parse() {
        Bench::Model(command) => command.run(),
        Bench::Calls(command) => command.run(),
        Bench::Isolation(command) => command.run(),
        Bench::Skills(command) => command.run(),
        Bench::Swap(command) => command.run(),
        #[cfg(unix)]
        Bench::Link(command) => command.run(),
        #[cfg(unix)]
        Bench::ServeLink(command) => command.run(),
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
