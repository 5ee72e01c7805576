//! What a run can write down, so that it can be run again without robot, model or clock: every call that the skill made
//! and every answer that it got, in the order in which it met them.

pub(crate) mod calls;
pub(crate) mod cursor;
mod difference;
mod entry;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod tape;
pub(crate) mod value;

pub use difference::Difference;
pub use entry::{Delivery, Ending, Entry};
pub use tape::Journal;
pub(crate) use tape::{Tape, awaited};
