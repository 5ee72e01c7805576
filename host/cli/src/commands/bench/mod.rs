//! `waza bench`: what things cost on this machine.

mod calls;
mod grpc;
mod isolation;
mod lerobot;
#[cfg(unix)]
mod link;
mod model;
mod shape;
mod skills;
mod swap;

use anyhow::Result;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Measure how long the model takes from an observation to a chunk of actions.
    #[command(after_help = "Examples:\n  waza bench model --device cpu --against lerobot\n  \
                            waza bench model --shape smolvla-450m --cameras 2 --batch 4 --json")]
    Model(model::Model),
    /// Measure what it costs to cross between a skill and the host, there and over gRPC, and to start a skill.
    #[command(after_help = "Example:\n  waza bench calls --json")]
    Calls(calls::Calls),
    /// Measure what hostile skills cost the control loop, and how soon the host stop brakes while every skill hangs.
    #[command(after_help = "Examples:\n  waza bench isolation\n  waza bench isolation --seconds 60 --stops 100 --json")]
    Isolation(isolation::Isolation),
    /// Measure the memory of many idle skills, and whether many busy ones share fairly.
    #[command(
        after_help = "Examples:\n  waza bench skills\n  waza bench skills --idle 100 --seeing 50 --seconds 5 --json"
    )]
    Skills(skills::Skills),
    /// Change the version of a working skill again and again, under load, and measure how long it takes and what the control
    /// loop notices.
    #[command(after_help = "Example:\n  waza bench swap --swaps 100 --json")]
    Swap(swap::Swap),
    /// Measure what a control loop's tick costs on the way to a robot link in another process.
    #[cfg(unix)]
    #[command(after_help = "Example:\n  waza bench link --json")]
    Link(link::Link),
}

impl Bench {
    pub fn run(self) -> Result<()> {
        match self {
            Self::Model(command) => command.run(),
            Self::Calls(command) => command.run(),
            Self::Isolation(command) => command.run(),
            Self::Skills(command) => command.run(),
            Self::Swap(command) => command.run(),
            #[cfg(unix)]
            Self::Link(command) => command.run(),
        }
    }
}
