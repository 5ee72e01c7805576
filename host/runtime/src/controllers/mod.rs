//! Controllers: which are installed, and where a newer version waits for its turn.
//!
//! When a newer version is installed, it is made and checked on the installing thread, and offered to whatever drives with an
//! older one.

pub mod instance;
pub(crate) mod random;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use waza_package::{Engines, SkillId};
use waza_robot::Embodiment;
use waza_state::Quarantine;

use crate::contract::Refusal;
use crate::controllers::instance::Controller;
use crate::error::RuntimeError;
use crate::limits::memory::HostMemory;
use crate::package::{Package, SkillSummary};

/// A version of a controller that can be engaged.
pub(crate) type Installed = Arc<Package>;

/// An instance of an installed version.
pub(crate) fn instantiate(
    installed: &Installed,
    engines: &Engines,
    robot: &Embodiment,
    memory: &HostMemory,
) -> Result<Controller, RuntimeError> {
    Controller::new(engines, installed.code.component(), installed.id().clone(), robot, &installed.path, memory)
}

/// All controllers of a host.
#[derive(Default)]
pub(crate) struct Controllers(Mutex<Registry>);

#[derive(Default)]
struct Registry {
    installed: BTreeMap<SkillId, Installed>,
    engaged: Vec<Weak<Engagement>>,
}

/// Where a newer version waits for its turn to drive.
pub(crate) struct Engagement {
    pub controller: SkillId,
    pub offer: Mutex<Option<Version>>,
}

/// An instance, and what it is of.
pub(crate) struct Version {
    pub controller: Controller,
    pub installed: Installed,
}

impl Controllers {
    /// Installs a controller in place of another version, and offers it to whatever drives with one, unless it is
    /// quarantined.
    pub fn install(
        &self,
        installed: Installed,
        engines: &Engines,
        robot: &Embodiment,
        memory: &HostMemory,
        quarantine: &Quarantine,
    ) -> Result<(), RuntimeError> {
        let id = installed.id().clone();
        // One that cannot be made is refused before it takes anybody's place.
        let mut made = Some(instantiate(&installed, engines, robot, memory)?);
        let engaged: Vec<_> = {
            let mut registry = self.0.lock();
            registry.installed.insert(id.clone(), installed.clone());
            registry.engaged.retain(|engaged| engaged.strong_count() > 0);
            registry.engaged.iter().filter_map(Weak::upgrade).filter(|it| it.controller == id).collect()
        };
        if quarantine.why(&installed.version()).is_some() {
            return Ok(());
        }
        for engagement in engaged {
            let controller = made.take().map_or_else(|| instantiate(&installed, engines, robot, memory), Ok)?;
            let offer = Version { controller, installed: installed.clone() };
            let replaced = engagement.offer.lock().replace(offer);
            drop(replaced);
        }
        Ok(())
    }

    /// False: none of that id was installed. Whatever drives with it goes on.
    pub fn remove(&self, controller: &SkillId) -> bool {
        self.0.lock().installed.remove(controller).is_some()
    }

    pub fn list(&self) -> Vec<SkillSummary> {
        self.0.lock().installed.values().map(|installed| installed.summary()).collect()
    }

    /// The newest version of a controller.
    pub fn installed(&self, controller: &SkillId) -> Option<Installed> {
        self.0.lock().installed.get(controller).cloned()
    }

    /// The newest version, and where the next will be offered.
    pub fn engage(&self, controller: &str) -> Result<(Installed, Arc<Engagement>), Refusal> {
        let mut registry = self.0.lock();
        let Some((id, installed)) = registry.installed.iter().find(|(id, _)| id.as_str() == controller) else {
            let all: Vec<_> = registry.installed.keys().map(SkillId::as_str).collect();
            let all = if all.is_empty() { "none".into() } else { all.join(", ") };
            return Err(Refusal::Unavailable(format!("no controller {controller} is installed; installed are {all}")));
        };
        let engagement = Arc::new(Engagement { controller: id.clone(), offer: Mutex::new(None) });
        let installed = installed.clone();
        registry.engaged.retain(|engaged| engaged.strong_count() > 0);
        registry.engaged.push(Arc::downgrade(&engagement));
        Ok((installed, engagement))
    }

    /// Puts `kept` back in the place of `failed`, if that is still there.
    pub fn withdraw(&self, failed: &Installed, kept: &Installed) {
        if let Some(installed) = self.0.lock().installed.get_mut(kept.id())
            && Arc::ptr_eq(installed, failed)
        {
            *installed = kept.clone();
        }
    }
}
