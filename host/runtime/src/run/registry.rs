//! The runs of a host: their numbers, and those in flight.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use waza_package::SkillId;
use waza_state::{RunId, RunNumbers};

use crate::run::Job;

/// A run in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSummary {
    /// Its number.
    pub id: RunId,
    /// The skill that works on it.
    pub skill: SkillId,
    /// In the version that does so now.
    pub version: semver::Version,
    /// What it was asked to do.
    pub instruction: String,
    /// Its priority.
    pub priority: u8,
}

impl RunSummary {
    pub(crate) fn of(job: &Job) -> Self {
        let skill = job.working();
        Self {
            id: job.id,
            skill: skill.manifest.id.clone(),
            version: skill.manifest.version.clone(),
            instruction: job.request.instruction.clone(),
            priority: job.request.priority,
        }
    }
}

/// The runs in flight.
pub(crate) struct Runs {
    numbers: RunNumbers,
    live: Mutex<BTreeMap<RunId, Weak<Job>>>,
}

impl Runs {
    pub fn new(numbers: RunNumbers) -> Self {
        Self { numbers, live: Mutex::default() }
    }

    pub fn number(&self) -> RunId {
        self.numbers.next()
    }

    pub fn begin(&self, job: &Arc<Job>) {
        self.live.lock().insert(job.id, Arc::downgrade(job));
    }

    pub fn end(&self, run: RunId) {
        self.live.lock().remove(&run);
    }

    /// A run in flight.
    pub fn job(&self, run: RunId) -> Option<Arc<Job>> {
        self.live.lock().get(&run).and_then(Weak::upgrade)
    }

    pub fn jobs(&self) -> Vec<Arc<Job>> {
        self.live.lock().values().filter_map(Weak::upgrade).collect()
    }
}
