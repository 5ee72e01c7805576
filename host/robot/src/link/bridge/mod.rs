//! A link that lives in a process of its own, and holds the robot when the host dies.
//!
//! [`Server`] owns the real [`Link`](crate::Link) and serves it over a Unix domain socket; [`RemoteLink`] is the host's end
//! of it. The server trusts no host. Every command passes a safety filter of its own, with limits that its process has read
//! for itself: positions, speeds, accelerations, places, forces, numbers. Nothing that is said to it widens them or puts the
//! filter off. It measures time itself: however fast a host commands, a control period brings the robot one command, the
//! newest. How often each rule began to act is told to the host, to observers and to the log.
//!
//! It is the watchdog too. A command counts for its control period: when none has come for the next and the one after it the
//! joints brake, and after [`ServerOptions::silence`] periods, or when the socket closes, the server is in charge: its filter
//! brings the joints to rest within their limits and keeps holding them. What the arm feels keeps a host from pressing on, as
//! it does in the host's own filter; a watchdog that brakes has nothing to yield with but that. Jerk is left to the host: what
//! it brakes at once would be rounded off here, and come to rest too late.
//!
//! What is commanded outlives its host. The next one gets the robot when the joints stand, and goes on from what is commanded,
//! not from what is measured: a hand that holds something holds on to it. With each command a host says how often it has
//! latched or reset the host stop; the next one counts on from there, so that a stop stays latched and no number is given again.
//!
//! Hosts must run in [`Pace::RealTime`](crate::Pace::RealTime). A simulator behind the server advances with each command, and
//! so about as the clock does. What is asked for after a command is answered when that has gone out, so a host that reads in
//! every tick is never ahead by more than one.
//!
//! The way to the joints is one roundtrip a tick. Cameras have connections of their own, one each: a tick in which somebody
//! observes costs one more roundtrip, in which the server takes the frames; pixels travel when somebody looks at them.
//!
//! Messages are bounded, versioned and length-prefixed, and whatever arrives is checked before it is believed. The socket
//! lies in a folder that only its owner may enter; that is the whole of its access control.
//!
//! | module | owns |
//! |---|---|
//! | `wire` | messages on a stream: lengths, kinds, values |
//! | `server` | the process that owns the link: connections, the watchdog |
//! | `remote` | the host's end: a link, and an observer |

#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod remote;
mod server;
mod wire;

pub use remote::{Observer, RemoteLink, reach};
pub use server::{Server, ServerOptions, Status};

use std::path::PathBuf;

/// Why a link is not served, or not reached. Each message is one line with the place and a way out.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// The socket's folder is open to others.
    #[error("others may enter {path}; choose a folder for the socket that only you may enter (mode 0700)", path = .path.display())]
    OpenFolder {
        /// The folder.
        path: PathBuf,
    },
    /// Another process serves a link there.
    #[error("a robot link is already served at {path}; end it or choose another path", path = .path.display())]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// The operating system refused something.
    #[error("cannot {what} {path}: {source}", path = .path.display())]
    Io {
        /// To do what.
        what: &'static str,
        /// The socket or its folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The link itself cannot be read.
    #[error(transparent)]
    Link(#[from] crate::error::LinkError),
    /// The other end refused, or does not keep to the protocol.
    #[error("the other end of {path} {what}", path = .path.display())]
    Peer {
        /// The socket.
        path: PathBuf,
        /// What it said or did.
        what: String,
    },
}
