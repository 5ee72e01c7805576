//! What survives the host: a folder with compiled components, the checkpoints of runs, the quarantine and the number of the
//! next run.
//!
//! Nobody waits for the disk but who asks whether something has reached it: a thread of its own writes, see [`disk_writer`].

pub(crate) mod checkpoints;
pub(crate) mod disk;
pub(crate) mod disk_writer;
#[cfg(test)]
mod durability;
pub(crate) mod folder;
pub mod quarantine;
pub(crate) mod run_numbers;

pub(crate) use folder::StateFolder;
