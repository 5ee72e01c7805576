//! Why the host does not answer a call with a value.

use wasmtime::component::ResourceTableError;
use waza_robot::{Lost, RobotError};

use crate::leases::LeaseError;
use crate::limits::Exhausted;

/// The contract's error: why the host refused a call, or what a skill ended with.
pub use super::skill::waza::skill::types::Error as Refusal;

impl PartialEq for Refusal {
    fn eq(&self, other: &Self) -> bool {
        sentence(self) == sentence(other)
    }
}

/// A refusal in words, of which no two have the same.
pub(crate) fn sentence(refusal: &Refusal) -> String {
    let (case, why) = match refusal {
        Refusal::Denied(why) => ("denied", why),
        Refusal::Unavailable(why) => ("unavailable", why),
        Refusal::Invalid(why) => ("invalid", why),
        Refusal::Exhausted(why) => ("exhausted", why),
        Refusal::Preempted(why) => ("preempted", why),
        Refusal::Stopped => return "stopped".into(),
        Refusal::Failed(why) => ("failed", why),
    };
    format!("{case}: {why}")
}

/// Why a call does not return a value: the skill is told, or the run ends.
#[derive(Debug)]
pub(crate) enum Fault {
    Refused(Refusal),
    Fatal(wasmtime::Error),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<wasmtime::Error> for Fault {
    fn from(error: wasmtime::Error) -> Self {
        Self::Fatal(error)
    }
}

impl From<ResourceTableError> for Fault {
    fn from(error: ResourceTableError) -> Self {
        Self::Fatal(error.into())
    }
}

impl From<Exhausted> for Refusal {
    fn from(exhausted: Exhausted) -> Self {
        Self::Exhausted(exhausted.to_string())
    }
}

impl From<LeaseError> for Refusal {
    fn from(error: LeaseError) -> Self {
        match error {
            LeaseError::Lost { .. } | LeaseError::Superseded => Self::Preempted(error.to_string()),
            error => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<Lost> for Refusal {
    fn from(lost: Lost) -> Self {
        Self::Unavailable(lost.to_string())
    }
}

impl From<RobotError> for Refusal {
    fn from(error: RobotError) -> Self {
        match error {
            RobotError::Play(error) => Self::Invalid(error.to_string()),
            RobotError::Link(error) => Self::Unavailable(error.to_string()),
            error @ RobotError::Busy { .. } => Self::Exhausted(error.to_string()),
            error => Self::Failed(error.to_string()),
        }
    }
}

impl From<Exhausted> for Fault {
    fn from(exhausted: Exhausted) -> Self {
        Self::Refused(exhausted.into())
    }
}

impl From<LeaseError> for Fault {
    fn from(error: LeaseError) -> Self {
        Self::Refused(error.into())
    }
}

impl From<RobotError> for Fault {
    fn from(error: RobotError) -> Self {
        Self::Refused(error.into())
    }
}
