//! What can be wrong with a checkpoint.

use std::path::PathBuf;

/// A checkpoint that cannot be used. Every variant names the place and a way out.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file cannot be read.
    #[error("cannot read {path}: {cause}. {hint}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
        /// What to do about it.
        hint: &'static str,
    },
}
