//! Starting the compiler's process, and what became of it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use super::{Bounds, OUT_OF_TIME, Order, Report};
use crate::error::{Cost, Flaw};
use crate::source::Source;

/// What is read of a report.
const LONGEST_REPORT: u64 = 64 << 10;

/// A process that may use so much CPU time may take so many times as long, on a machine that is busy, and this besides.
const WALL_FACTOR: u32 = 20;
const WALL_BASE: Duration = Duration::from_secs(30);

/// Compiles in a process of its own.
pub(super) fn run(
    program: &Path,
    arguments: &[OsString],
    order: &Order,
    source: &Source,
    into: &File,
) -> io::Result<Report> {
    // A pipe would have to be emptied meanwhile.
    let mut said = tempfile::tempfile()?;
    let mut command = Command::new(program);
    command.args(arguments).arg(serde_json::to_string(order)?).env_clear();
    command.stdin(source.reader()?).stdout(into.try_clone()?).stderr(said.try_clone()?);
    // A key in the terminal is for this process.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let wall = WALL_BASE + Duration::from_millis(order.bounds.cpu_ms) * WALL_FACTOR;
    let status = Ended::wait(command.spawn()?, wall)?;
    let mut report = Vec::new();
    said.rewind()?;
    said.take(LONGEST_REPORT).read_to_end(&mut report)?;
    if status.success()
        && let Ok(report) = serde_json::from_slice(&report)
    {
        return Ok(report);
    }
    let report = String::from_utf8_lossy(&report);
    let last = report.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    if status.code() == Some(1) {
        // It says what is missing here; the component is not to blame.
        return Err(io::Error::other(format!("the compiler's process could not begin: {last}")));
    }
    Ok(Err(blame(status, &report, last, &order.bounds)))
}

/// What a component has done to its compiler.
fn blame(status: ExitStatus, report: &str, last: &str, bounds: &Bounds) -> Flaw {
    if status.code() == Some(OUT_OF_TIME.into()) {
        return Flaw::Costly(Cost::Time(bounds.cpu_ms));
    }
    if let Some(cost) = bound_of(status, bounds) {
        return Flaw::Costly(cost);
    }
    if report.contains("memory allocation of") {
        return Flaw::Costly(Cost::Memory(bounds.memory_mib));
    }
    let said: String = last.chars().take(200).collect();
    Flaw::Crash(if said.is_empty() { status.to_string() } else { format!("{status}: {said}") })
}

/// The bound at which the system, or this process, has ended another.
#[cfg(unix)]
fn bound_of(status: ExitStatus, bounds: &Bounds) -> Option<Cost> {
    use rustix::process::Signal;
    let signal = Signal::from_named_raw(std::os::unix::process::ExitStatusExt::signal(&status)?)?;
    if signal == Signal::XFSZ {
        return Some(Cost::Code(bounds.code_mib));
    }
    [Signal::XCPU, Signal::KILL].contains(&signal).then_some(Cost::Time(bounds.cpu_ms))
}

#[cfg(not(unix))]
fn bound_of(_: ExitStatus, _: &Bounds) -> Option<Cost> {
    None
}

/// A process that does not outlive this.
struct Ended(Child);

impl Ended {
    /// Waits for its end, which comes in time whatever it does.
    fn wait(child: Child, within: Duration) -> io::Result<ExitStatus> {
        let mut this = Self(child);
        let (since, mut pause) = (Instant::now(), Duration::from_micros(500));
        while since.elapsed() < within {
            if let Some(status) = this.0.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(8));
        }
        this.0.kill()?;
        this.0.wait()
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
