//! Starting and ending the daemon.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use waza_robot::Robot;
use waza_runtime::{Change, Host, RuntimeError, Watch};

use crate::api::{self, Site};
use crate::auth::Token;
use crate::news::Notice;
use crate::records::Records;
use crate::runs::Runs;
use crate::server::Server;
use crate::stops::{self, StopError, StopKind, Stops};

/// How often the latch is looked at. Braking does not wait for this; ending runs does.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long runs may take to end, and then joints to come to rest, before the daemon leaves anyway.
const END_WITHIN: Duration = Duration::from_secs(3);

/// What an operator decides.
#[derive(Clone)]
pub struct Options {
    /// Where the API is served. Anything but a loopback address needs a token.
    pub listen: SocketAddr,
    /// What a caller must know; nothing if left out.
    pub token: Option<Token>,
    /// What may stop the robot. Each must be seen alive before anything moves.
    pub stops: Vec<StopKind>,
    /// Makes the records of runs that ask for one; none can if left out.
    pub records: Option<Arc<dyn Records>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 7373).into(),
            token: None,
            stops: vec![StopKind::Signal, StopKind::Http],
            records: None,
        }
    }
}

/// Why a daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Others could reach it.
    #[error("{0} can be reached from other machines: give callers a token with --token FILE, or listen on 127.0.0.1")]
    NoToken(SocketAddr),
    /// The address cannot be had.
    #[error("cannot listen on {address}: {source}; choose another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A stop source cannot be had.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// The system refuses a thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Tells whoever started the daemon.
pub(crate) type Report = Arc<dyn Fn(Notice) + Send + Sync>;

/// A host that an operator can reach.
pub struct Daemon {
    site: Arc<Site>,
    tell: Report,
    server: Server,
    watches: Mutex<Vec<Watch>>,
    leave: Receiver<()>,
    stops: Stops,
}

impl Daemon {
    /// Declares the stop sources, serves the API and arms. `tell` is called on several threads and must not wait.
    ///
    /// # Errors
    /// [`DaemonError`] says what is in the way.
    pub fn start(
        host: Host,
        options: Options,
        tell: impl Fn(Notice) + Send + Sync + 'static,
    ) -> Result<Self, DaemonError> {
        let Options { listen, token, stops, records } = options;
        if !listen.ip().is_loopback() && token.is_none() {
            return Err(DaemonError::NoToken(listen));
        }
        let listener = TcpListener::bind(listen).map_err(|source| DaemonError::Listen { address: listen, source })?;
        let (leaving, leave) = channel();
        let robot = host.robot().clone();
        let (stops, http) = Stops::declare(&robot, &stops, on_leave(robot.clone(), leaving))?;
        let tell: Report = Arc::new(tell);
        let runs = Arc::new(Runs::new(tell.clone(), records));
        let site = Arc::new(Site::new(host, runs.clone(), http));
        let latch = follow_latch(robot, runs, tell.clone());
        let server = Server::start(listener, api::router(site.clone()), token.clone(), latch)?;
        if site.stop.is_some() {
            stops::http::probe(server.address, token.as_ref());
        }
        site.runs.tell_quarantined(&site.host);
        for run in site.host.interrupted() {
            tell(Notice::Interrupted { run: run.id, skill: run.skill, instruction: run.request.instruction });
        }
        Ok(Self { site, tell, server, watches: Mutex::default(), leave, stops })
    }

    /// Loads the packages in a folder and follows what changes there.
    ///
    /// # Errors
    /// [`RuntimeError::Watch`].
    pub fn watch(&self, folder: &Path) -> Result<(), RuntimeError> {
        let (site, tell) = (self.site.clone(), self.tell.clone());
        let watch = self.site.host.watch(folder, move |change| {
            site.packages.note(&change);
            tell(match change {
                Change::Loaded(skill) => {
                    let of =
                        site.host.skills().into_iter().chain(site.host.controllers()).find(|loaded| loaded.id == skill);
                    Notice::Loaded { version: of.map_or_else(String::new, |of| of.version.to_string()), skill }
                }
                Change::Removed(skill) => Notice::Removed(skill),
                Change::Refused { folder, error } => Notice::Refused { folder, why: error.to_string() },
            });
        })?;
        self.watches.lock().unwrap_or_else(PoisonError::into_inner).push(watch);
        Ok(())
    }

    /// Where the API is served.
    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// Names of the stop sources of which nothing has been heard within `patience`; the robot is armed if there are none.
    pub fn arm(&self, patience: Duration) -> Vec<String> {
        let began = Instant::now();
        loop {
            let sources = self.site.host.robot().stop_sources();
            let unseen: Vec<_> = sources.into_iter().filter(|source| !source.seen).map(|source| source.name).collect();
            if unseen.is_empty() || began.elapsed() > patience {
                return unseen;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until the system asks this process to leave, by SIGINT or SIGTERM; the host stop is latched then.
    pub fn wait_for_leave(&self) {
        // The other end lives as long as the process.
        let _ = self.leave.recv();
    }

    /// Stops the robot, ends every run, and returns once the joints are at rest or that takes too long.
    pub fn end(self) {
        let robot = self.site.host.robot().clone();
        robot.stop();
        self.site.runs.stop_all();
        within(END_WITHIN, || self.site.runs.running() == 0);
        let mut before = robot.commanded();
        within(END_WITHIN, || {
            let now = robot.commanded();
            std::mem::replace(&mut before, now) == before
        });
        drop(self.stops);
    }
}

/// What SIGINT and SIGTERM do: stop first, leave then.
fn on_leave(robot: Robot, leaving: Sender<()>) -> impl Fn() + Send + 'static {
    move || {
        robot.stop();
        // Whoever waited may be gone already.
        let _ = leaving.send(());
    }
}

/// Ends every run when the host stop is latched, whatever latched it.
async fn follow_latch(robot: Robot, runs: Arc<Runs>, tell: Report) {
    let mut known = None;
    let mut looking = tokio::time::interval(LOOK_EVERY);
    loop {
        looking.tick().await;
        let stopped = robot.stopped();
        if stopped == known {
            continue;
        }
        known = stopped;
        match stopped {
            Some(stop) => {
                runs.stop_all();
                tell(Notice::Stopped { stop: stop.number() });
            }
            None => tell(Notice::Reset),
        }
    }
}

fn within(time: Duration, mut is_done: impl FnMut() -> bool) {
    let began = Instant::now();
    while began.elapsed() < time {
        std::thread::sleep(LOOK_EVERY);
        if is_done() {
            return;
        }
    }
}
