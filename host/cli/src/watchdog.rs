//! The process that holds the robot of `waza serve`, and outlives it.
//!
//! It is `waza link` in a session of its own, started by the host and ended by it in order. When the host dies instead, the
//! link brings the robot to rest and holds it; the next host with the same state folder finds it there and goes on from what
//! is commanded, and stopped if it was. One that serves something else than is asked for is ended first, unless a host commands
//! it. When the link dies instead, the host stop is latched and another link is started.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use parking_lot::Mutex;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use waza_robot::Embodiment;
use waza_robot::bridge::{self, Observer, RemoteLink};

use crate::fault::{BadInput, OrBadInput, bad_input};

/// How long a link may take to serve, and then to let a host connect: the host before may just have been killed.
const SERVE_WITHIN: Duration = Duration::from_secs(20);

/// How long it may take to end.
const END_WITHIN: Duration = Duration::from_secs(3);

/// How long a host that is ending may keep a link from the next.
const HOST_ENDS_WITHIN: Duration = Duration::from_secs(3);

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A link that has ended is started again at most so often.
const AGAIN_EVERY: Duration = Duration::from_secs(1);

/// A simulated robot that no host comes back to is of no use to anybody after so many seconds.
const LINGER_SECONDS: &str = "600";

/// The longest path of a socket that every system takes, bytes.
const LONGEST_PATH: usize = 103;

/// In the folder of a link.
const SOCKET: &str = "robot";

/// A robot as a link serves it, which is what a link says about itself. Another version of Waza may serve it otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// As the command line names it.
    pub robot: String,
    /// Of its scene.
    pub seed: u64,
    /// Digest of the limits that it keeps, those of its site included, and of everything else that the robot is.
    pub embodiment: String,
    /// Of Waza.
    pub version: String,
}

impl Served {
    /// By this program.
    pub fn new(robot: &str, seed: u64, embodiment: &Embodiment) -> serde_json::Result<Self> {
        let digest = Sha256::digest(serde_json::to_vec(embodiment)?);
        let version = env!("CARGO_PKG_VERSION").into();
        Ok(Self { robot: robot.into(), seed, embodiment: hex::encode(digest), version })
    }

    /// As [`ServerOptions::about`](bridge::ServerOptions::about).
    pub fn about(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    /// Whether a link that says this about itself has read the same limits of the same robot.
    pub fn keeps(&self, about: &str) -> bool {
        serde_json::from_str(about).is_ok_and(|served: Self| served.embodiment == self.embodiment)
    }

    fn is(&self, about: &str) -> bool {
        serde_json::from_str(about).is_ok_and(|served: Self| served == *self)
    }
}

/// A link that ends with this, but not with this process.
pub struct Watchdog {
    robot: Served,
    site: Option<PathBuf>,
    socket: PathBuf,
    process: Arc<Mutex<Process>>,
    /// Kept from other hosts meanwhile.
    _lock: File,
    /// Where there is no state folder.
    _folder: Option<TempDir>,
}

enum Process {
    Started(Child),
    /// An earlier host left it.
    Found(Peer),
}

impl Watchdog {
    /// Lets a process of its own hold a robot, and connects to it: to the one that an earlier host with this state folder
    /// left, if it serves the same, else to a new one, which reads the limits of the site for itself.
    ///
    /// # Errors
    /// Another host uses the folder, or commands the robot; the folder cannot be used; the process does not serve.
    pub fn hold(
        robot: &Served,
        site: Option<&Path>,
        state: Option<&Path>,
        embodiment: &Arc<Embodiment>,
    ) -> Result<(Self, RemoteLink)> {
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
            Some(peer) => Process::Found(peer),
            None => Process::Started(start(robot, site, &socket).context("starting the process that holds the robot")?),
        };
        let process = Arc::new(Mutex::new(process));
        let (robot, site) = (robot.clone(), site.map(Path::to_path_buf));
        let watchdog = Self { robot, site, socket, process, _lock: lock, _folder: temporary };
        let link = watchdog.connect(embodiment)?;
        let Self { robot, site, .. } = &watchdog;
        if !robot.is(link.about()) {
            let what = "the process that holds the robot keeps other limits than this host has read";
            let place = site.as_ref().unwrap_or(&watchdog.socket).display().to_string();
            return Err(bad_input(what, place, "start again when nobody writes to that file"));
        }
        Ok((watchdog, link))
    }

    /// Who holds the robot, for people.
    pub fn describe(&self) -> String {
        let does = "it brings the robot to rest if this process dies";
        match &*self.process.lock() {
            Process::Started(child) => format!("the robot is held by process {}: {does}", child.id()),
            Process::Found(peer) => {
                format!("the robot is held by process {}, as an earlier host left it: {does}", peer.pid())
            }
        }
    }

    /// Starts another process whenever the one that holds the robot ends, until what this gives is dropped. `stop` comes first:
    /// whatever the robot did meanwhile, nothing moves before somebody has looked. `say` gets a line for people.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn keep_alive(
        &self,
        stop: impl Fn() + Send + 'static,
        say: impl Fn(String) + Send + 'static,
    ) -> std::io::Result<KeptAlive> {
        let (robot, site, socket) = (self.robot.clone(), self.site.clone(), self.socket.clone());
        let (process, over) = (self.process.clone(), Arc::new(AtomicBool::new(false)));
        let is_over = over.clone();
        let keep = move || {
            let mut tried: Option<Instant> = None;
            while !is_over.load(Ordering::Acquire) {
                std::thread::sleep(LOOK_EVERY);
                let mut process = process.lock();
                if !process.has_ended() {
                    continue;
                }
                stop();
                if tried.is_some_and(|tried| tried.elapsed() < AGAIN_EVERY) {
                    continue;
                }
                tried = Some(Instant::now());
                match start(&robot, site.as_deref(), &socket) {
                    Ok(child) => {
                        say(format!("the process that held the robot has ended; process {} holds it now", child.id()));
                        *process = Process::Started(child);
                    }
                    Err(error) => say(format!("no process holds the robot, and none can be started: {error:#}")),
                }
            }
        };
        let thread = std::thread::Builder::new().name("waza-watchdog".into()).spawn(keep)?;
        Ok(KeptAlive { over, thread: Some(thread) })
    }

    fn connect(&self, embodiment: &Arc<Embodiment>) -> Result<RemoteLink> {
        let since = Instant::now();
        loop {
            let error = match RemoteLink::connect(&self.socket, embodiment.clone(), Duration::ZERO) {
                Ok(link) => return Ok(link),
                Err(error) => error,
            };
            if let Process::Started(child) = &mut *self.process.lock()
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
        match &mut *self.process.lock() {
            Process::Started(child) => {
                if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
                    // It may have ended already, and is this one's to wait for all the same.
                    let _ = rustix::process::kill_process(pid, Signal::TERM);
                }
                let since = Instant::now();
                while since.elapsed() < END_WITHIN && matches!(child.try_wait(), Ok(None)) {
                    std::thread::sleep(LOOK_EVERY);
                }
                // It may have ended already.
                let _ = child.kill();
                let _ = child.wait();
            }
            Process::Found(peer) => {
                peer.end();
            }
        }
    }
}

impl Process {
    fn has_ended(&mut self) -> bool {
        match self {
            // One that cannot be asked for is not known to have ended.
            Self::Started(child) => child.try_wait().is_ok_and(|status| status.is_some()),
            Self::Found(peer) => peer.has_ended(),
        }
    }
}

/// While this lives, a process holds the robot.
pub struct KeptAlive {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for KeptAlive {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed already.
            let _ = thread.join();
        }
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
fn found(socket: &Path, robot: &Served) -> Result<Option<Peer>> {
    if !is_served(socket) {
        return Ok(None);
    }
    let in_the_way = |what: &str| {
        bad_input(what, socket.display(), "end the process that serves there, or choose another folder with --state")
    };
    let peer = Peer::at(socket).map_err(|error| in_the_way(&format!("somebody serves another robot ({error})")))?;
    // One that does not answer is of another version, or stopped.
    if let Ok(mut observer) = Observer::connect(socket) {
        if robot.is(observer.about()) {
            return Ok(Some(peer));
        }
        if observer.status().is_ok_and(|status| status.watchdog_since.is_none()) {
            return Err(in_the_way("a host commands another robot"));
        }
    }
    if peer.end() { Ok(None) } else { Err(in_the_way("another robot is served and does not end")) }
}

fn start(robot: &Served, site: Option<&Path>, socket: &Path) -> Result<Child> {
    let log = File::create(log_of(socket))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["link", &robot.robot, "--seed", &robot.seed.to_string()]);
    command.args(["--own-session", "--linger", LINGER_SECONDS, "--socket"]).arg(socket);
    if let Some(site) = site {
        command.arg("--site").arg(site);
    }
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
    !bridge::reach(socket).is_err_and(refused)
}

use peer::Peer;

/// The process behind a socket, as the kernel names it: what a file beside the socket says may be of another day, or a lie.
#[cfg(target_os = "linux")]
mod peer {
    use std::io::{self, ErrorKind};
    use std::os::fd::OwnedFd;
    use std::path::Path;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::net::sockopt::socket_peercred;
    use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};
    use waza_robot::bridge;

    use super::END_WITHIN;

    pub struct Peer {
        pid: Pid,
        process: OwnedFd,
    }

    impl Peer {
        /// Who serves there.
        pub fn at(socket: &Path) -> io::Result<Self> {
            let server = |socket| Ok::<_, io::Error>(socket_peercred(&bridge::reach(socket)?)?);
            let about = server(socket)?;
            if about.uid != geteuid() {
                return Err(io::Error::new(ErrorKind::PermissionDenied, "it is another user's"));
            }
            let process = pidfd_open(about.pid, PidfdFlags::empty())?;
            // The number could have passed to another process before that. Whoever serves has not ended since it was asked for.
            if server(socket)?.pid != about.pid {
                return Err(io::Error::other("another process has taken its place meanwhile"));
            }
            Ok(Self { pid: about.pid, process })
        }

        pub fn pid(&self) -> i32 {
            self.pid.as_raw_nonzero().get()
        }

        /// Ends it, and says whether it has.
        pub fn end(&self) -> bool {
            [Signal::TERM, Signal::KILL].into_iter().any(|how| {
                // It may have ended already.
                let _ = pidfd_send_signal(&self.process, how);
                self.ends(END_WITHIN)
            })
        }

        pub fn has_ended(&self) -> bool {
            self.ends(Duration::ZERO)
        }

        fn ends(&self, within: Duration) -> bool {
            let within = Timespec { tv_sec: within.as_secs() as i64, tv_nsec: 0 };
            // That of a process can be read when it is over.
            poll(&mut [PollFd::new(&self.process, PollFlags::IN)], Some(&within)).is_ok_and(|over| over > 0)
        }
    }
}

/// Elsewhere nobody is ended who is not a child of this process.
#[cfg(not(target_os = "linux"))]
mod peer {
    use std::io::{self, ErrorKind};
    use std::path::Path;

    pub enum Peer {}

    impl Peer {
        pub fn at(_: &Path) -> io::Result<Self> {
            Err(io::Error::new(ErrorKind::Unsupported, "its process is not known on this system"))
        }

        pub fn pid(&self) -> i32 {
            match *self {}
        }

        pub fn end(&self) -> bool {
            match *self {}
        }

        pub fn has_ended(&self) -> bool {
            match *self {}
        }
    }
}
