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
//! | module | owns |
//! |---|---|
//! | [`host`] | one robot, one model, the loaded skills; starts runs |
//! | [`manifest`] | `skill.toml` |
//! | [`permission`] | what can be granted, and what was |
//! | `component` | from a file to a checked component |
//! | `size` | what a component may consist of |
//! | [`watch`] | loading what changes in a folder |
//! | [`budget`] | what a run may use, and who counts |
//! | `meter` | what counts a run's calls |
//! | [`quarantine`] | versions of skills that are not run any more |
//! | [`event`] | what a run reports while it runs |
//! | [`error`] | how loading and running fail |
//! | [`journal`] | what a run can write down |
//! | [`mod@replay`] | running a skill against the record of a run |
//! | [`model`] | what is asked of a foundation model |
//! | [`controller`] | components of the synchronous world |
//! | [`bench`] | what a call across the boundary costs |
//! | `engine` | the two wasmtime engines, epochs |
//! | `bindings` | the contract, generated |
//! | `canonical` | one spelling for every value of the contract |
//! | `taped` | the contract as a recorded run calls it, and as a replay answers it |
//! | `calls` | the host's side of the contract, a file an interface |
//! | `wasi` | the little of WASI that a skill gets |
//! | [`swap`] | how a run changes to another version of its skill |
//! | `run` | one run, from its thread's first step to the joints' hold: what drives it, and which version works on it |
//! | `runs` | the numbers of runs, and those in flight |
//! | `incarnation` | one version of a skill at work on a run |
//! | `actor` | what a run's thread waits with |
//! | `lease` | who may move which joints |
//! | `state` | the folder that survives the host |
//! | `cache` | compiled components in it |
//! | `checkpoint` | checkpoints of runs in it |
//! | `engage` | installed controllers, and how one drives a lease's joints |
//! | `inference` | one request to the model |
//! | `window` | what it looks at of the sensors |
//! | `rollout` | the host's own loop of seeing, asking and moving |
//! | `feed` | a bounded queue to a stream that a skill reads |

mod actor;
pub mod bench;
mod bindings;
pub mod budget;
mod cache;
mod calls;
mod canonical;
mod checkpoint;
mod code;
mod component;
pub mod controller;
mod engage;
mod engine;
pub mod error;
pub mod event;
mod feed;
pub mod host;
mod incarnation;
mod inference;
pub mod journal;
mod lease;
mod linkers;
pub mod manifest;
mod meter;
pub mod model;
pub mod permission;
pub mod quarantine;
pub mod replay;
mod rollout;
mod run;
mod runs;
mod scribe;
mod size;
mod state;
pub mod swap;
mod taped;
mod wasi;
pub mod watch;
mod window;

pub use bindings::Refusal;
pub use budget::{Budget, Budgets};
pub use checkpoint::Interrupted;
pub use component::Digest;
pub use controller::Controller;
pub use error::{Exhausted, RuntimeError, SkillError};
pub use event::{ControllerChange, Event};
pub use host::{Host, HostOptions, Operator, Outcome, Running, SkillSummary, TaskRequest};
pub use journal::{Entry, Journal};
pub use manifest::{Manifest, SkillId};
pub use model::Model;
pub use permission::Permission;
pub use quarantine::Quarantined;
pub use replay::Replay;
pub use runs::{RunId, RunSummary};
pub use swap::SwapOptions;
pub use watch::{Change, Watch};
