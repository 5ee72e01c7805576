//! The flight recorder: runs of skills as [MCAP](https://mcap.dev) files.
//!
//! This crate owns the file: what stands at its head, the component that ran, the entries of the run in their order, and
//! what the robot was seen to be, in forms that Foxglove and its like draw. It refuses to know what an entry means: it is a
//! line of JSON, which `waza-runtime` writes and reads.
//!
//! | in the file | what |
//! |---|---|
//! | metadata `waza.run` | the [`Header`] |
//! | attachments `component.wasm`, `skill.toml` | what ran |
//! | channel `/waza/entries` | calls, answers, items of streams, the end |
//! | channels `/joints`, `/sensors/NAME`, `/cameras/NAME` | the observations that the skill was handed |
//! | metadata `waza.truncated` | why the record ends before its run did |
//!
//! Instants are robot time. Nobody waits for the disk: entries go through a bounded queue to a thread of the recorder's own.
//!
//! ```
//! use std::sync::Arc;
//! use waza_record::{Header, Package, Record, Recorder};
//! use waza_robot::Embodiment;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("run.mcap");
//! let package = Package { component: b"\0asm".to_vec(), manifest: "id = \"acme/wave\"".into() };
//! let header = Header { skill: "acme/wave".into(), seed: 7, ..Header::of(&package) };
//! let recorder = Recorder::create(&path, &header, package, Arc::new(Embodiment::so101()))?;
//! recorder.entry(10_000_000, r#"{"call":0}"#.into());
//! assert_eq!(recorder.finish()?.entries, 1);
//!
//! let record = Record::open(&path)?;
//! assert_eq!(record.header.skill, "acme/wave");
//! assert_eq!(record.entries, [(10_000_000, r#"{"call":0}"#.into())]);
//! assert_eq!(record.cut, None);
//! # Ok(()) }
//! ```
//!
//! | module | owns |
//! |---|---|
//! | [`header`] | what a run is called and was given |
//! | [`writer`] | the queue, the thread, the file |
//! | [`reader`] | from a file that may be anything to a record |
//! | `seen` | observations as messages |

#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod header;
pub mod reader;
mod seen;
pub mod writer;

pub use header::{Header, Package};
pub use reader::{ReadError, Record};
pub use writer::{Recorder, WriteError, Written};

/// The most bytes of a component.
pub const MOST_COMPONENT_BYTES: usize = 64 << 20;

/// The most bytes of one entry. The largest that a run makes holds a camera's pixels in hexadecimal.
pub const MOST_ENTRY_BYTES: usize = 64 << 20;

const ENTRIES: &str = "/waza/entries";
const JOINTS: &str = "/joints";
const HEADER: &str = "waza.run";
const TRUNCATED: &str = "waza.truncated";
const COMPONENT: &str = "component.wasm";
const MANIFEST: &str = "skill.toml";
