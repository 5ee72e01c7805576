//! The verbs.

use std::path::Path;
use std::sync::LazyLock;

use anyhow::Result;
use clap::{Parser, Subcommand};
use waza_robot::{Embodiment, Tightening};
use waza_runtime::WASMTIME_VERSION;

use crate::fault::OrBadInput;

mod ask;
mod ctl;
mod demo;
mod doctor;
#[cfg(unix)]
mod link;
mod model;
mod replay;
mod run;
mod said;
mod serve;
mod sim;
mod stage;

/// With the engine that keeps skills in their sandbox: what is published of its faults names versions.
static VERSION: LazyLock<String> =
    LazyLock::new(|| format!("{} (wasmtime {WASMTIME_VERSION})", env!("CARGO_PKG_VERSION")));

/// Robot skills as sandboxed WebAssembly components, against one foundation model that the host owns.
#[derive(Debug, Parser)]
#[command(name = "waza", version = VERSION.as_str(), max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what skills, model and robot do together: episodes, a table, a video.
    Demo(demo::Demo),
    /// Let a skill do one task.
    Run(run::Run),
    /// Run a skill against the record of a run: the same calls, bit for bit, or the first difference.
    Replay(replay::Replay),
    /// Leave a robot and its skills running, for operators to reach over HTTP.
    Serve(serve::Serve),
    /// Operate what `waza serve` left running.
    Ctl(ctl::Ctl),
    /// Look at a foundation model's checkpoint.
    #[command(subcommand)]
    Model(model::Model),
    /// Look into the simulator.
    #[command(subcommand)]
    Sim(sim::Sim),
    /// Serve a robot's link from a process of its own, which holds the robot when its host dies.
    #[cfg(unix)]
    Link(link::Link),
    /// Say what is here to work with, and what to do about what is missing.
    Doctor(doctor::Doctor),
}

impl Cli {
    /// Does what the command line asks for.
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Demo(command) => command.run(),
            Command::Run(command) => command.run(),
            Command::Replay(command) => command.run(),
            Command::Serve(command) => command.run(),
            Command::Ctl(command) => command.run(),
            Command::Model(command) => command.run(),
            Command::Sim(command) => command.run(),
            #[cfg(unix)]
            Command::Link(command) => command.run(),
            Command::Doctor(command) => command.run(),
        }
    }
}

/// The bundled robot within the limits of a site, if there is a file of them. Each process that keeps them reads it for
/// itself.
fn within_site(site: Option<&Path>) -> Result<Embodiment> {
    let robot = Embodiment::so101();
    let Some(site) = site else { return Ok(robot) };
    let limits = Tightening::open(site).or_bad_input()?;
    robot.tightened(&limits, &site.display().to_string()).or_bad_input()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn verbs(command: &clap::Command, found: &mut Vec<clap::Command>) {
        let mut subcommands = command.get_subcommands().filter(|sub| sub.get_name() != "help").peekable();
        if subcommands.peek().is_none() {
            found.push(command.clone());
        }
        subcommands.for_each(|sub| verbs(sub, found));
    }

    #[test]
    fn every_verbs_help_has_an_example_that_parses() {
        let mut cli = Cli::command();
        cli.build();
        let mut found = Vec::new();
        verbs(&cli, &mut found);
        assert!(!found.is_empty());
        for verb in found {
            let help = verb.clone().render_long_help().to_string();
            let examples: Vec<_> = help.lines().map(str::trim).filter(|line| line.starts_with("waza ")).collect();
            assert!(!examples.is_empty(), "no example in:\n{help}");
            for example in examples {
                let words = split(example);
                Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{example}: {error}"));
            }
        }
    }

    /// Words as a shell would split them, quotes included.
    fn split(line: &str) -> Vec<String> {
        let parts = line.split('"').enumerate();
        parts
            .flat_map(|(at, part)| match at % 2 {
                0 => part.split_whitespace().map(str::to_owned).collect(),
                _ => vec![part.to_owned()],
            })
            .collect()
    }
}
