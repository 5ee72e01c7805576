//! The sources of the host stop. Each is seen alive by going the way of a stop, and stopping from any takes one control tick:
//! they only turn an atomic that the control loop looks at.
//!
//! | source | stops on | is seen alive when |
//! |---|---|---|
//! | `signal` | SIGUSR1 | the thread that waits for it has received SIGUSR2 |
//! | `http` | `POST /v1/stop` | a request over the loopback has come to `/v1/stop/alive` |
//! | `key` | any key in the terminal, or the terminal's end | its reader has the terminal in raw mode |
//! | `file:PATH` | the existence of the file, or the loss of its folder | the folder can be listed and the file is not there |

#[cfg(unix)]
pub(crate) mod key;
#[cfg(unix)]
pub(crate) mod signal;

pub(crate) mod http;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use waza_robot::{Robot, StopFile, StopSource};

/// A kind of stop source, as `--stop` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopKind {
    /// SIGUSR1.
    Signal,
    /// `POST /v1/stop`.
    Http,
    /// Any key in the terminal.
    Key,
    /// A file that comes into being.
    File(PathBuf),
}

/// No such kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no stop source; there are signal, http, key and file:PATH")]
pub struct UnknownStop(String);

impl FromStr for StopKind {
    type Err = UnknownStop;

    fn from_str(text: &str) -> Result<Self, UnknownStop> {
        match text.split_once(':') {
            None if text == "signal" => Ok(Self::Signal),
            None if text == "http" => Ok(Self::Http),
            None if text == "key" => Ok(Self::Key),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err(UnknownStop(text.into())),
        }
    }
}

impl fmt::Display for StopKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal => formatter.write_str("signal"),
            Self::Http => formatter.write_str("http"),
            Self::Key => formatter.write_str("key"),
            Self::File(path) => write!(formatter, "file:{}", path.display()),
        }
    }
}

/// Why a stop source cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// It was named twice.
    #[error("the stop source {0} is declared twice; name it once in --stop")]
    Twice(StopKind),
    /// It is nowhere to be had here.
    #[error("the stop source {kind} cannot be had: {why}; declare others with --stop")]
    Unavailable {
        /// Which.
        kind: StopKind,
        /// Why.
        why: String,
    },
}

/// The declared sources. Dropping this gives the terminal back.
pub(crate) struct Stops {
    #[cfg(unix)]
    _key: Option<key::Keys>,
    /// Nothing here asks the process to leave, the system just ends it; but whoever waits must not believe that it was asked.
    #[cfg(not(unix))]
    _leave: Box<dyn Fn() + Send>,
}

impl Stops {
    /// Declares every kind and starts what watches it; for HTTP, the source that the API takes. `leave` is called when the
    /// system asks the process to end.
    pub fn declare(
        robot: &Robot,
        kinds: &[StopKind],
        leave: impl Fn() + Send + 'static,
    ) -> Result<(Self, Option<StopSource>), StopError> {
        if let Some((_, twice)) = kinds.iter().enumerate().find(|(at, kind)| kinds[..*at].contains(kind)) {
            return Err(StopError::Twice(twice.clone()));
        }
        let mut http = None;
        #[cfg(unix)]
        let (mut signal, mut _key) = (None, None);
        for kind in kinds {
            let source = robot.declare_stop_source(&kind.to_string());
            let unavailable = |why: String| StopError::Unavailable { kind: kind.clone(), why };
            match kind {
                StopKind::Http => http = Some(source),
                StopKind::File(path) => {
                    StopFile::watch(source, path).map_err(|error| unavailable(error.to_string()))?
                }
                #[cfg(unix)]
                StopKind::Signal => signal = Some(source),
                #[cfg(unix)]
                StopKind::Key => _key = Some(key::Keys::watch_stdin(source).map_err(unavailable)?),
                #[cfg(not(unix))]
                StopKind::Signal | StopKind::Key => return Err(unavailable("this system has none".into())),
            }
        }
        #[cfg(unix)]
        signal::watch(signal, leave)
            .map_err(|error| StopError::Unavailable { kind: StopKind::Signal, why: error.to_string() })?;
        let stops = Self {
            #[cfg(unix)]
            _key,
            #[cfg(not(unix))]
            _leave: Box::new(leave),
        };
        Ok((stops, http))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_read_as_they_are_written() {
        for text in ["signal", "http", "key", "file:/run/waza/STOP"] {
            assert_eq!(text.parse::<StopKind>().unwrap().to_string(), text);
        }
        for text in ["", "file:", "file", "signal:", "button"] {
            assert!(text.parse::<StopKind>().unwrap_err().to_string().contains("file:PATH"), "{text}");
        }
    }
}
