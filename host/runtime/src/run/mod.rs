//! What stays of a run while versions of its skill come and go.

pub(crate) mod activity;
pub mod events;
pub mod options;
pub(crate) mod registry;
pub(crate) mod running;
pub(crate) mod safe_point;
pub(crate) mod services;
pub(crate) mod thread;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use parking_lot::Mutex;
use waza_package::Digest;
use waza_state::{RunFile, RunId, TaskRequest, writer::Written};

use crate::leases::Heartbeat;
use crate::limits::rate::{Concurrent, Meter, Slot};
use crate::package::Package;
use crate::record::{Journal, Tape};
use crate::run::events::Event;
use crate::run::safe_point::Flag;
use crate::run::services::Services;
use crate::run::thread::{Holds, Signal};

/// How a run starts.
pub(crate) struct Launch {
    pub id: RunId,
    pub request: TaskRequest,
    /// The runs that wait for this one's outcome.
    pub callers: Arc<[RunId]>,
    pub events: Arc<dyn Fn(Event) + Send + Sync>,
    /// Where a killed host finds its checkpoints.
    pub file: Option<RunFile>,
    /// The run and all that its like invoked.
    pub family: Concurrent,
    /// Its own place in it, if it was invoked. It keeps it until it is over, however early its caller looks away.
    pub slot: Option<Slot>,
    /// Where the run is written down.
    pub journal: Option<Arc<dyn Journal>>,
}

/// A run, whichever version works on it.
pub(crate) struct Job {
    pub id: RunId,
    pub request: TaskRequest,
    /// The runs that wait for this one's outcome.
    pub callers: Arc<[RunId]>,
    pub events: Arc<dyn Fn(Event) + Send + Sync>,
    pub signal: Arc<Signal>,
    pub holds: Holds,
    pub begun_tick: u64,
    /// When its time is up.
    pub until_tick: u64,
    /// Counts the requests to the model, so that each has its own noise.
    pub requests: AtomicU64,
    /// Counts the instances that have worked on it.
    pub instances: AtomicU32,
    pub heartbeat: Arc<Heartbeat>,
    pub meter: Arc<Meter>,
    /// Of a run that is recorded.
    pub tape: Option<Arc<Tape>>,
    /// An instance of another version is ready to take the place of the one that works.
    pub newer: Flag,
    /// The version that works.
    working: Mutex<Arc<Package>>,
    /// Versions that did not prove themselves in this run.
    refused: Mutex<BTreeSet<Digest>>,
    checkpoint: Mutex<Option<Vec<u8>>>,
    /// Where a killed host finds its checkpoints.
    pub file: Option<RunFile>,
}

impl Job {
    pub fn new(services: &Services, package: &Arc<Package>, launch: Launch, signal: Arc<Signal>) -> Self {
        let Launch { id, request, callers, events, file, family, journal, .. } = launch;
        let begun_tick = services.robot.tick();
        let budgets = &services.options.budgets;
        let ticks = budgets.run_time.as_secs_f64() * f64::from(services.robot.embodiment().control_hz);
        let heartbeat = Arc::new(Heartbeat::default());
        heartbeat.beat(begun_tick);
        Self {
            id,
            checkpoint: Mutex::new(request.resume.clone()),
            request,
            callers,
            events,
            signal,
            holds: Holds::default(),
            begun_tick,
            until_tick: begun_tick.saturating_add(ticks as u64),
            requests: AtomicU64::new(0),
            instances: AtomicU32::new(0),
            heartbeat,
            meter: Arc::new(Meter::new(budgets, family, services.robot.tick_ns(begun_tick))),
            tape: journal.map(|journal| Tape::new(journal, services.robot.clone())),
            newer: Flag::default(),
            working: Mutex::new(package.clone()),
            refused: Mutex::default(),
            file,
        }
    }

    /// The version that works.
    pub fn working(&self) -> Arc<Package> {
        self.working.lock().clone()
    }

    /// Another version works from here on.
    pub fn hand_to(&self, package: Arc<Package>) {
        *self.working.lock() = package;
    }

    /// This run has no use for a version any more.
    pub fn refuse(&self, version: Digest) {
        self.refused.lock().insert(version);
    }

    /// Whether a version could take the place of the one that works. A record is of one component.
    pub fn wants(&self, package: &Package) -> bool {
        let working = self.working();
        self.tape.is_none()
            && working.manifest.id == package.manifest.id
            && working.digest != package.digest
            && !self.refused.lock().contains(&package.digest)
    }

    /// Lets the state of a checkpoint be written for the next host. None: nobody asked for that.
    pub fn write(&self, package: &Package, state: &[u8]) -> std::io::Result<Option<Written>> {
        self.file.as_ref().map(|file| file.keep(package.version(), &self.request, state)).transpose()
    }

    /// From where the run goes on if it changes its version.
    pub fn keep(&self, state: Vec<u8>) {
        *self.checkpoint.lock() = Some(state);
    }

    pub fn checkpoint(&self) -> Option<Vec<u8>> {
        self.checkpoint.lock().clone()
    }
}
