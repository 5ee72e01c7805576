//! What can go wrong, as an enum.

pub use crate::bindings::waza::skill::types::Error;

/// What most calls of this crate return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The skill could not do its task.
    pub fn failed(why: impl Into<String>) -> Self {
        Self::Failed(why.into())
    }

    /// The task or one of its parameters is outside what the skill takes.
    pub fn invalid(why: impl Into<String>) -> Self {
        Self::Invalid(why.into())
    }
}
