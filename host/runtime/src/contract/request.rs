//! What a run is asked for, and what it comes to.

use super::types;

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

/// What a task came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// One sentence for people.
    pub summary: String,
    /// JSON for programs; may be empty.
    pub data: String,
}

impl From<types::Outcome> for Outcome {
    fn from(types::Outcome { summary, data }: types::Outcome) -> Self {
        Self { summary, data }
    }
}

impl From<Outcome> for types::Outcome {
    fn from(Outcome { summary, data }: Outcome) -> Self {
        Self { summary, data }
    }
}
