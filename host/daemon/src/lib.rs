//! What an operator leaves running: the HTTP API of a host, and what may stop its robot.
//!
//! This crate owns the API's paths, who may call them, the runs that were started over it, and the sources of the host
//! stop: a signal, a key, HTTP and a file. It refuses to know how a skill is kept in its sandbox and how a robot moves, and
//! it prints nothing: what is news is given to whoever started it.
//!
//! Three rules hold for whoever uses the API. Nothing starts while the host stop is latched or the robot is not armed. The
//! host stop ends every run. A reset names the stop that was seen, is refused while a run still ends, and starts nothing.
//!
//! ```no_run
//! use std::path::Path;
//! use waza_daemon::{Daemon, Options, StopKind};
//! use waza_runtime::Host;
//!
//! # fn example(host: Host) -> Result<(), Box<dyn std::error::Error>> {
//! let stops = vec![StopKind::Http, "file:/run/waza/STOP".parse()?];
//! let daemon = Daemon::start(host, Options { stops, ..Options::default() }, |news| println!("{news}"))?;
//! daemon.watch(Path::new("skills"))?;
//! println!("listening on http://{}", daemon.address());
//! daemon.wait_for_leave();
//! daemon.end();
//! # Ok(()) }
//! ```
//!
//! | module | owns |
//! |---|---|
//! | [`daemon`] | starting and ending it |
//! | `api` | the paths |
//! | `server` | connections: their number, their time, and the way of a stop that nobody can fill |
//! | `metrics` | counts for Prometheus |
//! | [`stops`] | the sources of the host stop, each seen alive before the robot arms |
//! | `robot` | what becomes of the robot: its host stop, its link, its control loop |
//! | `runs` | the runs that were started over the API |
//! | `run_log` | what a run reported |
//! | `packages` | what became of the packages in the watched folder |
//! | [`news`] | what is news |
//! | `auth` | who may call |
//! | `quarantine` | which versions it was said of that they are not run any more |
//! | [`records`] | records of runs, as whoever starts the daemon makes them |
//! | `fault` | how a request fails |
//! | [`wire`] | what goes over HTTP, for both sides |
//!
//! Each module uses only those that stand below it.

mod api;
mod auth;
pub mod daemon;
mod fault;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod metrics;
pub mod news;
mod packages;
mod quarantine;
pub mod records;
mod robot;
mod run_log;
mod runs;
mod server;
pub mod stops;
pub mod wire;

pub use auth::Token;
pub use daemon::{Daemon, DaemonError, Options};
pub use news::News;
pub use records::{Record, Records};
pub use stops::StopKind;
