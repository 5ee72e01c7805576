//! Runs skills as sandboxed WebAssembly components against a robot and a model.
//!
//! This crate joins [`waza_robot`] and [`waza_model`], which know nothing of each other: it owns the host's side of the
//! contract in `wit/`, permissions, leases, budgets, and the threads that runs live on. It refuses to know what a skill is
//! for, how a model works, and how a robot moves.
//!
//! ```no_run
//! use std::path::Path;
//! use waza_model::ModelHandle;
//! use waza_robot::Robot;
//! use waza_runtime::{Event, Host, HostOptions, RuntimeError, TaskRequest};
//!
//! # async fn example(robot: Robot, model: ModelHandle) -> Result<(), RuntimeError> {
//! let host = Host::new(robot, model, HostOptions::default())?;
//! let touch = host.load(Path::new("skills/touch"))?;
//!
//! let request = TaskRequest { instruction: "touch the red block".into(), seed: 7, ..TaskRequest::default() };
//! let ended = host.run(touch.as_str(), request, |event| match event {
//!     Event::Progress { fraction, note } => println!("{:3.0} % {note}", fraction * 100.0),
//!     event => println!("{event:?}"),
//! });
//! match ended.await.value {
//!     Ok(outcome) => println!("{}", outcome.summary),
//!     Err(error) => eprintln!("{error}"),
//! }
//! # Ok(()) }
//! ```
//!
//! From the top; a room imports only rooms below it, and `tests/rooms.rs` holds it to that:
//!
//! | room | owns |
//! |---|---|
//! | [`hot_load`] | loading what changes in a folder |
//! | [`host`] | one robot, one model, the loaded skills; starts runs |
//! | [`mod@replay`] | running a skill against the record of a run |
//! | `supervisor` | one run: which version works on it, and what drives it |
//! | `imports` | the host's side of the contract, a file an interface, and the little of WASI |
//! | `run` | what stays of a run while versions of its skill come and go |
//! | [`controllers`] | components of the synchronous world |
//! | [`record`] | what a run can write down |
//! | `package` | from a folder to a component that fits this robot and model; [`waza_package`] checks it |
//! | [`error`] | how loading and running fail |
//! | `contract` | the contract, generated |
//! | `leases` | who may move which joints |
//! | [`limits`] | what a run may use, and who counts |
//! | [`mod@bench`] | what a call across the boundary costs |

pub mod bench;
mod contract;
pub mod controllers;
pub mod error;
pub mod host;
pub mod hot_load;
mod imports;
pub mod leases;
pub mod limits;
pub mod model;
mod package;
pub mod record;
pub mod replay;
mod run;
mod supervisor;

pub use contract::{Outcome, Refusal};
pub use controllers::instance::{Controller, Input};
pub use error::{RuntimeError, SkillError};
pub use host::Host;
pub use hot_load::{Change, Watch};
pub use limits::{Budget, Budgets, Exhausted};
pub use model::Model;
pub use package::SkillSummary;
pub use record::{Entry, Journal};
pub use replay::Replay;
pub use run::events::{self, ControllerChange, Event};
pub use run::options::{HostOptions, Operator, SwapOptions};
pub use run::registry::RunSummary;
pub use run::running::Running;
pub use waza_package::manifest::{self, permission};
pub use waza_package::{
    Compiler, Digest, Flaw, Layout, Manifest, PackageError, Permission, SkillId, Source, VersionId, compiler,
};
#[doc(hidden)]
pub use waza_state::{Disk, Draft, RealDisk};
pub use waza_state::{Interrupted, Quarantined, RunId, StateError, TaskRequest, quarantine};

/// The version of wasmtime, which compiles skills and keeps each in its sandbox.
pub const WASMTIME_VERSION: &str = wasmtime_environ::VERSION;
