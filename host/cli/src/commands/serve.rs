//! `waza serve`: what an operator leaves running.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use waza_daemon::{Daemon, DaemonError, Options, Records, StopKind, Token};
#[cfg(unix)]
use waza_robot::bridge::RemoteLink;
use waza_robot::sim::{SceneSpec, Simulator, arm};
use waza_robot::{Embodiment, Guard, Link, Pace, Robot, RobotOptions};
use waza_runtime::{Budgets, Host, HostOptions, Layout, Permission};

#[cfg(unix)]
use super::link::TABLETOP;
use super::stage::ModelOptions;
use super::within_site;
use crate::compiler;
use crate::fault::{BadInput, OrBadInput, bad_input};
use crate::lines::Lines;
use crate::log::LogOptions;
use crate::recording::RecordFolder;
#[cfg(unix)]
use crate::watchdog::{KeptAlive, Served, Watchdog};

/// How long the stop sources may take to be seen alive before this says which are not. They may come later.
const ARM_WITHIN: Duration = Duration::from_secs(3);

/// How long a link that is just starting is waited for.
#[cfg(unix)]
const LINK_WITHIN: Duration = Duration::from_secs(5);

/// How long the last lines may take.
const PRINT_WITHIN: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  waza serve --robot sim:tabletop --skills skills\n  \
                        waza serve --robot link:/run/waza/link --skills /srv/skills\n  \
                        waza serve --skills /srv/skills --stop signal,http,key,file:/run/waza/STOP\n  \
                        waza serve --skills /srv/skills --state /var/lib/waza --site site.toml\n  \
                        waza serve --skills /srv/skills --records /var/lib/waza/records\n  \
                        waza serve --skills /srv/skills --listen 0.0.0.0:7373 --token /etc/waza/token\n\n\
                        SIGUSR1 stops the robot, Ctrl-C and SIGTERM stop it and leave, a \
                        second time at once. `waza ctl` operates it.")]
pub struct Serve {
    /// The robot: sim:tabletop, or link:SOCKET, which `waza link` serves.
    #[arg(long, default_value = "sim:tabletop")]
    robot: RobotName,
    /// Keep the simulated robot in this process. Left out, a process of its own holds it, and brings it to rest if this one
    /// dies; the next host with the same --state goes on from there.
    #[arg(long)]
    in_process: bool,
    /// A folder of skill packages, a folder each; what changes there takes effect at once.
    #[arg(long)]
    skills: PathBuf,
    /// Permissions that no skill gets, whatever its manifest declares: `pixels:wrist,operator`.
    #[arg(long, value_name = "PERMISSION", value_delimiter = ',')]
    withhold: Vec<Permission>,
    /// Memory that all runs may take together, MiB.
    #[arg(long, value_name = "MIB", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(64..))]
    memory: u32,
    /// How long a run may take, s; what takes longer is ended.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..))]
    run_time: u32,
    /// Take packages as a build leaves them: their manifests may name components outside of their folders.
    #[arg(long)]
    build_tree: bool,
    /// A file with the limits of this site, in the form of an embodiment file's: they can only be stricter than the robot's.
    /// Under `[model]` it says how the policy fits the robot, as `units`, `action_rate_hz`, `cameras` and `statistics`.
    #[arg(long)]
    site: Option<PathBuf>,
    /// Draws the simulator's scene.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// A folder of the host's own, for compiled components, checkpoints of runs and quarantined versions; it forgets them if
    /// left out.
    #[arg(long)]
    state: Option<PathBuf>,
    /// A folder for the records of runs that ask for one, as `waza ctl run --record` does; each is a file for `waza replay`.
    #[arg(long)]
    records: Option<PathBuf>,
    /// Where the HTTP API is served.
    #[arg(long, default_value = "127.0.0.1:7373")]
    listen: SocketAddr,
    /// Where the stop and the robot's status are served as well, and nothing else, for `waza ctl stop --host`: callers of the
    /// rest cannot be in its way.
    #[arg(long)]
    listen_stop: Option<SocketAddr>,
    /// A file with the token that every caller must send; needed where other machines can reach the API.
    #[arg(long)]
    token: Option<PathBuf>,
    /// What may stop the robot: signal (SIGUSR1), http, key (any, in this terminal) and file:PATH (when it appears). Nothing
    /// moves until each has been seen alive. Left out: signal,http, and file:STATE/STOP where there is a state folder.
    #[arg(long, value_delimiter = ',')]
    stop: Vec<StopKind>,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    log: LogOptions,
}

/// Who holds the robot.
enum Held {
    Here,
    #[cfg(unix)]
    ByChild(Watchdog),
    #[cfg(unix)]
    Elsewhere {
        /// By what it has read itself.
        same_limits: bool,
    },
}

impl Held {
    /// Starts the process that holds the robot again when it ends, where this one has started it, until what this gives is
    /// dropped.
    #[cfg(unix)]
    fn keep_alive(&self, robot: Robot, lines: &Lines) -> Result<Option<KeptAlive>> {
        let Self::ByChild(watchdog) = self else { return Ok(None) };
        let lines = lines.clone();
        let kept = watchdog.keep_alive(move || robot.stop(), move |line| lines.say(line));
        kept.context("starting a thread").map(Some)
    }

    #[cfg(not(unix))]
    fn keep_alive(&self, _: Robot, _: &Lines) -> Result<()> {
        Ok(())
    }

    /// In one line, for people.
    fn describe(&self) -> String {
        match self {
            Self::Here => {
                "the robot is held by this process alone: nothing brings it to rest if it dies, or keeps its host stop"
                    .into()
            }
            #[cfg(unix)]
            Self::ByChild(watchdog) => watchdog.describe(),
            #[cfg(unix)]
            Self::Elsewhere { same_limits } => {
                let held = "the robot is held by the process at its socket, whatever becomes of this one";
                let limits = if *same_limits { "" } else { ", within other limits than those that this one has read" };
                format!("{held}{limits}")
            }
        }
    }
}

/// A robot that can be served.
#[derive(Debug, Clone)]
enum RobotName {
    SimTabletop,
    #[cfg(unix)]
    Link(PathBuf),
}

impl FromStr for RobotName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("sim", "tabletop")) => Ok(Self::SimTabletop),
            #[cfg(unix)]
            Some(("link", socket)) if !socket.is_empty() => Ok(Self::Link(socket.into())),
            _ => Err("there are sim:tabletop and link:SOCKET".into()),
        }
    }
}

impl Serve {
    pub fn run(self) -> Result<()> {
        if !self.skills.is_dir() {
            return Err(bad_input("no folder of skills", self.skills.display(), "name one that exists with --skills"));
        }
        // Declared in this order: the log is silent before the robot's link goes.
        let held;
        let _log = self.log.start()?;
        let token = self
            .token
            .as_deref()
            .map(Token::open)
            .transpose()
            .map_err(|line| BadInput::caused_by(anyhow::Error::msg(line)))?;
        let embodiment = Arc::new(within_site(self.site.as_deref())?);
        let records = self.records.as_deref().map(|folder| RecordFolder::open(folder, &self.skills)).transpose()?;
        let records = records.map(|folder| Arc::new(folder) as Arc<dyn Records>);
        let model = self.model.open(self.site.as_deref())?;
        let link;
        (link, held) = self.link(&embodiment)?;
        let options = RobotOptions { pace: Pace::RealTime, kinematics: Box::new(arm::tool_position), guard: Guard::On };
        let robot = Robot::start(embodiment, link, options).context("starting the robot")?;
        let options = HostOptions {
            state: self.state.clone(),
            withheld: self.withhold.iter().cloned().collect(),
            memory_bytes: (self.memory as usize) << 20,
            budgets: Budgets { run_time: Duration::from_secs(self.run_time.into()), ..Budgets::default() },
            compiler: compiler::compiler(),
            layout: if self.build_tree { Layout::BuildTree } else { Layout::Package },
            ..HostOptions::default()
        };
        let held_robot = robot.clone();
        let host = Host::new(robot, model, options).or_bad_input()?;

        let (listen, listen_stop) = (self.listen, self.listen_stop);
        let options = Options { listen, listen_stop, token, stops: self.stops(), records };
        let lines = Lines::to(io::stdout())?;
        let told = lines.clone();
        let daemon = Daemon::start(host, options, move |news| told.say(news)).map_err(|error| match error {
            DaemonError::Thread(_) => error.into(),
            error => BadInput::caused_by(error),
        })?;
        daemon.watch(&self.skills).or_bad_input()?;
        lines.say(held.describe());
        let kept_alive = held.keep_alive(held_robot.clone(), &lines)?;
        lines.say(format!("listening on http://{}", daemon.address()));
        if let Some(address) = daemon.stop_address() {
            lines.say(format!("stops are taken at http://{address} too, and nothing else is"));
        }
        let unseen = daemon.arm(ARM_WITHIN);
        if unseen.is_empty() {
            lines.say("armed: every stop source has been seen alive");
        } else {
            let unseen = unseen.join(", ");
            lines.say(format!("not armed: nothing has been heard of {unseen}; nothing moves until then"));
        }
        daemon.wait_for_leave();
        lines.say("leaving: the robot has been stopped");
        drop(kept_alive);
        // A stop that somebody asked for is kept for the next host, that of leaving is not.
        if daemon.end().is_some_and(|own| held_robot.take_back(own)) {
            // What holds the robot learns of it in the next tick that begins, or never if there is none.
            let _ = pollster::block_on(held_robot.reach(held_robot.tick() + 2));
        }
        lines.flush(PRINT_WITHIN);
        Ok(())
    }
}

impl Serve {
    fn link(&self, embodiment: &Arc<Embodiment>) -> Result<(Box<dyn Link>, Held)> {
        match &self.robot {
            #[cfg(unix)]
            RobotName::SimTabletop if !self.in_process => {
                let robot = Served::new(TABLETOP, self.seed, embodiment)?;
                let (watchdog, link) = Watchdog::hold(&robot, self.site.as_deref(), self.state.as_deref(), embodiment)?;
                Ok((Box::new(link), Held::ByChild(watchdog)))
            }
            RobotName::SimTabletop => {
                let simulator = Simulator::new(embodiment.clone(), &SceneSpec::tabletop(), self.seed);
                Ok((Box::new(simulator), Held::Here))
            }
            #[cfg(unix)]
            RobotName::Link(socket) => {
                let link = RemoteLink::connect(socket, embodiment.clone(), LINK_WITHIN).or_bad_input()?;
                let same_limits = Served::new(TABLETOP, self.seed, embodiment)?.keeps(link.about());
                Ok((Box::new(link), Held::Elsewhere { same_limits }))
            }
        }
    }

    fn stops(&self) -> Vec<StopKind> {
        if !self.stop.is_empty() {
            return self.stop.clone();
        }
        let file = self.state.iter().map(|state| StopKind::File(state.join("STOP")));
        [StopKind::Signal, StopKind::Http].into_iter().chain(file).collect()
    }
}
