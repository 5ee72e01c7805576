//! Starting and ending the daemon.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use waza_robot::{Robot, Stopped};
use waza_runtime::{Change, Host, RuntimeError, Watch};

use crate::api::{self, Site};
use crate::auth::Token;
use crate::news::{News, Report};
use crate::records::Records;
use crate::robot::{self, LOOK_EVERY, Watched};
use crate::runs::{Runs, view_of_interrupted};
use crate::server::{Limits, Server};
use crate::stops::{self, StopError, StopKind, Stops};

/// How long runs may take to end, and then joints to come to rest, before the daemon leaves anyway.
const END_WITHIN: Duration = Duration::from_secs(3);

/// What an operator decides.
#[derive(Clone)]
pub struct Options {
    /// Where the API is served. Anything but a loopback address needs a token.
    pub listen: SocketAddr,
    /// Where the host stop and how the robot is are served as well, and nothing else; nowhere if left out. As `listen`.
    pub listen_stop: Option<SocketAddr>,
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
            listen_stop: None,
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
    #[error("cannot listen on {address}: {source}; choose another address with {option}")]
    Listen {
        /// What chooses it.
        option: &'static str,
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

/// A host that an operator can reach.
pub struct Daemon {
    site: Arc<Site>,
    report: Report,
    server: Server,
    watches: Mutex<Vec<Watch>>,
    leave: Receiver<Option<Stopped>>,
    /// The stop that this process was asked to leave with, if it latched one by that.
    leaving: Mutex<Option<Stopped>>,
    stops: Stops,
}

impl Daemon {
    /// Declares the stop sources, serves the API and arms. `report` is called on several threads and must not wait.
    ///
    /// # Errors
    /// [`DaemonError`] says what is in the way.
    pub fn start(
        host: Host,
        options: Options,
        report: impl Fn(News) + Send + Sync + 'static,
    ) -> Result<Self, DaemonError> {
        let Options { listen, listen_stop, token, stops, records } = options;
        let bind = |option, address: SocketAddr| {
            if !address.ip().is_loopback() && token.is_none() {
                return Err(DaemonError::NoToken(address));
            }
            self::bind(address).map_err(|source| DaemonError::Listen { option, address, source })
        };
        let listener = bind("--listen", listen)?;
        let stop_listener = listen_stop.map(|address| bind("--listen-stop", address)).transpose()?;
        // Once is enough.
        let (leaving, leave) = sync_channel(1);
        let robot = host.robot().clone();
        let (stops, http) = Stops::declare(&robot, &stops, on_leave(robot.clone(), leaving))?;
        let report: Report = Arc::new(report);
        let runs = Arc::new(Runs::new(report.clone(), records));
        let watched = Arc::new(Watched::default());
        let site = Arc::new(Site::new(host, runs.clone(), watched.clone(), http));
        let follow = robot::follow(robot, runs, watched, report.clone());
        let routes = api::routes(site.clone());
        let server = Server::start(listener, stop_listener, routes, token.clone(), Limits::default(), follow)?;
        if site.stop.is_some() {
            stops::http::probe(server.address, token.as_ref());
        }
        site.runs.tell_quarantined(&site.host);
        for run in site.host.interrupted() {
            report(News::Interrupted(view_of_interrupted(run)));
        }
        let (watches, leaving) = Default::default();
        Ok(Self { site, report, server, watches, leave, leaving, stops })
    }

    /// Loads the packages in a folder and follows what changes there.
    ///
    /// # Errors
    /// [`RuntimeError::Watch`].
    pub fn watch(&self, folder: &Path) -> Result<(), RuntimeError> {
        let (site, report) = (self.site.clone(), self.report.clone());
        let watch = self.site.host.watch(folder, move |change| {
            site.packages.note(&change);
            report(match change {
                Change::Loaded(skill) => {
                    let of =
                        site.host.skills().into_iter().chain(site.host.controllers()).find(|loaded| loaded.id == skill);
                    News::Loaded { version: of.map_or_else(String::new, |of| of.version.to_string()), skill }
                }
                Change::Removed(skill) => News::Removed(skill),
                Change::Refused { folder, error } => News::Refused { folder, why: error.to_string() },
            });
        })?;
        self.watches.lock().push(watch);
        Ok(())
    }

    /// Where the API is served.
    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// Where nothing but the stop and how the robot is are served.
    pub fn stop_address(&self) -> Option<SocketAddr> {
        self.server.stop_address
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
        *self.leaving.lock() = self.leave.recv().ok().flatten();
    }

    /// Stops the robot, ends every run, and returns once the joints are at rest or that takes too long. The stop that was latched
    /// for this alone: whoever leaves may [take it back](Robot::take_back), so that the next host does not find it. `None`:
    /// somebody had asked for one before.
    pub fn end(self) -> Option<Stopped> {
        let Self { site, server, leaving, stops, .. } = self;
        let robot = site.host.robot().clone();
        let leaving = leaving.into_inner().filter(|own| robot.stopped() == Some(*own));
        let leaving = leaving.or_else(|| robot.stop_for_now());
        site.runs.interrupt_all();
        within(END_WITHIN, || site.runs.running() == 0);
        let mut before = robot.commanded();
        within(END_WITHIN, || {
            let now = robot.commanded();
            std::mem::replace(&mut before, now) == before
        });
        // Nobody asks for a stop in these ways any more.
        drop((server, stops));
        leaving
    }
}

/// Connections that may wait to be taken: whoever finds no room tries again only a second later. The system may allow fewer.
#[cfg(unix)]
const MOST_UNTAKEN: i32 = 4096;

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    #[cfg(unix)]
    rustix::net::listen(&listener, MOST_UNTAKEN)?;
    Ok(listener)
}

/// What SIGINT and SIGTERM do: stop first, leave then.
fn on_leave(robot: Robot, leaving: SyncSender<Option<Stopped>>) -> impl Fn() + Send + 'static {
    move || {
        // Whoever waits has been told already, or is gone.
        let _ = leaving.try_send(robot.stop_for_now());
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
