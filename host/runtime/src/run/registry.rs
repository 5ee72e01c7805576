//! The runs of a host: their numbers, and those in flight.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use serde::{Deserialize, Serialize};

use crate::manifest::SkillId;
use crate::supervisor::Job;

/// A run's number: unique in a host, and in all hosts that used its state folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub(crate) u64);

impl fmt::Display for RunId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl std::str::FromStr for RunId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

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
    next: AtomicU64,
    live: Mutex<BTreeMap<RunId, Weak<Job>>>,
}

impl Runs {
    /// Numbers begin after the last that was ever used.
    pub fn after(last: Option<RunId>) -> Self {
        Self { next: AtomicU64::new(last.map_or(1, |last| last.0.saturating_add(1))), live: Mutex::default() }
    }

    pub fn number(&self) -> RunId {
        RunId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    pub fn begin(&self, job: &Arc<Job>) {
        self.lock().insert(job.id, Arc::downgrade(job));
    }

    pub fn end(&self, run: RunId) {
        self.lock().remove(&run);
    }

    pub fn jobs(&self) -> Vec<Arc<Job>> {
        self.lock().values().filter_map(Weak::upgrade).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RunId, Weak<Job>>> {
        // Every change under this lock is a single step, so a panic cannot leave it half done.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
