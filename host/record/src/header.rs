//! What a run is called and was given.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What stands at the head of a record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// `vendor/name`.
    pub skill: String,
    /// Of the skill.
    pub version: String,
    /// SHA-256 of the component, hexadecimal.
    pub component: String,
    /// The version of the contract.
    pub wit: String,
    /// What was asked for, in words.
    pub instruction: String,
    /// JSON, of the form that the skill documents; may be empty.
    pub parameters: String,
    /// The state that the run went on from.
    pub resume: Option<Vec<u8>>,
    /// Of the skill's random numbers and the model's noise.
    pub seed: u64,
    /// The robot's name.
    pub embodiment: String,
    /// The model's name.
    pub model: String,
    /// The model's digest; empty if it has none.
    pub model_digest: String,
    /// The run's budgets that hold in a replay too.
    pub budgets: Budgets,
}

/// What of a run's budgets a replay keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budgets {
    /// CPU time between two waits, ms.
    pub cpu_burst_ms: u64,
    /// CPU time from start to end, ms.
    pub cpu_time_ms: u64,
    /// All linear memories together, bytes.
    pub memory_bytes: u64,
    /// Elements of all tables together.
    pub table_elements: u64,
    /// Handles held at once.
    pub handles: u64,
    /// What one call hands to the host, bytes.
    pub call_bytes: u64,
    /// Written to standard output and error, bytes.
    pub log_bytes: u64,
}

/// What ran, so that a record replays by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// The component.
    pub component: Vec<u8>,
    /// Its `skill.toml`.
    pub manifest: String,
}

impl Package {
    /// SHA-256 of the component, hexadecimal.
    pub fn digest(&self) -> String {
        hex::encode(Sha256::digest(&self.component))
    }
}

impl Header {
    /// A header with the package's digest, and nothing else.
    pub fn of(package: &Package) -> Self {
        Self { component: package.digest(), ..Self::default() }
    }
}
