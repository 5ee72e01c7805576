//! What is known of a run for as long as it may go on: its number, and what it is asked for.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A run's number: unique in a host, and in all hosts that used its state folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub(crate) u64);

impl RunId {
    /// The run of that number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl std::str::FromStr for RunId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
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
