//! `waza link`: serve a robot's link from a process of its own, which holds the robot when its host dies.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};
use waza_robot::bridge::{BridgeError, Server, ServerOptions, Status};
use waza_robot::link::MOST_STOPS;
use waza_robot::sim::{SceneSpec, Simulator, arm};

use super::within_site;
use crate::fault::{BadInput, bad_input};
use crate::log::LogOptions;
use crate::watchdog::Served;

/// How often is looked at who is in charge, to say so, and whether there was a stop, to keep it.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The simulated arm, as the command line names it.
pub const TABLETOP: &str = "sim:tabletop";

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  waza link sim:tabletop --socket ~/.waza/link --seed 7\n  \
                        waza link sim:tabletop --socket ~/.waza/link --site site.toml\n\n\
                        The limits of robot and site are kept here, whatever a host commands.")]
pub struct Link {
    /// The robot: sim:tabletop is the bundled simulator.
    robot: RobotName,
    /// Where hosts connect. Its folder must be yours alone; it is made if it is not there.
    #[arg(long)]
    socket: PathBuf,
    /// A file with the limits of this site, in the form of an embodiment file's: no host can command beyond them.
    #[arg(long)]
    site: Option<PathBuf>,
    /// Decides what lies where on the table.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// End when no host has commanded for so many seconds; never, if left out: a real robot must be held.
    #[arg(long, value_name = "SECONDS")]
    linger: Option<u64>,
    /// Leave the session of whoever starts this, so that the end of its terminal ends nothing here.
    #[arg(long)]
    own_session: bool,
    #[command(flatten)]
    log: LogOptions,
}

/// A robot that this program has a link to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RobotName {
    /// The simulated arm over its table.
    Tabletop,
}

impl FromStr for RobotName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            TABLETOP => Ok(Self::Tabletop),
            _ => Err("there is no such robot; there is sim:tabletop".into()),
        }
    }
}

impl Link {
    /// Serves until the process is ended: a host that dies must find its robot held.
    pub fn run(self) -> Result<()> {
        let Self { robot: RobotName::Tabletop, socket, site, seed, linger, own_session, log } = self;
        if own_session {
            rustix::process::setsid().context("leaving the session")?;
        }
        let _log = log.start()?;
        let embodiment = Arc::new(within_site(site.as_deref())?);
        let about = Served::new(TABLETOP, seed, &embodiment)?.about()?;
        let ended = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // The second one does not wait.
            let registered = signal_hook::flag::register_conditional_shutdown(signal, 1, ended.clone())
                .and_then(|_| signal_hook::flag::register(signal, ended.clone()));
            registered.context("waiting for signals")?;
        }
        let mut stops = StopCount::open(&socket)?;
        let simulator = Simulator::new(embodiment.clone(), &SceneSpec::tabletop(), seed);
        let options = ServerOptions { about, stops: stops.kept, ..ServerOptions::new(arm::tool_position) };
        let server = Server::start(&socket, embodiment, Box::new(simulator), options).map_err(|error| match error {
            BridgeError::OpenFolder { .. } | BridgeError::Taken { .. } | BridgeError::Io { .. } => {
                BadInput::caused_by(error)
            }
            error => error.into(),
        })?;
        say(&format!("the robot is served at {}", socket.display()));
        let linger = linger.map(Duration::from_secs);
        let (mut guarded, mut since) = (true, Instant::now());
        while server.is_serving() {
            std::thread::sleep(LOOK_EVERY);
            // Before looking: what came before the end is kept.
            let is_ended = ended.load(Ordering::Acquire);
            let Status { ticks, watchdog_since, stops: counted, .. } = server.status();
            stops.keep(counted);
            if guarded != watchdog_since.is_some() {
                guarded = !guarded;
                since = Instant::now();
                say(&match watchdog_since {
                    Some(since) => format!("tick {since}: no host commands; the watchdog holds the robot"),
                    None => format!("tick {ticks}: a host commands"),
                });
            }
            if is_ended {
                say("the link was told to end");
                return Ok(());
            }
            if guarded && linger.is_some_and(|linger| since.elapsed() > linger) {
                say("no host has come back: the link ends");
                return Ok(());
            }
        }
        bail!("the link's driver crashed; start it again and look at what it said")
    }
}

/// How often the host stop has been latched or reset, in a file beside the socket: a stop outlives this process too, and no
/// number of one is given again.
struct StopCount {
    path: PathBuf,
    kept: u64,
    /// What could not be written, and was said to be so.
    missed: u64,
}

impl StopCount {
    /// More bytes are no count.
    const MOST_BYTES: u64 = 32;

    /// Of the robot that is served at that socket; none yet where there is no file.
    fn open(socket: &Path) -> Result<Self> {
        let mut path = socket.as_os_str().to_owned();
        path.push(".stops");
        let path = PathBuf::from(path);
        let way_out = "look at the robot, then remove the file: stops are counted from 0 again";
        let mut text = String::new();
        match File::open(&path).and_then(|file| file.take(Self::MOST_BYTES).read_to_string(&mut text)) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self { path, kept: 0, missed: 0 }),
            Err(error) => return Err(bad_input(error, path.display(), way_out)),
        }
        match text.trim().parse() {
            Ok(kept) if kept <= MOST_STOPS => Ok(Self { path, kept, missed: kept }),
            _ => Err(bad_input("no count of stops", path.display(), way_out)),
        }
    }

    /// What cannot be written is tried again when this is called again, and kept by this process meanwhile.
    fn keep(&mut self, counted: u64) {
        if counted == self.kept {
            return;
        }
        match self.write(counted) {
            Ok(()) => self.kept = counted,
            Err(error) if self.missed != counted => {
                self.missed = counted;
                tracing::error!(path = %self.path.display(), %error, "the host stop cannot be kept in its file");
            }
            Err(_) => {}
        }
    }

    fn write(&self, counted: u64) -> std::io::Result<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        writeln!(file, "{counted}")?;
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        File::open(folder)?.sync_all()
    }
}

/// Tells whoever listens. Nobody may: the host that started this is what the watchdog outlives.
fn say(line: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
