//! What survives a host: a folder with compiled components, the checkpoints of runs, the quarantine and the number of the next
//! run.
//!
//! Nobody waits for the disk but who asks whether something has reached it: a thread of its own writes, see [`writer`].
//! Decision 0012 says what is promised after a `kill -9` and after a power cut.

pub mod cache;
pub mod checkpoints;
pub mod disk;
#[cfg(test)]
mod durability;
pub mod error;
pub mod folder;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod quarantine;
pub mod run;
pub mod run_numbers;
pub mod writer;

pub use cache::Cache;
pub use checkpoints::{Interrupted, RunFile, RunFiles};
pub use disk::{Disk, Draft, RealDisk};
pub use error::StateError;
pub use folder::StateFolder;
pub use quarantine::{Quarantine, Quarantined};
pub use run::{RunId, TaskRequest};
pub use run_numbers::RunNumbers;
