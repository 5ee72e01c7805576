//! Inside the compiler's process.

use std::io::{Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use super::{OUT_OF_TIME, Order, Report, compile, confine};
use crate::engines::compiling;
use crate::error::PackageError;
use crate::inspect::World;

/// How often is looked at the time that was used.
#[cfg(unix)]
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What a program does that is started to compile one component: reads it from standard input, writes machine code to standard
/// output, and reports on standard error. `order` is its last argument. Before it reads the first byte it gives up all that it
/// does not need, so this is to be called first and once.
pub fn work(order: &str) -> ExitCode {
    match answer(order) {
        Ok(report) => {
            let report = serde_json::to_vec(&report).unwrap_or_default();
            // Who does not get it takes it for a crash.
            let _ = std::io::stderr().write_all(&report);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn answer(order: &str) -> Result<Report, Box<dyn std::error::Error>> {
    let order: Order = serde_json::from_str(order)?;
    let (skill, controller) = (compiling(World::Skill)?, compiling(World::Controller)?);
    watch(Duration::from_millis(order.bounds.cpu_ms))?;
    confine::confine(&order.bounds)?;
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    let engine = |world| match world {
        World::Skill => Ok::<_, PackageError>(skill),
        World::Controller => Ok(controller),
    };
    match compile(&bytes, order.limits, engine)? {
        Ok((world, code)) => {
            std::io::stdout().write_all(&code)?;
            std::io::stdout().flush()?;
            Ok(Ok(world))
        }
        Err(flaw) => Ok(Err(flaw)),
    }
}

/// Ends the process when it has used so much CPU time. The system's own limit counts in seconds.
#[cfg(unix)]
fn watch(cpu_time: Duration) -> std::io::Result<()> {
    use rustix::time::{ClockId, clock_gettime};
    let watch = move || loop {
        std::thread::sleep(LOOK_EVERY);
        let used = clock_gettime(ClockId::ProcessCPUTime);
        if Duration::new(used.tv_sec.unsigned_abs(), used.tv_nsec.unsigned_abs() as u32) > cpu_time {
            std::process::exit(OUT_OF_TIME.into());
        }
    };
    std::thread::Builder::new().spawn(watch).map(drop)
}

#[cfg(not(unix))]
fn watch(_: Duration) -> std::io::Result<()> {
    Ok(())
}
