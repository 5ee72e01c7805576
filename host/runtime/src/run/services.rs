//! What all runs share.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use waza_package::{Engines, SkillId};
use waza_robot::Robot;
use waza_state::{Quarantine, RunFiles, StateFolder};

use crate::controllers::Controllers;
use crate::leases::Leases;
use crate::limits::memory::HostMemory;
use crate::model::Model;
use crate::run::Launch;
use crate::run::options::HostOptions;
use crate::run::registry::Runs;
use crate::run::running::Running;

/// Starts a run of a skill.
pub(crate) type Launcher = dyn Fn(&str, Launch) -> Running + Send + Sync;

/// What all runs share.
pub(crate) struct Services {
    pub engines: Engines,
    pub robot: Robot,
    pub model: Arc<dyn Model>,
    pub options: HostOptions,
    /// Ticks of robot time charged for an inference; 0 in real time.
    pub latency_ticks: u32,
    pub leases: Leases,
    pub checkpoints: Checkpoints,
    pub runs: Runs,
    pub quarantine: Quarantine,
    /// Of all runs together.
    pub memory: HostMemory,
    pub controllers: Controllers,
    /// Starts a run of a skill that another run invokes. Whoever starts runs lies above this, so it hands its door in.
    pub launch: Box<Launcher>,
    pub files: Option<Arc<RunFiles>>,
    /// Kept for as long as anybody writes there. Goes last: what is still to be written is written then.
    pub _state: Option<StateFolder>,
}

/// The last state that each skill left.
#[derive(Default)]
pub(crate) struct Checkpoints(Mutex<BTreeMap<SkillId, Vec<u8>>>);

impl Checkpoints {
    pub fn keep(&self, skill: &SkillId, state: Vec<u8>) {
        self.0.lock().insert(skill.clone(), state);
    }

    pub fn of(&self, skill: &SkillId) -> Option<Vec<u8>> {
        self.0.lock().get(skill).cloned()
    }
}
