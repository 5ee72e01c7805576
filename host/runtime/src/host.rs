//! The host: one robot, one model, and the skills that are loaded for them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{self, Poll};
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use waza_model::About;
use waza_robot::embodiment::EmbodimentError;
use waza_robot::{Embodiment, Pace, Reply, Robot, Tightening, Within};

use crate::contract::skill::SkillPre;
use crate::contract::types;
use crate::controllers::Controllers;
use crate::controllers::instance::Controller;
use crate::error::{RuntimeError, SkillError};
use crate::imports::Run;
use crate::imports::linkers::{Calls, Linkers};
use crate::leases::Leases;
use crate::limits::Budgets;
use crate::limits::rate::Crowd;
use crate::manifest::permission::{Grants, Permission};
use crate::manifest::{Manifest, SkillId};
use crate::model::{Model, check_fit};
use crate::package::cache::Cache;
use crate::package::code::Code;
use crate::package::compile::{Digest, Interfaces, Loaded};
use crate::package::engines::Engines;
use crate::record::Journal;
use crate::run::events::Event;
use crate::run::registry::{RunId, RunSummary, Runs};
use crate::run::thread::Signal;
use crate::state::StateFolder;
use crate::state::checkpoints::{Interrupted, RunFiles};
use crate::state::quarantine::{Edition, Quarantine, Quarantined};
use crate::supervisor::instance::Prepared;
use crate::supervisor::swap::{Offer, SwapOptions};
use crate::supervisor::{self, Start};

/// What an operator decides about a host.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// What one run may use.
    pub budgets: Budgets,
    /// Robot time that one inference takes under [`Pace::Lockstep`], ticks. In real time the real latency counts.
    pub model_latency_ticks: u32,
    /// Who answers the questions of skills.
    pub operator: Operator,
    /// Robot time in which a new version of an engaged controller that fails is replaced by the version before.
    pub controller_probation: Duration,
    /// Permissions that no skill gets, whatever it declares.
    pub withheld: BTreeSet<Permission>,
    /// Robot time after which a lease ends whose holder neither moves nor calls the host.
    pub lease_term: Duration,
    /// How a running skill changes its version.
    pub swap: SwapOptions,
    /// The folder in which the host keeps what it must know after a restart: compiled components, checkpoints of runs, the
    /// quarantine. None: it forgets.
    pub state: Option<PathBuf>,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            budgets: Budgets::default(),
            model_latency_ticks: 5,
            operator: Operator::Absent,
            controller_probation: Duration::from_secs(1),
            withheld: BTreeSet::new(),
            lease_term: Duration::from_secs(30),
            swap: SwapOptions::default(),
            state: None,
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
    /// A run gives way to one of higher priority that wants its joints.
    pub priority: u8,
}

/// What a task came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// One sentence for people.
    pub summary: String,
    /// JSON for programs; may be empty.
    pub data: String,
}

/// A loaded skill or controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkillSummary {
    /// `vendor/name`.
    pub id: SkillId,
    /// Of the skill.
    pub version: semver::Version,
    /// Of its component.
    pub digest: Digest,
    /// What it asks to be allowed.
    pub permissions: BTreeSet<Permission>,
}

impl SkillSummary {
    pub(crate) fn of(manifest: &Manifest, digest: Digest) -> Self {
        let Manifest { id, version, permissions, .. } = manifest.clone();
        Self { id, version, digest, permissions }
    }
}

/// Runs skills. Cloning gives another handle to the same host.
#[derive(Clone)]
pub struct Host(pub(crate) Arc<Site>);

/// What all runs share.
pub(crate) struct Site {
    pub engines: Engines,
    pub linkers: Linkers,
    pub robot: Robot,
    pub model: Arc<dyn Model>,
    pub options: HostOptions,
    /// Ticks of robot time charged for an inference; 0 in real time.
    pub latency_ticks: u32,
    pub leases: Leases,
    pub checkpoints: Checkpoints,
    pub runs: Runs,
    pub quarantine: Quarantine,
    pub controllers: Controllers,
    skills: Mutex<BTreeMap<SkillId, Arc<Skill>>>,
    cache: Option<Cache>,
    files: Option<RunFiles>,
    /// What earlier hosts left, and nobody has decided about.
    interrupted: Mutex<BTreeMap<RunId, Interrupted>>,
    /// Kept for the host's life.
    _state: Option<StateFolder>,
}

/// A version of a skill. Runs in flight keep theirs when another is loaded.
pub(crate) struct Skill {
    pub manifest: Manifest,
    /// Of its component.
    pub digest: Digest,
    pub grants: Grants,
    /// The limits of its manifest over this robot's; `None`: it has none.
    pub within: Option<Arc<Within>>,
    pub code: Code,
    /// The code, with the host's functions that it imports.
    pub component: SkillPre<Run>,
}

impl Skill {
    /// Which version it is.
    pub fn edition(&self) -> Edition<'_> {
        Edition { manifest: &self.manifest, digest: self.digest }
    }

    /// The robot as this skill may use it.
    pub fn robot<'a>(&'a self, whole: &'a Embodiment) -> &'a Embodiment {
        self.within.as_ref().map_or(whole, |within| within.embodiment())
    }
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
    id: RunId,
    answer: oneshot::Receiver<Reply<Ended>>,
    signal: Arc<Signal>,
    robot: Robot,
    skill: Option<SkillId>,
}

type Ended = Result<Outcome, SkillError>;

impl Running {
    /// The run's number.
    pub fn id(&self) -> RunId {
        self.id
    }

    /// Ends the run, as dropping it does, but it can still be waited for.
    pub fn stop(&self) {
        self.signal.stop();
    }
}

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
    /// [`RuntimeError::ModelMisfit`] if the model was made for another robot, [`RuntimeError::Engine`],
    /// [`RuntimeError::State`] if the state folder cannot be used.
    pub fn new(robot: Robot, model: impl Model, options: HostOptions) -> Result<Self, RuntimeError> {
        check_fit(model.about(), robot.embodiment())?;
        let latency_ticks = match robot.pace() {
            Pace::RealTime => 0,
            Pace::Lockstep => options.model_latency_ticks,
        };
        let state = options.state.as_deref().map(StateFolder::open).transpose()?;
        let files = state.as_ref().map(RunFiles::open).transpose()?;
        let interrupted = files.as_ref().map(RunFiles::interrupted).unwrap_or_default();
        let engines = Engines::new(&options.budgets)?;
        Ok(Self(Arc::new(Site {
            linkers: Linkers::new(&engines.skill),
            engines,
            leases: Leases::new(robot.clone(), options.lease_term),
            robot,
            model: Arc::new(model),
            quarantine: Quarantine::open(options.state.as_deref()),
            options,
            latency_ticks,
            checkpoints: Checkpoints::default(),
            runs: Runs::after(interrupted.keys().next_back().copied()),
            controllers: Controllers::default(),
            skills: Mutex::default(),
            cache: state.as_ref().map(Cache::open).transpose()?,
            files,
            interrupted: Mutex::new(interrupted),
            _state: state,
        })))
    }

    /// Loads the skill or controller package in a folder, in place of another version of the same. Runs of a skill which
    /// leave checkpoints change to it at the next, see [`swap`](crate::supervisor::swap); where a controller is engaged, the new version
    /// takes over between two ticks.
    ///
    /// # Errors
    /// [`RuntimeError`] says what is wrong with the package, or what it needs and this robot or model lacks.
    pub fn load(&self, folder: &Path) -> Result<SkillId, RuntimeError> {
        let requested = Instant::now();
        let site = &self.0;
        let manifest = self.fitting(folder)?;
        let path = folder.join(&manifest.component);
        let id = manifest.id.clone();
        let (loaded, digest) = Loaded::open(&site.engines, site.cache.as_ref(), folder, &manifest)?;
        let code = match loaded {
            Loaded::Skill(code) => code,
            Loaded::Controller(code) => {
                site.controllers.install(site, manifest, digest, code.component().clone(), &path)?;
                site.skills().remove(&id);
                return Ok(id);
            }
        };
        let misfit = |error: wasmtime::Error| RuntimeError::Misfit {
            path: path.clone(),
            what: format!("{error:#}").replace('\n', " "),
        };
        let component = site.linkers.link(code.component(), Interfaces::of(&manifest), Calls::Plain).map_err(misfit)?;
        let grants = Grants::new(&manifest.permissions, &site.options.withheld);
        let within = limits(&site.robot, &manifest)?;
        let skill = Arc::new(Skill { manifest, digest, grants, within, code, component });
        site.skills().insert(id.clone(), skill.clone());
        site.controllers.remove(&id);
        site.offer(&skill, requested);
        skill.code.rest();
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

    /// Forgets a skill or a controller. Runs in flight go on. False: none of that id was loaded.
    pub fn unload(&self, skill: &SkillId) -> bool {
        let was_skill = self.0.skills().remove(skill).is_some();
        self.0.controllers.remove(skill) || was_skill
    }

    /// Loads the controller package in a folder, for a caller that drives it itself.
    ///
    /// # Errors
    /// As [`Host::load`].
    pub fn controller(&self, folder: &Path) -> Result<Controller, RuntimeError> {
        let site = &self.0;
        let manifest = self.fitting(folder)?;
        let path = folder.join(&manifest.component);
        let (loaded, _) = Loaded::open(&site.engines, site.cache.as_ref(), folder, &manifest)?;
        match loaded {
            Loaded::Controller(code) => {
                Controller::new(&site.engines, code.component(), manifest, site.robot.embodiment(), &path)
            }
            Loaded::Skill(_) => {
                let what = "it is of the world `skill`, which runs beside the control loop".into();
                Err(RuntimeError::Misfit { path, what })
            }
        }
    }

    /// Every loaded skill, by id.
    pub fn skills(&self) -> Vec<SkillSummary> {
        self.0.skills().values().map(|skill| SkillSummary::of(&skill.manifest, skill.digest)).collect()
    }

    /// Every controller that a skill can engage, by id.
    pub fn controllers(&self) -> Vec<SkillSummary> {
        self.0.controllers.list()
    }

    /// Starts a run, on a thread of its own, before this returns. `events` is called on that thread.
    pub fn run(&self, skill: &str, request: TaskRequest, events: impl Fn(Event) + Send + Sync + 'static) -> Running {
        self.0.start(skill, self.0.runs.number(), request, Arc::new(events), None)
    }

    /// Starts a run that is written down, as [`Replay`](crate::Replay) takes it. Recording costs time at every call, and a
    /// run that is recorded keeps its version: a record is of one component.
    pub fn record(
        &self,
        skill: &str,
        request: TaskRequest,
        events: impl Fn(Event) + Send + Sync + 'static,
        journal: Arc<dyn Journal>,
    ) -> Running {
        self.0.start(skill, self.0.runs.number(), request, Arc::new(events), Some(journal))
    }

    /// The runs in flight, those that skills invoked among them.
    pub fn runs(&self) -> Vec<RunSummary> {
        self.0.runs.jobs().iter().map(|job| RunSummary::of(job)).collect()
    }

    /// Runs that earlier hosts with this state folder did not live to end, and that left checkpoints. None of them goes on
    /// by itself.
    pub fn interrupted(&self) -> Vec<Interrupted> {
        lock(&self.0.interrupted).values().cloned().collect()
    }

    /// Lets an interrupted run go on from its checkpoint, with the version of its skill that is loaded now. None: there is no
    /// such run.
    pub fn resume(&self, run: RunId, events: impl Fn(Event) + Send + Sync + 'static) -> Option<Running> {
        let Interrupted { skill, request, .. } = lock(&self.0.interrupted).get(&run)?.clone();
        // One whose skill is missing is still there when the skill is.
        if self.0.skill(skill.as_str()).is_ok() {
            lock(&self.0.interrupted).remove(&run)?;
        }
        Some(self.0.start(skill.as_str(), run, request, Arc::new(events), None))
    }

    /// Forgets an interrupted run, and its checkpoint. False: there is none.
    pub fn forget(&self, run: RunId) -> bool {
        let found = lock(&self.0.interrupted).remove(&run).is_some();
        if let Some(files) = self.0.files.as_ref().filter(|_| found) {
            files.of(run).remove();
        }
        found
    }

    /// Takes every lease of a skill away: its joints hold, and its next motion is refused as preempted.
    pub fn revoke(&self, skill: &SkillId) {
        self.0.leases.revoke(skill);
    }

    /// The last state that a skill left for going on, as [`TaskRequest::resume`] takes it. Kept until the host ends.
    pub fn checkpoint(&self, skill: &SkillId) -> Option<Vec<u8>> {
        lock(&self.0.checkpoints.0).get(skill).cloned()
    }

    /// The versions of skills that are not run any more, oldest first.
    pub fn quarantined(&self) -> Vec<Quarantined> {
        self.0.quarantine.list()
    }

    /// Quarantines the loaded version of a skill or controller. Runs in flight go on. False: none of that id is loaded.
    pub fn quarantine(&self, skill: &SkillId, why: &str) -> bool {
        let site = &self.0;
        let controller = site.controllers.installed(skill);
        let condemned = controller.map(|installed| site.quarantine.condemn(installed.edition(), why));
        let skill = site.skill(skill.as_str());
        condemned.is_some() | skill.inspect(|skill| site.quarantine.condemn(skill.edition(), why)).is_ok()
    }

    /// Forgets every strike of a skill, whichever version's. Says whether one of them was quarantined.
    pub fn pardon(&self, skill: &SkillId) -> bool {
        self.0.quarantine.pardon(skill)
    }

    /// What the model says about itself.
    pub fn model(&self) -> &About {
        self.0.model.about()
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

    /// Starts a run that nobody waits for but who asked for it.
    fn start(
        self: &Arc<Self>,
        skill: &str,
        id: RunId,
        request: TaskRequest,
        events: Arc<dyn Fn(Event) + Send + Sync>,
        journal: Option<Arc<dyn Journal>>,
    ) -> Running {
        let file = self.files.as_ref().map(|files| files.of(id));
        self.run(skill, Start { id, request, callers: [].into(), events, file, family: Crowd::default(), journal })
    }

    pub fn run(self: &Arc<Self>, skill: &str, start: Start) -> Running {
        let (sender, answer) = oneshot::channel();
        let (id, signal) = (start.id, Signal::new());
        let reply = |value| Reply { value, hold: self.robot.hold_time() };
        let admitted = self.skill(skill).and_then(|skill| self.quarantine.check(skill.edition()).map(|()| skill));
        let skill = match admitted {
            Ok(skill) => skill,
            Err(error) => {
                // The receiver is in our hands.
                let _ = sender.send(reply(Err(error)));
                return Running { id, answer, signal, robot: self.robot.clone(), skill: None };
            }
        };
        let of = Some(skill.manifest.id.clone());
        supervisor::start(self.clone(), skill, start, signal.clone(), sender);
        Running { id, answer, signal, robot: self.robot.clone(), skill: of }
    }

    /// Offers a version to the runs of its skill.
    fn offer(self: &Arc<Self>, skill: &Arc<Skill>, requested: Instant) {
        if skill.grants.check(&Permission::Durable).is_err() || self.quarantine.check(skill.edition()).is_err() {
            return;
        }
        for job in self.runs.jobs().into_iter().filter(|job| job.wants(skill)) {
            match Prepared::new(self, skill, &job) {
                Ok(prepared) => job.offer(Offer { prepared, skill: skill.clone(), requested }),
                Err(error) => {
                    let (old, why) = (job.working(), error.to_string());
                    let (from, to) = (skill.manifest.version.clone(), old.manifest.version.clone());
                    self.condemn(skill, &old, &why);
                    (job.events)(Event::RolledBack { skill: skill.manifest.id.clone(), from, to, why });
                }
            }
        }
    }

    /// A version has failed where the one before had not: that one is loaded again.
    pub fn condemn(&self, skill: &Skill, before: &Arc<Skill>, why: &str) {
        self.quarantine.condemn(skill.edition(), why);
        let mut skills = self.skills();
        if skills.get(&skill.manifest.id).is_some_and(|loaded| loaded.digest == skill.digest) {
            skills.insert(skill.manifest.id.clone(), before.clone());
        }
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
