//! What is news.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use semver::Version;
use waza_runtime::{ControllerChange, Event, RunId, SkillId};

use crate::wire::{Run, RunState};

/// What is news. As text, one line.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
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
    Began {
        /// Its number.
        run: RunId,
        /// Its skill.
        skill: String,
        /// What it is asked to do.
        instruction: String,
    },
    /// A run ended.
    Ended(Run),
    /// An earlier host did not live to end a run. It does not go on by itself.
    Interrupted {
        /// Its number.
        run: RunId,
        /// Its skill.
        skill: SkillId,
        /// What it was asked to do.
        instruction: String,
    },
    /// A run changed a version.
    Changed {
        /// The run.
        run: RunId,
        /// What became of which versions.
        change: VersionChange,
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
}

impl fmt::Display for Notice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loaded { skill, version } => write!(formatter, "loaded {skill} {version}"),
            Self::Removed(skill) => write!(formatter, "removed {skill}"),
            Self::Refused { folder, why } => write!(formatter, "refused {}: {why}", folder.display()),
            Self::Began { run, skill, instruction } => write!(formatter, "run {run} began: {skill}: {instruction:?}"),
            Self::Ended(run) => {
                let said = match (&run.outcome, &run.error) {
                    (Some(outcome), _) => &outcome.summary,
                    (None, Some(error)) => &error.cause,
                    (None, None) => "",
                };
                let how = if run.state == RunState::Succeeded { "succeeded" } else { "failed" };
                write!(formatter, "run {} {how}: {said:?}", run.id)
            }
            Self::Interrupted { run, skill, instruction } => {
                let what = format!("{skill}: {instruction:?}");
                write!(formatter, "run {run} was interrupted: {what}; `waza ctl resume {run}` lets it go on")
            }
            Self::Changed { run, change } => write!(formatter, "run {run}: {change}"),
            Self::Quarantined { skill, version, why } => {
                let why = why.join("; ");
                write!(formatter, "quarantined {skill} {version}: {why}; `waza ctl pardon {skill}` lets it run again")
            }
            Self::Stopped { stop } => {
                write!(formatter, "the host stop {stop} is latched; `waza ctl reset {stop}` lifts it")
            }
            Self::Reset => write!(formatter, "the host stop was reset"),
        }
    }
}

/// What became of the versions of the run's skill, of a skill that it invoked or of a controller that it engaged. As text,
/// one line.
#[derive(Debug, Clone, PartialEq)]
pub enum VersionChange {
    /// Another version of a skill goes on, on probation.
    Swapped {
        /// The skill.
        skill: SkillId,
        /// The old version.
        from: Version,
        /// The new one.
        to: Version,
        /// From when it was asked for to its first call.
        took: Duration,
    },
    /// A version has passed its probation.
    Settled {
        /// The skill.
        skill: SkillId,
        /// The version.
        version: Version,
    },
    /// A version did not prove itself; the one before goes on.
    RolledBack {
        /// The skill.
        skill: SkillId,
        /// The version that failed.
        from: Version,
        /// The version that goes on.
        to: Version,
        /// One sentence.
        why: String,
    },
    /// Something became of a controller.
    Controller {
        /// The controller.
        controller: SkillId,
        /// What.
        change: ControllerChange,
    },
}

impl VersionChange {
    /// What an event says of versions, if it says anything.
    pub(crate) fn of(event: &Event) -> Option<Self> {
        match event.clone() {
            Event::Swapped { skill, from, to, took } => Some(Self::Swapped { skill, from, to, took }),
            Event::SwapSettled { skill, version } => Some(Self::Settled { skill, version }),
            Event::RolledBack { skill, from, to, why } => Some(Self::RolledBack { skill, from, to, why }),
            Event::Controller { controller, change } => Some(Self::Controller { controller, change }),
            Event::Progress { .. }
            | Event::Inference { .. }
            | Event::Intervention(_)
            | Event::Confirmed { .. }
            | Event::Checkpoint { .. }
            | Event::SwapOffered { .. }
            | Event::Log { .. } => None,
        }
    }
}

impl fmt::Display for VersionChange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Swapped { skill, from, to, took } => {
                let milliseconds = took.as_secs_f64() * 1e3;
                write!(
                    formatter,
                    "{skill} {to} goes on in place of {from}, {milliseconds:.1} ms after it was asked for"
                )
            }
            Self::Settled { skill, version } => write!(formatter, "{skill} {version} has proved itself"),
            Self::RolledBack { skill, from, to, why } => {
                write!(formatter, "{skill} {to} goes on again, {from} did not prove itself: {why}")
            }
            Self::Controller { controller, change } => match change {
                ControllerChange::Swapped { from, to } => {
                    write!(formatter, "controller {controller} {to} drives in place of {from}")
                }
                ControllerChange::Kept { version, refused, why } => {
                    write!(
                        formatter,
                        "controller {controller} {version} drives on, {refused} did not prove itself: {why}"
                    )
                }
                ControllerChange::Ended { version, why } => {
                    write!(formatter, "controller {controller} {version} drives no more: {why}")
                }
            },
        }
    }
}
