//! The log of a host that works: on stderr, a line an event, through a bounded queue.

use std::io::{self, Write};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::lines::Lines;

#[derive(Debug, Args)]
pub struct LogOptions {
    /// What goes to stderr: a level (off, error, warn, info, debug, trace), and levels of parts. `skill` are the lines that
    /// skills write, waza_robot, waza_runtime and waza_daemon parts of the host.
    #[arg(long, value_name = "DIRECTIVES", env = "WAZA_LOG", default_value = "warn,skill=info")]
    log: Directives,
}

/// `warn,skill=off` and the like.
#[derive(Debug, Clone)]
struct Directives(Targets);

impl FromStr for Directives {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let targets =
            text.parse().map_err(|error| format!("{error}; write it like warn,skill=off,waza_robot=debug"))?;
        Ok(Self(targets))
    }
}

/// What is logged from here on. Dropping it waits a little until all is printed, and ends it.
#[must_use = "dropping it lets the last lines be printed"]
pub struct Log(Lines);

/// How long the last lines may take.
const PRINT_WITHIN: Duration = Duration::from_secs(1);

impl LogOptions {
    /// Begins to log. Once in a process.
    ///
    /// # Errors
    /// The system gives no thread, or something else logs already.
    pub fn start(&self) -> Result<Log> {
        let lines = Lines::to(io::stderr())?;
        let layer = tracing_subscriber::fmt::layer().with_writer(Queue(lines.clone())).with_ansi(false);
        tracing_subscriber::registry().with(self.log.0.clone()).with(layer).try_init().context("starting the log")?;
        Ok(Log(lines))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.0.flush(PRINT_WITHIN);
        self.0.close();
    }
}

/// An event comes in one piece, formatted.
struct Queue(Lines);

impl<'a> MakeWriter<'a> for Queue {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Write for &Queue {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.say(String::from_utf8_lossy(bytes).trim_end_matches('\n'));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_that_are_none_are_refused_with_an_example() {
        for text in ["warn", "off", "warn,skill=off", "waza_robot=debug,info"] {
            text.parse::<Directives>().unwrap();
        }
        for text in ["skill=loud", "a=b=c"] {
            let refused = text.parse::<Directives>().unwrap_err();
            assert!(refused.contains("warn,skill=off"), "{refused}");
        }
    }
}
