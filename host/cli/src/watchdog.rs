//! The process that holds the robot of `waza serve`, and outlives it.
//!
//! It is `waza link` in a session of its own, started by the host and ended by it in order. When the host dies instead, the
//! link brings the robot to rest and holds it; the next host with the same state folder finds it there and goes on from where
//! the robot is. One that serves something else than is asked for is ended first, unless a host commands it.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use waza_robot::Embodiment;
use waza_robot::bridge::{Observer, RemoteLink};

use crate::fault::{BadInput, OrBadInput, bad_input};

/// How long a link may take to serve, and then to let a host connect: the host before may just have been killed.
const SERVE_WITHIN: Duration = Duration::from_secs(20);

/// How long it may take to end.
const END_WITHIN: Duration = Duration::from_secs(3);

/// How long a host that is ending may keep a link from the next.
const HOST_ENDS_WITHIN: Duration = Duration::from_secs(3);

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A simulated robot that no host comes back to is of no use to anybody after so many seconds.
const LINGER_SECONDS: &str = "600";

/// The longest path of a socket that every system takes, bytes.
const LONGEST_PATH: usize = 103;

/// In the folder of a link.
const SOCKET: &str = "robot";

/// What a link says about itself, in a file beside its socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The process.
    pub pid: u32,
    /// What it serves.
    #[serde(flatten)]
    pub robot: Served,
}

/// A robot as a link serves it. Another version of Waza may serve it otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// As the command line names it.
    pub robot: String,
    /// Of its scene.
    pub seed: u64,
    /// Of Waza.
    pub version: String,
}

impl Served {
    /// By this program.
    pub fn new(robot: &str, seed: u64) -> Self {
        Self { robot: robot.into(), seed, version: env!("CARGO_PKG_VERSION").into() }
    }
}

impl About {
    /// This process.
    pub fn this(robot: Served) -> Self {
        Self { pid: std::process::id(), robot }
    }

    /// Says it beside a socket.
    pub fn write(&self, socket: &Path) -> std::io::Result<()> {
        std::fs::write(Self::path(socket), serde_json::to_vec(self)?)
    }

    fn read(socket: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(Self::path(socket)).ok()?).ok()
    }

    fn path(socket: &Path) -> PathBuf {
        socket.with_extension("json")
    }
}

/// A link that ends with this, but not with this process.
pub struct Watchdog {
    socket: PathBuf,
    process: Process,
    /// Kept from other hosts meanwhile.
    _lock: File,
    /// Where there is no state folder.
    _folder: Option<TempDir>,
}

enum Process {
    Started(Child),
    /// An earlier host left it.
    Found(u32),
}

impl Watchdog {
    /// Lets a process of its own hold a robot, and connects to it: to the one that an earlier host with this state folder
    /// left, if it serves the same, else to a new one.
    ///
    /// # Errors
    /// Another host uses the folder, or commands the robot; the folder cannot be used; the process does not serve.
    pub fn hold(robot: &Served, state: Option<&Path>, embodiment: &Arc<Embodiment>) -> Result<(Self, RemoteLink)> {
        let temporary = match state {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("waza-").tempdir().context("making a folder for a socket")?),
        };
        let folder = match (&temporary, state) {
            (Some(folder), _) => folder.path().join("link"),
            (None, state) => std::path::absolute(state.unwrap_or(Path::new("."))).or_bad_input()?.join("link"),
        };
        let socket = folder.join(SOCKET);
        if socket.as_os_str().as_bytes().len() > LONGEST_PATH {
            let way_out = "choose a --state folder with a shorter path, or --in-process";
            return Err(bad_input("the path is too long for a socket", socket.display(), way_out));
        }
        let lock = lock(&folder)?;
        let process = match found(&socket, robot)? {
            Some(pid) => Process::Found(pid),
            None => Process::Started(start(robot, &socket).context("starting the process that holds the robot")?),
        };
        let mut watchdog = Self { socket, process, _lock: lock, _folder: temporary };
        let link = watchdog.connect(embodiment)?;
        Ok((watchdog, link))
    }

    /// Who holds the robot, for people.
    pub fn describe(&self) -> String {
        let does = "it brings the robot to rest if this process dies";
        match &self.process {
            Process::Started(child) => format!("the robot is held by process {}: {does}", child.id()),
            Process::Found(pid) => {
                format!("the robot is held by process {pid}, as an earlier host left it: {does}")
            }
        }
    }

    fn connect(&mut self, embodiment: &Arc<Embodiment>) -> Result<RemoteLink> {
        let since = Instant::now();
        loop {
            let error = match RemoteLink::connect(&self.socket, embodiment.clone(), Duration::ZERO) {
                Ok(link) => return Ok(link),
                Err(error) => error,
            };
            if let Process::Started(child) = &mut self.process
                && let Some(status) = child.try_wait().context("looking at the process that holds the robot")?
            {
                let log = log_of(&self.socket);
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                let last = said.lines().last().unwrap_or("it said nothing").to_owned();
                return Err(anyhow!(
                    "the process that holds the robot ended ({status}): {last}: see {}",
                    log.display()
                ));
            }
            if since.elapsed() > SERVE_WITHIN {
                return Err(BadInput::caused_by(error));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        match &mut self.process {
            Process::Started(child) => {
                signal(child.id(), Signal::TERM);
                let since = Instant::now();
                while since.elapsed() < END_WITHIN && matches!(child.try_wait(), Ok(None)) {
                    std::thread::sleep(LOOK_EVERY);
                }
                // It may have ended already.
                let _ = child.kill();
                let _ = child.wait();
            }
            Process::Found(pid) => end(*pid, &self.socket),
        }
        clear(&self.socket);
    }
}

/// Makes the folder where it is missing, and keeps other hosts from it.
fn lock(folder: &Path) -> Result<File> {
    let wrong = |what: &dyn std::fmt::Display| {
        bad_input(what, folder.display(), "choose a --state folder that can be written, or --in-process")
    };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| wrong(&error))?;
    let lock = File::create(folder.join("lock")).map_err(|error| wrong(&error))?;
    let since = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::Error(error)) => return Err(wrong(&error)),
            Err(TryLockError::WouldBlock) if since.elapsed() > HOST_ENDS_WITHIN => {
                let way_out = "stop that one, or choose another folder with --state";
                return Err(bad_input("another host uses it", folder.display(), way_out));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// The process that serves this robot at a socket. One that serves another is ended.
fn found(socket: &Path, robot: &Served) -> Result<Option<u32>> {
    if !is_served(socket) {
        return Ok(None);
    }
    let about = About::read(socket);
    if let Some(About { pid, .. }) = about.as_ref().filter(|about| about.robot == *robot) {
        return Ok(Some(*pid));
    }
    let in_the_way = |what: &str| {
        bad_input(what, socket.display(), "end the process that serves there, or choose another folder with --state")
    };
    // One that does not answer is of another version.
    let commanded = Observer::connect(socket).and_then(|mut observer| observer.status());
    if commanded.is_ok_and(|status| status.watchdog_since.is_none()) {
        return Err(in_the_way("a host commands another robot"));
    }
    let about = about.ok_or_else(|| in_the_way("somebody serves another robot"))?;
    end(about.pid, socket);
    if is_served(socket) {
        return Err(in_the_way("another robot is served and does not end"));
    }
    clear(socket);
    Ok(None)
}

fn start(robot: &Served, socket: &Path) -> Result<Child> {
    let log = File::create(log_of(socket))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["link", &robot.robot, "--seed", &robot.seed.to_string()]);
    command.args(["--own-session", "--linger", LINGER_SECONDS, "--socket"]).arg(socket);
    // Whoever waits for the end of this process's output must not wait for that of the link.
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(command.spawn()?)
}

/// What the link says, of which its host does not live to tell.
fn log_of(socket: &Path) -> PathBuf {
    socket.with_extension("log")
}

fn is_served(socket: &Path) -> bool {
    let refused = |error: std::io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused);
    !UnixStream::connect(socket).is_err_and(refused)
}

/// Ends a process that serves at a socket, which is no child of this one.
fn end(pid: u32, socket: &Path) {
    for how in [Signal::TERM, Signal::KILL] {
        let since = Instant::now();
        while is_served(socket) {
            if since.elapsed() > END_WITHIN {
                break;
            }
            signal(pid, how);
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // It may be gone.
    let _ = pid.map(|pid| kill_process(pid, signal));
}

fn clear(socket: &Path) {
    for path in [socket, &About::path(socket)] {
        // They may be gone.
        let _ = std::fs::remove_file(path);
    }
}
