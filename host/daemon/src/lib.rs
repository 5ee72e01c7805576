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
//! let daemon = Daemon::start(host, Options { stops, ..Options::default() }, |notice| println!("{notice}"))?;
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
//! | [`news`] | what is news |
//! | [`wire`] | what goes over HTTP, for both sides |
//! | [`stops`] | the sources of the host stop, each seen alive before the robot arms |
//! | `api` | the paths |
//! | `auth` | who may call them |
//! | `server` | connections, their number and their time |
//! | `runs` | the runs that were started over the API, and what they reported |
//! | `packages` | what became of the packages in the watched folder |
//! | [`records`] | records of runs, as whoever starts the daemon makes them |
//! | `quarantine` | which versions it was said of that they are not run any more |
//! | `metrics` | counts for Prometheus |
//! | `fault` | how a request fails |

mod api;
mod auth;
pub mod daemon;
mod fault;
mod metrics;
pub mod news;
mod packages;
mod quarantine;
pub mod records;
mod runs;
mod server;
pub mod stops;
pub mod wire;

pub use auth::Token;
pub use daemon::{Daemon, DaemonError, Options};
pub use news::{Notice, VersionChange};
pub use records::{Record, Records};
pub use stops::StopKind;
