//! The host: one robot, one model, and the skills that are loaded for them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use waza_model::About;
use waza_package::{Engines, Flaw, Manifest, PackageError, Patience, SkillId, World};
use waza_robot::{Pace, Robot};
use waza_state::{
    Cache, Disk, Interrupted, Quarantine, Quarantined, RealDisk, RunFiles, RunId, RunNumbers, StateFolder, TaskRequest,
};

use crate::controllers::instance::Controller;
use crate::controllers::{Controllers, instantiate};
use crate::error::{RuntimeError, SkillError};
use crate::leases::Leases;
use crate::limits::memory::HostMemory;
use crate::limits::rate::Concurrent;
use crate::model::{Model, misfits};
use crate::package::{Fits, Package, SkillSummary, Workshop};
use crate::record::Journal;
use crate::run::Launch;
use crate::run::events::Event;
use crate::run::options::HostOptions;
use crate::run::registry::{RunSummary, Runs};
use crate::run::running::Running;
use crate::run::services::{Checkpoints, Services};
use crate::supervisor;
use crate::supervisor::skills::{Loaded, Skills};

/// Runs skills. Cloning gives another handle to the same host.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

struct Inner {
    skills: Arc<Skills>,
    workshop: Workshop,
    /// Of each id, the number of the change that began last.
    newest: Mutex<BTreeMap<SkillId, u64>>,
}

impl Host {
    /// A host for a robot and a model.
    ///
    /// # Errors
    /// [`RuntimeError::ModelMisfit`] if the model was made for another robot, [`RuntimeError::Package`] if there is no engine,
    /// [`RuntimeError::State`] if the state folder cannot be used.
    pub fn new(robot: Robot, model: impl Model, options: HostOptions) -> Result<Self, RuntimeError> {
        Self::with_disk(robot, model, options, Arc::new(RealDisk))
    }

    /// A host that keeps its state on another disk than the system's, for tests of what it does when that is slow.
    #[doc(hidden)]
    pub fn with_disk(
        robot: Robot,
        model: impl Model,
        options: HostOptions,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, RuntimeError> {
        let wrong = misfits(model.about(), robot.embodiment());
        if !wrong.is_empty() {
            let (model, robot) = (model.about().name.clone(), robot.embodiment().name.clone());
            return Err(RuntimeError::ModelMisfit { model, robot, what: wrong.join("; ") });
        }
        let latency_ticks = match robot.pace() {
            Pace::RealTime => 0,
            Pace::Lockstep => options.model_latency_ticks,
        };
        let state = options.state.as_deref().map(|path| StateFolder::open(path, disk)).transpose()?;
        let files = state.as_ref().map(RunFiles::open).transpose()?;
        let last = files.as_ref().and_then(|files| files.last());
        let cache = match (&options.cache, &state) {
            (Some(folder), _) => Cache::shared(folder)?,
            (None, Some(state)) => Cache::open(&state.folder("compiled")?)?,
            (None, None) => Cache::temporary()?,
        };
        let engines = Engines::new(options.budgets.memory())?;
        let workshop = Workshop { engines: engines.clone(), compiler: options.compiler.clone(), cache };
        let skills = Arc::new_cyclic(|skills: &Weak<Skills>| {
            let (skills, stopped) = (skills.clone(), robot.clone());
            let launch = move |skill: &str, launch: Launch| match skills.upgrade() {
                Some(skills) => supervisor::launch(&skills, skill, launch),
                // Runs keep the skills, so whoever asks is no run.
                None => {
                    let error = SkillError::NotLoaded { skill: skill.into(), loaded: "none".into() };
                    Running::refused(launch.id, error, stopped.clone())
                }
            };
            Skills::new(Arc::new(Services {
                engines,
                leases: Leases::new(robot.clone(), options.lease_term),
                robot,
                model: Arc::new(model),
                quarantine: Quarantine::open(state.as_ref()),
                memory: HostMemory::new(options.memory_bytes),
                options,
                latency_ticks,
                checkpoints: Checkpoints::default(),
                runs: Runs::new(RunNumbers::open(state.as_ref(), last)),
                controllers: Controllers::default(),
                launch: Box::new(launch),
                files,
                _state: state,
            }))
        });
        Ok(Self(Arc::new(Inner { skills, workshop, newest: Mutex::default() })))
    }

    pub(crate) fn skills_of(&self) -> &Arc<Skills> {
        &self.0.skills
    }

    fn services(&self) -> &Services {
        &self.0.skills.services
    }

    /// Loads the skill or controller package in a folder, in place of another version of the same. Runs of a skill which
    /// leave checkpoints change to it at the next, see [`SwapOptions`](crate::SwapOptions); where a controller is engaged, the
    /// new version takes over between two ticks. Of two that load packages of one id at once, the one that began later wins.
    ///
    /// # Errors
    /// [`RuntimeError`] says what is wrong with the package, or what it needs and this robot or model lacks.
    pub fn load(&self, folder: &Path) -> Result<SkillId, RuntimeError> {
        self.load_within(folder, Patience::Long)
    }

    /// The same, with so much patience for the compiler.
    pub(crate) fn load_within(&self, folder: &Path, patience: Patience) -> Result<SkillId, RuntimeError> {
        let requested = Instant::now();
        let services = self.services();
        let manifest = Manifest::open(folder).map_err(PackageError::from)?;
        let id = manifest.id.clone();
        let begun = self.begin_change(&id);
        let package = Arc::new(self.open(folder, manifest, patience)?);
        match package.world {
            World::Controller => {
                let newest = self.0.newest.lock();
                if newest.get(&id) == Some(&begun) {
                    let (robot, quarantine) = (services.robot.embodiment(), &services.quarantine);
                    services.controllers.install(package, &services.engines, robot, &services.memory, quarantine)?;
                    self.0.skills.unload(&id);
                }
            }
            World::Skill => {
                let pre = self.0.skills.link(&package)?;
                let version = Arc::new(Loaded { package, pre });
                let newest = self.0.newest.lock();
                if newest.get(&id) == Some(&begun) {
                    self.0.skills.load(&version);
                    services.controllers.remove(&id);
                    drop(newest);
                    self.0.skills.offer(&version, requested);
                }
                version.package.code.rest();
            }
        }
        Ok(id)
    }

    /// Whoever loads or unloads an id; an older load of it does not count any more.
    fn begin_change(&self, id: &SkillId) -> u64 {
        let mut newest = self.0.newest.lock();
        let change = newest.get(id).map_or(0, |change| change + 1);
        newest.insert(id.clone(), change);
        change
    }

    fn open(&self, folder: &Path, manifest: Manifest, patience: Patience) -> Result<Package, RuntimeError> {
        let Services { robot, model, options, .. } = self.services();
        let fits = Fits { robot: robot.embodiment(), model: model.about(), withheld: &options.withheld };
        Package::open(folder, manifest, options.layout, &fits, &self.0.workshop, patience)
    }

    /// Forgets a skill or a controller. Runs in flight go on. False: none of that id was loaded.
    pub fn unload(&self, skill: &SkillId) -> bool {
        self.begin_change(skill);
        let was_skill = self.0.skills.unload(skill);
        self.services().controllers.remove(skill) || was_skill
    }

    /// Loads the controller package in a folder, for a caller that drives it itself.
    ///
    /// # Errors
    /// As [`Host::load`].
    pub fn controller(&self, folder: &Path) -> Result<Controller, RuntimeError> {
        let manifest = Manifest::open(folder).map_err(PackageError::from)?;
        let package = Arc::new(self.open(folder, manifest, Patience::Long)?);
        let Services { engines, robot, memory, .. } = self.services();
        match package.world {
            World::Controller => instantiate(&package, engines, robot.embodiment(), memory),
            World::Skill => {
                let what = "it is of the world `skill`, which runs beside the control loop".into();
                Err(Flaw::Misfit(what).of(&package.path).into())
            }
        }
    }

    /// Every loaded skill, by id.
    pub fn skills(&self) -> Vec<SkillSummary> {
        self.0.skills.list()
    }

    /// Every controller that a skill can engage, by id.
    pub fn controllers(&self) -> Vec<SkillSummary> {
        self.services().controllers.list()
    }

    /// Starts a run, on a thread of its own, before this returns. `events` is called on that thread.
    pub fn run(&self, skill: &str, request: TaskRequest, events: impl Fn(Event) + Send + Sync + 'static) -> Running {
        self.start(skill, self.services().runs.number(), request, Arc::new(events), None)
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
        self.start(skill, self.services().runs.number(), request, Arc::new(events), Some(journal))
    }

    /// The runs in flight, those that skills invoked among them.
    pub fn runs(&self) -> Vec<RunSummary> {
        self.services().runs.jobs().iter().map(|job| RunSummary::of(job)).collect()
    }

    /// Runs that left checkpoints and did not come to their own end: those of earlier hosts with this state folder, and those
    /// of this one that were [interrupted](Running::interrupt) or that the host stop ended. None of them goes on by itself.
    pub fn interrupted(&self) -> Vec<Arc<Interrupted>> {
        self.services().files.as_ref().map(|files| files.interrupted()).unwrap_or_default()
    }

    /// Lets an interrupted run go on from its checkpoint, with the version of its skill that is loaded now. One that is refused
    /// still waits. None: there is no such run.
    pub fn resume(&self, run: RunId, events: impl Fn(Event) + Send + Sync + 'static) -> Option<Running> {
        supervisor::resume(&self.0.skills, run, Arc::new(events))
    }

    /// Forgets an interrupted run, and its checkpoint. False: there is none.
    pub fn forget(&self, run: RunId) -> bool {
        self.services().files.as_ref().is_some_and(|files| files.forget(run))
    }

    /// Takes every lease of a skill away: its joints hold, and its next motion is refused as preempted.
    pub fn revoke(&self, skill: &SkillId) {
        self.services().leases.revoke(skill);
    }

    /// The last state that a skill left for going on, as [`TaskRequest::resume`] takes it. Kept until the host ends.
    pub fn checkpoint(&self, skill: &SkillId) -> Option<Vec<u8>> {
        self.services().checkpoints.of(skill)
    }

    /// The versions of skills that are not run any more, oldest first.
    pub fn quarantined(&self) -> Vec<Quarantined> {
        self.services().quarantine.list()
    }

    /// Quarantines the loaded version of a skill or controller. Runs in flight go on. False: none of that id is loaded.
    pub fn quarantine(&self, skill: &SkillId, why: &str) -> bool {
        let services = self.services();
        let controller = services.controllers.installed(skill);
        let loaded = self.0.skills.current(skill.as_str()).ok().map(|version| version.package.clone());
        let condemned: Vec<_> = controller.into_iter().chain(loaded).collect();
        condemned.iter().for_each(|package| services.quarantine.condemn(&package.version(), why));
        !condemned.is_empty()
    }

    /// Forgets every strike of a skill, whichever version's. Says whether one of them was quarantined.
    pub fn pardon(&self, skill: &SkillId) -> bool {
        self.services().quarantine.pardon(skill)
    }

    /// What the model says about itself.
    pub fn model(&self) -> &About {
        self.services().model.about()
    }

    /// The robot.
    pub fn robot(&self) -> &Robot {
        &self.services().robot
    }

    /// Instances of skills that exist: those that work, those that wait for their turn, and those that are going.
    pub fn instances(&self) -> u64 {
        self.services().engines.instances()
    }

    /// Starts a run that nobody waits for but who asked for it.
    fn start(
        &self,
        skill: &str,
        id: RunId,
        request: TaskRequest,
        events: Arc<dyn Fn(Event) + Send + Sync>,
        journal: Option<Arc<dyn Journal>>,
    ) -> Running {
        let file = self.services().files.as_ref().map(|files| files.of(id));
        let family = Concurrent::default();
        let launch = Launch { id, request, callers: [].into(), events, file, family, slot: None, journal };
        supervisor::launch(&self.0.skills, skill, launch)
    }
}
