//! What a run tells whoever started it, as it happens.

use std::time::Duration;

use waza_robot::Intervention;

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
        /// The new one.
        version: semver::Version,
    },
    /// Another version goes on with the run. It is on probation.
    Swapped {
        /// The old one.
        from: semver::Version,
        /// The new one.
        to: semver::Version,
        /// From when it was asked for to its first call.
        took: Duration,
    },
    /// A version has passed its probation.
    SwapSettled {
        /// Which.
        version: semver::Version,
    },
    /// A version did not prove itself; the one before goes on.
    RolledBack {
        /// The one that failed.
        from: semver::Version,
        /// The one that goes on.
        to: semver::Version,
        /// One sentence.
        why: String,
    },
    /// The skill wrote a line to standard output or error.
    Log {
        /// Without its end.
        line: String,
    },
}
