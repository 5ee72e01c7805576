//! Why a host cannot be had, a skill not be loaded, or a run not end well.

use std::path::PathBuf;
use std::time::Duration;

use crate::contract::Refusal;
use crate::limits::Budget;
use crate::manifest::permission::{NotGranted, Permission};
use crate::manifest::{ManifestError, SkillId, WIT};

/// Why a skill or a controller was not loaded, or a host not set up. Each message is one line with the place and a way
/// out.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The engine or a thread could not be had.
    #[error("cannot set up the WebAssembly engine: {0}")]
    Engine(String),
    /// The model was made for another robot.
    #[error("the model {model} does not fit the robot {robot}: {what}; choose a checkpoint made for this robot")]
    ModelMisfit {
        /// The model's name.
        model: String,
        /// The embodiment's name.
        robot: String,
        /// Both sides of every difference.
        what: String,
    },
    /// The manifest was refused.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The component could not be read.
    #[error("cannot read {path}: {source}; build the skill with `cargo build --release --target wasm32-wasip2`", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is larger than the host takes.
    #[error("{path} has {bytes} bytes, the host takes at most {most}; strip it and build it for release", path = .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The limit.
        most: u64,
    },
    /// Compiling or instantiating it would be more work than any useful component is.
    #[error("{path} has too many {what}; build it for release, and split what is really so large", path = .path.display())]
    Outsized {
        /// The file.
        path: PathBuf,
        /// Of what, with both numbers.
        what: String,
    },
    /// The file is no component.
    #[error("{path} is no WebAssembly component: {what}", path = .path.display())]
    NotAComponent {
        /// The file.
        path: PathBuf,
        /// What it is, and a way out.
        what: String,
    },
    /// The component imports or exports another version of the contract.
    #[error("{path} is built for {found}, this host speaks version {WIT}; build it against wit/v{WIT}", path = .path.display())]
    WrongWit {
        /// The file.
        path: PathBuf,
        /// The interface that it names.
        found: String,
    },
    /// The component uses an interface that its manifest does not ask for.
    #[error("{path} imports {import}, which its manifest does not ask for; add \"{permission}\" to `permissions` in skill.toml", path = .path.display())]
    Undeclared {
        /// The file.
        path: PathBuf,
        /// The interface.
        import: String,
        /// What would have to be declared.
        permission: String,
    },
    /// The component imports something that no skill gets.
    #[error("{path} imports {import}, which {what}", path = .path.display())]
    Forbidden {
        /// The file.
        path: PathBuf,
        /// The interface.
        import: String,
        /// Why not, and a way out.
        what: String,
    },
    /// The component exports no world of the contract.
    #[error("{path} exports no {missing}; build it for the world `{world}` of waza:skill@{WIT}", path = .path.display())]
    MissingExport {
        /// The file.
        path: PathBuf,
        /// The interface or function.
        missing: String,
        /// That has it.
        world: &'static str,
    },
    /// The component does not fit the contract in some other way.
    #[error("{path} does not fit the contract: {what}; build it against wit/v{WIT}", path = .path.display())]
    Misfit {
        /// The file.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// Robot or model lack what the skill needs.
    #[error("{id} does not fit here: {what}; change robot or model, or what skill.toml needs")]
    Mismatch {
        /// The skill.
        id: SkillId,
        /// Both sides of every difference.
        what: String,
    },
    /// The state folder cannot be used.
    #[error("cannot keep the host's state in {path}: {what}", path = .path.display())]
    State {
        /// The folder.
        path: PathBuf,
        /// Why, and a way out.
        what: String,
    },
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
    /// The host has no place for another run.
    #[error("{skill} was not started: {what}; wait until other runs have ended")]
    Crowded {
        /// Which.
        skill: SkillId,
        /// What it has no more of.
        what: String,
    },
    /// This version is not run any more: see [`crate::state::quarantine`].
    #[error("{skill} {version} is quarantined: {why}; pardon it, or load another version")]
    Quarantined {
        /// Which.
        skill: SkillId,
        /// Of the skill.
        version: semver::Version,
        /// Its last strikes in words.
        why: String,
    },
    /// The operator ended the run, or the host did because nobody waited for it any more.
    #[error("{skill} was stopped by the operator")]
    Stopped {
        /// Which.
        skill: SkillId,
    },
}

/// A budget and its limit.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{budget} is used up (limit: {limit})")]
pub struct Exhausted {
    /// Which.
    pub budget: Budget,
    /// With its unit.
    pub limit: String,
}

impl Exhausted {
    pub(crate) fn time(budget: Budget, limit: Duration) -> Self {
        Self { budget, limit: format!("{limit:?}") }
    }
}

impl SkillError {
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
