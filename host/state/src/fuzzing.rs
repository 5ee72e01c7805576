//! What reads files that lay on the disk, for the targets in `fuzz/`.

use crate::{checkpoints, quarantine};

/// The file of a run that was interrupted.
pub fn interrupted(file: &[u8]) {
    checkpoints::check(file);
}

/// Such a file.
pub fn an_interrupted() -> Vec<u8> {
    checkpoints::real()
}

/// The file of the quarantine.
pub fn quarantine(file: &[u8]) {
    quarantine::check(file);
}

/// Such a file.
pub fn a_quarantine() -> Vec<u8> {
    quarantine::real()
}
