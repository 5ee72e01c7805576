//! Why a host cannot be had, a skill not be loaded, or a run not end well.

use std::path::PathBuf;

use wasmtime::Trap;
use waza_package::{NotGranted, PackageError, Permission, SkillId, VersionId};
use waza_state::{Quarantine, StateError};

use crate::contract::Refusal;
use crate::limits::{Budget, Budgets, Exhausted, KINDS_OF_HANDLES, mebibytes};

/// Why a skill or a controller was not loaded, or a host not set up. Each message is one line with the place and a way
/// out.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The model was made for another robot.
    #[error("the model {model} does not fit the robot {robot}: {what}; or choose a checkpoint made for this robot")]
    ModelMisfit {
        /// The model's name.
        model: String,
        /// The embodiment's name.
        robot: String,
        /// Both sides of every difference.
        what: String,
    },
    /// The package was refused.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// Robot or model lack what the skill needs.
    #[error("{id} does not fit here: {what}; change robot or model, or what skill.toml needs")]
    Mismatch {
        /// The skill.
        id: SkillId,
        /// Both sides of every difference.
        what: String,
    },
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// Another package of the same folder has the id.
    #[error("{id} is loaded from {first} already; give one of the two another id, or remove it", first = .first.display())]
    Duplicate {
        /// The id of both.
        id: SkillId,
        /// The package that has it.
        first: PathBuf,
    },
    /// A folder has more packages than the host looks at.
    #[error("{path} has {packages} folders, the host looks at the first {most} of them; move the rest elsewhere", path = .path.display())]
    TooMany {
        /// The folder.
        path: PathBuf,
        /// How many.
        packages: usize,
        /// The limit.
        most: usize,
    },
    /// A folder cannot be watched.
    #[error("cannot watch {path}: {what}", path = .path.display())]
    Watch {
        /// The folder.
        path: PathBuf,
        /// Why.
        what: String,
    },
}

/// How a run ended that did not end well. The leases are given up and their joints hold, whichever it is.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SkillError {
    /// No such skill is loaded.
    #[error("no skill {skill} is loaded; loaded are {loaded}")]
    NotLoaded {
        /// As asked for.
        skill: String,
        /// Ids, or `none`.
        loaded: String,
    },
    /// The skill itself ended with an error.
    #[error("{skill} ended with: {refusal}", refusal = crate::contract::sentence(.refusal))]
    Returned {
        /// Which.
        skill: SkillId,
        /// The error that it returned.
        refusal: Refusal,
    },
    /// The skill crashed.
    #[error("{skill} crashed: {what}")]
    Trapped {
        /// Which.
        skill: SkillId,
        /// The trap, and what the skill last said on standard error.
        what: String,
    },
    /// The skill used up a budget.
    #[error("{skill} was ended: {budget}")]
    Exhausted {
        /// Which.
        skill: SkillId,
        /// What it used up.
        budget: Exhausted,
    },
    /// The skill called something that cannot be refused by an answer, without having been granted it.
    #[error("{skill} was ended: {denied}")]
    Denied {
        /// Which.
        skill: SkillId,
        /// What it lacked.
        denied: NotGranted,
    },
    /// This version is not run any more: see [`waza_state::quarantine`].
    #[error("{skill} {version} is quarantined: {why}; pardon it, or load another version")]
    Quarantined {
        /// Which.
        skill: SkillId,
        /// Of the skill.
        version: semver::Version,
        /// Its last strikes in words.
        why: String,
    },
    /// The host has no memory for another run.
    #[error(
        "the host is full: {used_mib} of {most_mib} MiB for runs are in use; wait until another run ends, or end one"
    )]
    Full {
        /// MiB that all runs use.
        used_mib: usize,
        /// MiB that they may.
        most_mib: usize,
    },
    /// The operator ended the run, or the host did because nobody waited for it any more.
    #[error("{skill} was stopped by the operator")]
    Stopped {
        /// Which.
        skill: SkillId,
    },
}

impl SkillError {
    /// Refuses a version that is quarantined.
    pub(crate) fn unless_quarantined(version: &VersionId, quarantine: &Quarantine) -> Result<(), Self> {
        let VersionId { id: skill, version: number, .. } = version;
        match quarantine.why(version) {
            Some(why) => Err(Self::Quarantined { skill: skill.clone(), version: number.clone(), why }),
            None => Ok(()),
        }
    }

    /// Counts as a strike of the version whose run ended with this, if it is to blame.
    pub(crate) fn judge(&self, version: &VersionId, quarantine: &Quarantine) {
        if self.is_the_versions_fault() {
            quarantine.strike(version, self.to_string());
        }
    }

    /// What an error of wasmtime means, with the last line that the skill wrote.
    pub(crate) fn explained(skill: SkillId, error: &wasmtime::Error, said: Option<String>, budgets: &Budgets) -> Self {
        if let Some(budget) = error.downcast_ref::<Exhausted>() {
            return Self::Exhausted { skill, budget: budget.clone() };
        }
        if let Some(denied) = error.downcast_ref::<NotGranted>() {
            return Self::Denied { skill, denied: denied.clone() };
        }
        if let Some(budget) = overspent(error, budgets) {
            return Self::Exhausted { skill, budget };
        }
        if error.is::<Interrupted>() {
            return Self::Stopped { skill };
        }
        let trap = error.downcast_ref::<Trap>().map_or_else(|| error.root_cause().to_string(), Trap::to_string);
        let what = match said {
            Some(said) => format!("{trap}; it last said: {said}"),
            None => trap,
        };
        Self::Trapped { skill, what }
    }

    /// Whether the version is to blame for how its run ended.
    pub(crate) fn is_the_versions_fault(&self) -> bool {
        match self {
            // How long a task may take is the operator's to say, and what others take of the host's memory is theirs.
            Self::Exhausted { budget, .. } => !matches!(budget.budget, Budget::RunTime | Budget::HostMemory),
            Self::Trapped { .. } | Self::Denied { .. } => true,
            Self::NotLoaded { .. }
            | Self::Returned { .. }
            | Self::Quarantined { .. }
            | Self::Full { .. }
            | Self::Stopped { .. } => false,
        }
    }

    /// The run was ended wherever it stood: by the operator, or because its time was up.
    pub(crate) fn is_from_outside(&self) -> bool {
        match self {
            Self::Stopped { .. } => true,
            Self::Exhausted { budget, .. } => budget.budget == Budget::RunTime,
            _ => false,
        }
    }

    /// The permission that was lacking, if that is why.
    pub fn denied(&self) -> Option<&Permission> {
        match self {
            Self::Denied { denied, .. } => Some(&denied.0),
            _ => None,
        }
    }
}

/// The epoch callback saw that the run is to end.
#[derive(Debug, thiserror::Error)]
#[error("stopped")]
pub(crate) struct Interrupted;

/// Budgets that wasmtime itself keeps. As of wasmtime 48 it names them in words only, which the hostile corpus watches.
fn overspent(error: &wasmtime::Error, budgets: &Budgets) -> Option<Exhausted> {
    let cause = error.root_cause().to_string();
    if cause.contains("fuel allocated for hostcalls has been exhausted") {
        return Some(Exhausted { budget: Budget::CallBytes, limit: mebibytes(budgets.call_bytes) });
    }
    if cause.contains("store handle limit exceeded") {
        let limit = format!("{} of all kinds", budgets.handles.saturating_mul(KINDS_OF_HANDLES));
        return Some(Exhausted { budget: Budget::Handles, limit });
    }
    None
}
