//! What a run tells whoever started it, as it happens.

use std::time::Duration;

use waza_robot::Intervention;

use crate::ids::SkillId;

/// Something happened in a run, or in a skill that it invoked. Reported on the run's thread, under lockstep while robot
/// time stands still; whoever listens must not wait.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The skill reports how far it is.
    Progress {
        /// In [0, 1].
        fraction: f32,
        /// One sentence.
        note: String,
    },
    /// The model answered.
    Inference {
        /// Device time, without waiting for it.
        elapsed: Duration,
    },
    /// The safety filter changed a command.
    Intervention(Intervention),
    /// A question was answered.
    Confirmed {
        /// The skill's.
        question: String,
        /// Yes or no.
        answer: bool,
    },
    /// The skill left a checkpoint.
    Checkpoint {
        /// Its size.
        bytes: usize,
    },
    /// A version of the skill is ready to take the place of the one that works, at its next checkpoint.
    SwapOffered {
        /// The skill: the run's own, or one that it invoked.
        skill: SkillId,
        /// The new one.
        version: semver::Version,
    },
    /// Another version goes on with the run. It is on probation.
    Swapped {
        /// The skill.
        skill: SkillId,
        /// The old one.
        from: semver::Version,
        /// The new one.
        to: semver::Version,
        /// From when it was asked for to its first call.
        took: Duration,
    },
    /// A version has passed its probation.
    SwapSettled {
        /// The skill.
        skill: SkillId,
        /// Which.
        version: semver::Version,
    },
    /// A version did not prove itself; the one before goes on.
    RolledBack {
        /// The skill.
        skill: SkillId,
        /// The one that failed.
        from: semver::Version,
        /// The one that goes on.
        to: semver::Version,
        /// One sentence.
        why: String,
    },
    /// Something became of a controller that the skill engaged.
    Controller {
        /// Its id.
        controller: SkillId,
        /// What.
        change: ControllerChange,
    },
    /// The skill wrote a line to standard output or error.
    Log {
        /// Without its end.
        line: String,
    },
}

/// What became of a controller that drives joints.
#[derive(Debug, Clone, PartialEq)]
pub enum ControllerChange {
    /// A newer version took over between two ticks, on probation.
    Swapped {
        /// The version that is kept until then.
        from: semver::Version,
        /// The version that answers from here on.
        to: semver::Version,
    },
    /// A newer version refused the state, or failed in its probation. The older one goes on, and the newer is withdrawn.
    Kept {
        /// The older.
        version: semver::Version,
        /// The newer.
        refused: semver::Version,
        /// What was wrong with it.
        why: String,
    },
    /// It drives no more, though nothing else took its joints: it crashed, took too long or answered nonsense, or the link
    /// failed. The joints hold.
    Ended {
        /// Of the controller.
        version: semver::Version,
        /// What was wrong.
        why: String,
    },
}
