//! What a run comes to.

use super::types;

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
