//! What is news.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use semver::Version;
use waza_runtime::{Event, RunId, SkillId};

use crate::wire::{Run, RunState, shorten};

/// Tells whoever started the daemon. Called on several threads; must not wait.
pub(crate) type Report = Arc<dyn Fn(News) + Send + Sync>;

/// What is news. As text, one line.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// A package was loaded.
    Loaded {
        /// The skill.
        skill: SkillId,
        /// Its version.
        version: String,
    },
    /// A package is gone.
    Removed(SkillId),
    /// A package was not loaded.
    Refused {
        /// The package.
        folder: PathBuf,
        /// One line with the cause, the place and a way out.
        why: String,
    },
    /// A run began.
    Began(Run),
    /// A run ended.
    Ended(Run),
    /// A run can go on that its host did not live to end, or that ended with its host or by the host stop. It does not by
    /// itself.
    Interrupted(Run),
    /// Something became of a version in a run: what, says one of the [events of versions](Event::is_of_versions).
    Changed {
        /// The run.
        run: RunId,
        /// What became of which version.
        event: Event,
    },
    /// A version is not run any more; said at the start, too, of those that earlier hosts quarantined.
    Quarantined {
        /// The skill.
        skill: SkillId,
        /// The version.
        version: Version,
        /// What it did, oldest first.
        why: Vec<String>,
    },
    /// The host stop is latched.
    Stopped {
        /// Its number.
        stop: u64,
    },
    /// The host stop was reset.
    Reset,
    /// The robot's link answers nothing or only errors. The control loop holds, and tries again.
    LinkDown,
    /// It works again.
    LinkBack,
    /// The control loop is gone.
    RobotEnded,
}

impl fmt::Display for News {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loaded { skill, version } => write!(formatter, "loaded {skill} {version}"),
            Self::Removed(skill) => write!(formatter, "removed {skill}"),
            Self::Refused { folder, why } => write!(formatter, "refused {}: {why}", folder.display()),
            Self::Began(Run { id, skill, instruction, .. }) => {
                write!(formatter, "run {id} began: {skill}: {instruction:?}")
            }
            Self::Ended(run) => {
                let said = match (&run.outcome, &run.error) {
                    (Some(outcome), _) => &outcome.summary,
                    (None, Some(error)) => &error.cause,
                    (None, None) => "",
                };
                let how = if run.state == RunState::Succeeded { "succeeded" } else { "failed" };
                write!(formatter, "run {} {how}: {said:?}", run.id)
            }
            Self::Interrupted(Run { id, skill, instruction, .. }) => {
                let what = format!("{skill}: {instruction:?}");
                write!(formatter, "run {id} was interrupted: {what}; `waza ctl resume {id}` lets it go on")
            }
            Self::Changed { run, event } => {
                // A version's last words may be long.
                let mut said = event.to_string();
                shorten(&mut said);
                write!(formatter, "run {run}: {said}")
            }
            Self::Quarantined { skill, version, why } => {
                let why = why.join("; ");
                write!(formatter, "quarantined {skill} {version}: {why}; `waza ctl pardon {skill}` lets it run again")
            }
            Self::Stopped { stop } => {
                write!(formatter, "the host stop {stop} is latched; `waza ctl reset {stop}` lifts it")
            }
            Self::Reset => write!(formatter, "the host stop was reset"),
            Self::LinkDown => write!(formatter, "the robot's link is down: nothing moves until it is back"),
            Self::LinkBack => write!(formatter, "the robot's link is back"),
            Self::RobotEnded => {
                write!(formatter, "the robot's control loop has ended: nothing moves until this host is started again")
            }
        }
    }
}
