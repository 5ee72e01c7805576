//! What stays of a run while versions of its skill come and go.

pub mod events;
pub(crate) mod registry;
pub(crate) mod thread;
