//! Why a folder cannot keep a host's state.

use std::path::PathBuf;

/// A folder cannot keep a host's state.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep the host's state in {path}: {what}", path = .path.display())]
pub struct StateError {
    /// The folder.
    pub path: PathBuf,
    /// Why, and a way out.
    pub what: String,
}
