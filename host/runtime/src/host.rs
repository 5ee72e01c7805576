//! The host: one robot, one model, and the skills that are loaded for them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{self, Poll};

use futures_channel::oneshot;
use wasmtime::component::Linker;
use waza_robot::embodiment::EmbodimentError;
use waza_robot::{Embodiment, Pace, Reply, Robot, Tightening, Within};

use crate::actor::Signal;
use crate::bindings::skill::SkillPre;
use crate::bindings::types;
use crate::budget::Budgets;
use crate::calls::{self, Run};
use crate::component::Loaded;
use crate::controller::Controller;
use crate::engine::Engines;
use crate::error::{RuntimeError, SkillError};
use crate::event::Event;
use crate::lease::Leases;
use crate::manifest::{Manifest, SkillId};
use crate::model::{Model, check_fit};
use crate::permission::{Grants, Permission};
use crate::run;

/// What an operator decides about a host.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// What one run may use.
    pub budgets: Budgets,
    /// Robot time that one inference takes under [`Pace::Lockstep`], ticks. In real time the real latency counts.
    pub model_latency_ticks: u32,
    /// Who answers the questions of skills.
    pub operator: Operator,
    /// Permissions that no skill gets, whatever it declares.
    pub withheld: BTreeSet<Permission>,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            budgets: Budgets::default(),
            model_latency_ticks: 5,
            operator: Operator::Absent,
            withheld: BTreeSet::new(),
        }
    }
}

/// Who answers the questions of skills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// Nobody: a question is refused as unavailable.
    Absent,
    /// Agrees to everything.
    SaysYes,
    /// Refuses everything.
    SaysNo,
}

/// What a skill is asked to do.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskRequest {
    /// In words.
    pub instruction: String,
    /// JSON, of the form that the skill documents; may be empty.
    pub parameters: String,
    /// The state of a checkpoint, to go on where another run ended.
    pub resume: Option<Vec<u8>>,
    /// Of the model's noise and of the skill's random numbers.
    pub seed: u64,
}

/// What a task came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// One sentence for people.
    pub summary: String,
    /// JSON for programs; may be empty.
    pub data: String,
}

/// A loaded skill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkillSummary {
    /// `vendor/name`.
    pub id: SkillId,
    /// Of the skill.
    pub version: semver::Version,
    /// What it asks to be allowed.
    pub permissions: BTreeSet<Permission>,
}

/// Runs skills. Cloning gives another handle to the same host.
#[derive(Clone)]
pub struct Host(pub(crate) Arc<Site>);

/// What all runs share.
pub(crate) struct Site {
    pub engines: Engines,
    pub robot: Robot,
    pub model: Arc<dyn Model>,
    pub options: HostOptions,
    /// Ticks of robot time charged for an inference; 0 in real time.
    pub latency_ticks: u32,
    pub leases: Leases,
    pub checkpoints: Checkpoints,
    skills: Mutex<BTreeMap<SkillId, Arc<Skill>>>,
}

/// A version of a skill. Runs in flight keep theirs when another is loaded.
pub(crate) struct Skill {
    pub manifest: Manifest,
    pub grants: Grants,
    /// The limits of its manifest over this robot's; `None`: it has none.
    pub within: Option<Arc<Within>>,
    pub component: SkillPre<Run>,
}

impl Skill {
    /// The robot as this skill may use it.
    pub fn robot<'a>(&'a self, whole: &'a Embodiment) -> &'a Embodiment {
        self.within.as_ref().map_or(whole, |within| within.embodiment())
    }
}

/// How a run starts.
pub(crate) struct Start {
    pub request: TaskRequest,
    pub events: Arc<dyn Fn(Event) + Send + Sync>,
    pub depth: u32,
}

/// The last state that each skill left.
#[derive(Default)]
pub(crate) struct Checkpoints(Mutex<BTreeMap<SkillId, Vec<u8>>>);

impl Checkpoints {
    pub fn keep(&self, skill: &SkillId, state: Vec<u8>) {
        lock(&self.0).insert(skill.clone(), state);
    }
}

/// A run. Resolves when it has ended, its leases are given up and its joints hold; under lockstep robot time stands
/// still until the reply's hold is dropped. Dropping it ends the run.
#[must_use = "dropping a run ends it"]
pub struct Running {
    answer: oneshot::Receiver<Reply<Ended>>,
    signal: Arc<Signal>,
    robot: Robot,
    skill: Option<SkillId>,
}

type Ended = Result<Outcome, SkillError>;

impl Future for Running {
    type Output = Reply<Ended>;

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<Self::Output> {
        let polled = Pin::new(&mut self.answer).poll(context);
        polled.map(|reply| {
            reply.unwrap_or_else(|_| {
                let error = match &self.skill {
                    Some(skill) => {
                        SkillError::Trapped { skill: skill.clone(), what: "the host's thread for it panicked".into() }
                    }
                    None => SkillError::NotLoaded { skill: String::new(), loaded: "none".into() },
                };
                Reply { value: Err(error), hold: self.robot.hold_time() }
            })
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal.stop();
    }
}

impl Host {
    /// A host for a robot and a model.
    ///
    /// # Errors
    /// [`RuntimeError::ModelMisfit`] if the model was made for another robot, [`RuntimeError::Engine`].
    pub fn new(robot: Robot, model: impl Model, options: HostOptions) -> Result<Self, RuntimeError> {
        check_fit(model.about(), robot.embodiment())?;
        let latency_ticks = match robot.pace() {
            Pace::RealTime => 0,
            Pace::Lockstep => options.model_latency_ticks,
        };
        Ok(Self(Arc::new(Site {
            engines: Engines::new(options.budgets.memory_bytes)?,
            leases: Leases::new(robot.clone()),
            robot,
            model: Arc::new(model),
            options,
            latency_ticks,
            checkpoints: Checkpoints::default(),
            skills: Mutex::default(),
        })))
    }

    /// Loads the skill package in a folder, in place of another version of the same skill. Runs in flight keep theirs.
    ///
    /// # Errors
    /// [`RuntimeError`] says what is wrong with the package, or what it needs and this robot or model lacks.
    pub fn load(&self, folder: &Path) -> Result<SkillId, RuntimeError> {
        let site = &self.0;
        let manifest = self.fitting(folder)?;
        let path = folder.join(&manifest.component);
        let Loaded::Skill(component) = Loaded::open(&site.engines, folder, &manifest)? else {
            let what = "it is of the world `controller`, which runs in the control loop".into();
            return Err(RuntimeError::Misfit { path, what });
        };
        let misfit = |error: wasmtime::Error| RuntimeError::Misfit {
            path: path.clone(),
            what: format!("{error:#}").replace('\n', " "),
        };
        let mut linker = Linker::new(&site.engines.skill);
        calls::link(&mut linker, &manifest).map_err(misfit)?;
        let component = linker.instantiate_pre(&component).and_then(SkillPre::new).map_err(misfit)?;
        let grants = Grants::new(&manifest.permissions, &site.options.withheld);
        let id = manifest.id.clone();
        let within = limits(&site.robot, &manifest)?;
        site.skills().insert(id.clone(), Arc::new(Skill { manifest, grants, within, component }));
        Ok(id)
    }

    /// The manifest of a package whose needs this robot and this model meet.
    fn fitting(&self, folder: &Path) -> Result<Manifest, RuntimeError> {
        let manifest = Manifest::open(folder)?;
        let lacking = manifest.mismatches(self.0.robot.embodiment(), self.0.model.about());
        if lacking.is_empty() {
            Ok(manifest)
        } else {
            Err(RuntimeError::Mismatch { id: manifest.id, what: lacking.join("; ") })
        }
    }

    /// Forgets a skill. Runs in flight go on. False: none of that id was loaded.
    pub fn unload(&self, skill: &SkillId) -> bool {
        self.0.skills().remove(skill).is_some()
    }

    /// Loads the controller package in a folder, for a caller that drives it itself.
    ///
    /// # Errors
    /// As [`Host::load`].
    pub fn controller(&self, folder: &Path) -> Result<Controller, RuntimeError> {
        let site = &self.0;
        let manifest = self.fitting(folder)?;
        let path = folder.join(&manifest.component);
        match Loaded::open(&site.engines, folder, &manifest)? {
            Loaded::Controller(component) => {
                Controller::new(&site.engines, &component, manifest, site.robot.embodiment(), &path)
            }
            Loaded::Skill(_) => {
                let what = "it is of the world `skill`, which runs beside the control loop".into();
                Err(RuntimeError::Misfit { path, what })
            }
        }
    }

    /// Every loaded skill, by id.
    pub fn skills(&self) -> Vec<SkillSummary> {
        let summary = |skill: &Arc<Skill>| SkillSummary {
            id: skill.manifest.id.clone(),
            version: skill.manifest.version.clone(),
            permissions: skill.manifest.permissions.clone(),
        };
        self.0.skills().values().map(summary).collect()
    }

    /// Starts a run, on a thread of its own, before this returns. `events` is called on that thread.
    pub fn run(&self, skill: &str, request: TaskRequest, events: impl Fn(Event) + Send + Sync + 'static) -> Running {
        self.0.run(skill, Start { request, events: Arc::new(events), depth: 0 })
    }

    /// Takes every lease of a skill away: its joints hold, and its next motion is refused as preempted.
    pub fn revoke(&self, skill: &SkillId) {
        self.0.leases.revoke(skill);
    }

    /// The last state that a skill left for going on, as [`TaskRequest::resume`] takes it. Kept until the host ends.
    pub fn checkpoint(&self, skill: &SkillId) -> Option<Vec<u8>> {
        lock(&self.0.checkpoints.0).get(skill).cloned()
    }

    /// The robot.
    pub fn robot(&self) -> &Robot {
        &self.0.robot
    }
}

/// What a manifest's limits leave of a robot; `None` if it has none.
fn limits(robot: &Robot, manifest: &Manifest) -> Result<Option<Arc<Within>>, RuntimeError> {
    if manifest.limits == Tightening::default() {
        return Ok(None);
    }
    let misfit = |error: EmbodimentError| RuntimeError::Mismatch { id: manifest.id.clone(), what: error.to_string() };
    robot.within(&manifest.limits, "its [limits]").map(Some).map_err(misfit)
}

impl Site {
    pub fn skill(&self, id: &str) -> Result<Arc<Skill>, SkillError> {
        let skills = self.skills();
        let found = skills.iter().find(|(loaded, _)| loaded.as_str() == id);
        found.map(|(_, skill)| skill.clone()).ok_or_else(|| {
            let loaded: Vec<_> = skills.keys().map(SkillId::as_str).collect();
            let loaded = if loaded.is_empty() { "none".into() } else { loaded.join(", ") };
            SkillError::NotLoaded { skill: id.into(), loaded }
        })
    }

    pub fn run(self: &Arc<Self>, skill: &str, start: Start) -> Running {
        let (sender, answer) = oneshot::channel();
        let signal = Signal::new();
        let reply = |value| Reply { value, hold: self.robot.hold_time() };
        let skill = match self.skill(skill) {
            Ok(skill) => skill,
            Err(error) => {
                // The receiver is in our hands.
                let _ = sender.send(reply(Err(error)));
                return Running { answer, signal, robot: self.robot.clone(), skill: None };
            }
        };
        let id = Some(skill.manifest.id.clone());
        run::start(self.clone(), skill, start, signal.clone(), sender);
        Running { answer, signal, robot: self.robot.clone(), skill: id }
    }

    fn skills(&self) -> MutexGuard<'_, BTreeMap<SkillId, Arc<Skill>>> {
        lock(&self.skills)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard changes in single steps, so a panic cannot leave it half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<types::Outcome> for Outcome {
    fn from(types::Outcome { summary, data }: types::Outcome) -> Self {
        Self { summary, data }
    }
}

impl From<Outcome> for types::Outcome {
    fn from(Outcome { summary, data }: Outcome) -> Self {
        Self { summary, data }
    }
}
