//! Records of runs, as whoever starts the daemon makes them.

use std::path::Path;
use std::sync::Arc;

use waza_runtime::{Host, Journal, SkillId, TaskRequest};

/// Begins the records of runs that ask for one.
pub trait Records: Send + Sync {
    /// Begins the record of a run of a loaded skill. May wait for the disk.
    ///
    /// # Errors
    /// Why there is none, in one line with the place and a way out; the run does not begin.
    fn begin(&self, host: &Host, skill: &SkillId, request: &TaskRequest) -> Result<Arc<dyn Record>, String>;
}

/// The record of one run.
pub trait Record: Journal {
    /// Where it is.
    fn path(&self) -> &Path;

    /// Waits for the disk. Why the record ends before its run did, if it does.
    fn finish(&self) -> Option<String>;

    /// The run does not begin after all: leaves no file. May wait for the disk.
    fn discard(&self);
}
