//! The versions of skills that are loaded, and the instances of them that wait for their turn in a run.
//!
//! Which version of a skill is wanted has one owner, this: an offer to a run is good only while its version is the loaded
//! one and not quarantined. One that is withdrawn, replaced or condemned meanwhile goes, and a run that has ended is offered
//! nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Wake;
use std::time::Instant;

use parking_lot::Mutex;
use waza_package::{Flaw, Interfaces, Permission, SkillId, VersionId};
use waza_state::RunId;

use crate::contract::skill::SkillPre;
use crate::error::{RuntimeError, SkillError};
use crate::imports::linkers::Linkers;
use crate::imports::sandbox::Sandbox;
use crate::package::{Package, SkillSummary};
use crate::run::Job;
use crate::run::events::Event;
use crate::run::services::Services;
use crate::supervisor::instance::Instance;

/// A version of a skill. Runs in flight keep theirs when another is loaded.
pub(crate) struct Loaded {
    pub package: Arc<Package>,
    /// Its code, with the host's functions that it imports.
    pub pre: SkillPre<Sandbox>,
}

/// An instance of another version that waits for a run's next safe point.
pub(super) struct Offer {
    pub instance: Instance,
    pub version: Arc<Loaded>,
    /// When somebody asked for it.
    pub requested: Instant,
}

/// The loaded skills.
pub(crate) struct Skills {
    pub services: Arc<Services>,
    linkers: Linkers,
    versions: Mutex<Versions>,
}

#[derive(Default)]
struct Versions {
    loaded: BTreeMap<SkillId, Arc<Loaded>>,
    /// Of every run in flight.
    runs: BTreeMap<RunId, InRun>,
}

struct InRun {
    working: Arc<Loaded>,
    /// The newest.
    offer: Option<Offer>,
}

impl Versions {
    fn is_current(&self, version: &Arc<Loaded>) -> bool {
        self.loaded.get(version.package.id()).is_some_and(|loaded| Arc::ptr_eq(loaded, version))
    }
}

impl Skills {
    pub fn new(services: Arc<Services>) -> Self {
        let linkers = Linkers::new(&services.engines.skill);
        Self { services, linkers, versions: Mutex::default() }
    }

    /// The loaded version of a skill.
    pub fn current(&self, id: &str) -> Result<Arc<Loaded>, SkillError> {
        let versions = self.versions.lock();
        let found = versions.loaded.iter().find(|(loaded, _)| loaded.as_str() == id);
        found.map(|(_, version)| version.clone()).ok_or_else(|| {
            let loaded: Vec<_> = versions.loaded.keys().map(SkillId::as_str).collect();
            let loaded = if loaded.is_empty() { "none".into() } else { loaded.join(", ") };
            SkillError::NotLoaded { skill: id.into(), loaded }
        })
    }

    /// Every loaded skill, by id.
    pub fn list(&self) -> Vec<SkillSummary> {
        self.versions.lock().loaded.values().map(|version| version.package.summary()).collect()
    }

    /// Links a package with the interfaces that it asks for, and with nothing else.
    pub fn link(&self, package: &Package) -> Result<SkillPre<Sandbox>, RuntimeError> {
        let linked = self.linkers.link(package.code.component(), Interfaces::of(&package.manifest));
        linked.map_err(|error| Flaw::misfit(&error).of(&package.path).into())
    }

    /// Loads a version in place of another.
    pub fn load(&self, version: &Arc<Loaded>) {
        let replaced = self.change(|loaded| loaded.insert(version.package.id().clone(), version.clone()));
        drop(replaced);
    }

    /// False: none of that id was loaded. Runs in flight go on.
    pub fn unload(&self, id: &SkillId) -> bool {
        self.change(|loaded| loaded.remove(id).is_some())
    }

    /// A version has failed where the one before had not: it is quarantined, and that one is loaded again.
    pub fn condemn(&self, failed: &Package, before: &Arc<Loaded>, why: &str) {
        self.services.quarantine.condemn(&failed.version(), why);
        self.change(|loaded| {
            if let Some(loaded) = loaded.get_mut(failed.id()).filter(|loaded| loaded.package.digest == failed.digest) {
                *loaded = before.clone();
            }
        });
    }

    /// A run begins, or goes on with another version.
    pub fn works(&self, job: &Job, version: &Arc<Loaded>) {
        let mut versions = self.versions.lock();
        match versions.runs.get_mut(&job.id) {
            Some(run) => run.working = version.clone(),
            None => drop(versions.runs.insert(job.id, InRun { working: version.clone(), offer: None })),
        }
        job.hand_to(version.package.clone());
    }

    /// A run is over: from here on it is offered nothing.
    pub fn ended(&self, run: RunId) {
        let ended = self.versions.lock().runs.remove(&run);
        // An instance takes time to go: not under the lock.
        drop(ended);
    }

    /// Which version a run is offered.
    pub(super) fn offered(&self, run: RunId) -> Option<VersionId> {
        let versions = self.versions.lock();
        versions.runs.get(&run)?.offer.as_ref().map(|offer| offer.version.package.version())
    }

    /// Takes what a run is offered. None: it was withdrawn, or has been quarantined since.
    pub(super) fn take_offer(&self, job: &Job) -> Option<Offer> {
        let mut versions = self.versions.lock();
        let offer = versions.runs.get_mut(&job.id)?.offer.take();
        job.newer.set(false);
        drop(versions);
        offer.filter(|offer| self.services.quarantine.why(&offer.version.package.version()).is_none())
    }

    /// Changes what is loaded, and takes away the offers that this makes void.
    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<SkillId, Arc<Loaded>>) -> T) -> T {
        let mut versions = self.versions.lock();
        let changed = change(&mut versions.loaded);
        let Versions { loaded, runs } = &mut *versions;
        let is_void = |offer: &mut Offer| {
            let current = loaded.get(offer.version.package.id());
            !current.is_some_and(|current| Arc::ptr_eq(current, &offer.version))
        };
        let void: Vec<_> = runs.iter_mut().filter_map(|(&run, it)| Some((run, it.offer.take_if(is_void)?))).collect();
        let jobs: Vec<_> = void.iter().filter_map(|(run, _)| self.services.runs.job(*run)).collect();
        jobs.iter().for_each(|job| job.newer.set(false));
        drop(versions);
        // Instances take time to go, and runs are to notice that nothing waits for them any more: not under the lock.
        drop(void);
        jobs.iter().for_each(|job| job.signal.wake_by_ref());
        changed
    }

    /// Makes an instance of a version for each run that could go on with it.
    pub fn offer(&self, version: &Arc<Loaded>, requested: Instant) {
        let package = &version.package;
        if package.grants.check(&Permission::Durable).is_err() {
            return;
        }
        for job in self.services.runs.jobs().into_iter().filter(|job| job.wants(package)) {
            if self.services.quarantine.why(&package.version()).is_some() {
                return;
            }
            match Instance::ahead(&self.services, version, &job) {
                Ok(instance) => self.make(&job, Offer { instance, version: version.clone(), requested }),
                // The run was ended meanwhile.
                Err(SkillError::Stopped { .. }) => {}
                // Others take all memory.
                Err(error) if !error.is_the_versions_fault() => {
                    tracing::warn!("the run {} keeps its version of {}: {error}", job.id, package.id());
                }
                Err(error) => self.reject(&job, package, &error.to_string()),
            }
        }
    }

    /// Makes an offer, unless the run has ended or the version has gone while the instance was made.
    fn make(&self, job: &Job, offer: Offer) {
        let mut versions = self.versions.lock();
        let is_current = versions.is_current(&offer.version);
        let refused = match versions.runs.get_mut(&job.id).filter(|_| is_current) {
            Some(run) => {
                let replaced = run.offer.replace(offer);
                job.newer.set(true);
                replaced
            }
            None => Some(offer),
        };
        drop(versions);
        drop(refused);
        job.signal.wake_by_ref();
    }

    /// A version that cannot even begin is as bad as one that fails later.
    fn reject(&self, job: &Job, package: &Package, why: &str) {
        let working = self.versions.lock().runs.get(&job.id).map(|run| run.working.clone());
        let Some(old) = working else { return };
        self.condemn(package, &old, why);
        let (from, to) = (package.manifest.version.clone(), old.package.manifest.version.clone());
        (job.events)(Event::RolledBack { skill: package.id().clone(), from, to, why: why.into() });
    }
}
