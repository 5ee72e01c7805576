//! What may stop a robot: declared sources of the host stop, each of which must be seen alive before anything moves.
//!
//! The host stop is no emergency stop (ISO 13850): a robot's hardware stops stay in place.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::control::gate::Gate;

/// How often a [`StopFile`] is looked at: it costs two calls of the system each time, and a person or script that makes the file
/// does not notice the difference.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// One latched stop: what an operator has to have seen before it can be reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped(pub(crate) u64);

impl Stopped {
    /// Different for every stop of a robot, so that a person can name the one that they saw: also over the lives of hosts, where
    /// a process of its own owns the robot.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// A declared source, as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceState {
    /// As declared.
    pub name: String,
    /// Whether it has been seen alive.
    pub seen: bool,
}

/// One way in which this robot may be stopped: a key, a signal, an HTTP endpoint, a file. Declared with
/// [`Robot::declare_stop_source`](crate::Robot::declare_stop_source); from any thread, at any time.
#[derive(Clone)]
pub struct StopSource {
    seen: Arc<AtomicBool>,
    gate: Arc<Gate>,
}

impl StopSource {
    /// Says that this source works: whoever calls it could have called [`StopSource::stop`] instead.
    pub fn alive(&self) {
        self.seen.store(true, Ordering::Release);
    }

    /// Latches the host stop; the next tick of the control loop brakes.
    pub fn stop(&self) {
        self.alive();
        self.gate.stop();
    }
}

/// The declared sources.
#[derive(Default)]
pub(crate) struct Sources(Mutex<Vec<(String, Arc<AtomicBool>)>>);

impl Sources {
    pub fn declare(&self, name: &str, gate: &Arc<Gate>) -> StopSource {
        let seen = Arc::new(AtomicBool::new(false));
        self.0.lock().push((name.into(), seen.clone()));
        StopSource { seen, gate: gate.clone() }
    }

    /// Names of those that have not been seen alive.
    pub fn unseen(&self) -> Vec<String> {
        let sources = self.0.lock();
        sources.iter().filter(|(_, seen)| !seen.load(Ordering::Acquire)).map(|(name, _)| name.clone()).collect()
    }

    pub fn states(&self) -> Vec<SourceState> {
        let sources = self.0.lock();
        let state = |(name, seen): &(String, Arc<AtomicBool>)| SourceState {
            name: name.clone(),
            seen: seen.load(Ordering::Acquire),
        };
        sources.iter().map(state).collect()
    }
}

/// A file whose existence stops the robot: the simplest source there is, for scripts and other processes.
///
/// It is seen alive once its folder can be listed and the file is not there. A folder that cannot be listed any more
/// stops the robot: nobody could stop it that way then. The watch ends when the robot's control loop has.
pub struct StopFile;

impl StopFile {
    /// Watches a path on a thread of its own.
    ///
    /// # Errors
    /// The operating system refuses a thread.
    pub fn watch(source: StopSource, path: impl Into<PathBuf>) -> std::io::Result<()> {
        let path = path.into();
        let look = move || {
            let mut alive = false;
            while !source.gate.has_ended() {
                match is_there(&path) {
                    Ok(false) => {
                        source.alive();
                        alive = true;
                    }
                    Ok(true) => source.stop(),
                    Err(error) if alive => {
                        tracing::error!(path = %path.display(), %error, "the stop file cannot be watched any more");
                        source.stop();
                        alive = false;
                    }
                    Err(_) => {}
                }
                std::thread::sleep(LOOK_EVERY);
            }
        };
        std::thread::Builder::new().name("waza-stop-file".into()).spawn(look).map(drop)
    }
}

fn is_there(path: &Path) -> std::io::Result<bool> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::read_dir(folder)?;
    path.try_exists()
}
