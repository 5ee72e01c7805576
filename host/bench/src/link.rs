//! `waza-bench link`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use waza_robot::bridge::{RemoteLink, Server, ServerOptions};
use waza_robot::sim::{SceneSpec, Simulator, arm};
use waza_robot::{Embodiment, Link as _};

use crate::statistics::percentile;

/// Of the robot's control loop: a server takes one command a period.
const PERIOD: Duration = Duration::from_millis(10);

const TICKS: usize = 1000;

#[derive(Debug, Args)]
pub struct Link {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Link {
    pub fn run(self) -> Result<()> {
        let folder = tempfile::tempdir().context("making a folder for the socket")?;
        let socket = folder.path().join("mine/link");
        let program = std::env::current_exe().context("finding this program")?;
        let mut served = Command::new(program)
            .arg("serve-link")
            .arg(&socket)
            .spawn()
            .context("starting a process that serves a link")?;
        let measured = measure(&socket);
        // It serves until it is ended; what it holds is simulated.
        served.kill().and_then(|()| served.wait()).context("ending the process that serves the link")?;
        let (reads, writes) = measured?;
        // There are as many as ticks, so there is a percentile.
        let percentiles = |micros: &[f64]| [0.5, 0.99].map(|share| percentile(micros, share).unwrap_or_default());
        let ([read, slow_read], [write, slow_write]) = (percentiles(&reads), percentiles(&writes));
        if self.json {
            println!(
                "{}",
                json!({ "read_us": { "p50": read, "p99": slow_read }, "write_us": { "p50": write, "p99": slow_write } })
            );
        } else {
            println!("read, a roundtrip    p50 {read:>6.1} us   p99 {slow_read:>6.1} us");
            println!("write, one way       p50 {write:>6.1} us   p99 {slow_write:>6.1} us");
        }
        Ok(())
    }
}

#[derive(Debug, Args)]
pub struct ServeLink {
    /// Where the measuring process connects.
    socket: PathBuf,
}

impl ServeLink {
    /// Serves the simulated arm until the process is ended.
    pub fn run(self) -> Result<()> {
        let embodiment = Arc::new(Embodiment::so101());
        let simulator = Simulator::new(embodiment.clone(), &SceneSpec::tabletop(), 0);
        let options = ServerOptions::new(arm::tool_position);
        let _server = Server::start(&self.socket, embodiment, Box::new(simulator), options)?;
        loop {
            std::thread::park();
        }
    }
}

/// What a tick's reading and writing take, microseconds, in a loop at 100 Hz.
fn measure(socket: &Path) -> Result<(Vec<f64>, Vec<f64>)> {
    let embodiment = Arc::new(Embodiment::so101());
    let mut link = RemoteLink::connect(socket, embodiment, Duration::from_secs(10))?;
    let (mut reads, mut writes) = (Vec::with_capacity(TICKS), Vec::with_capacity(TICKS));
    let micros = |since: Instant| since.elapsed().as_secs_f64() * 1e6;
    let hold = link.read()?.joints.positions;
    for _ in 0..TICKS {
        let start = Instant::now();
        link.read()?;
        reads.push(micros(start));
        let start = Instant::now();
        link.write(&hold)?;
        writes.push(micros(start));
        std::thread::sleep(PERIOD);
    }
    Ok((reads, writes))
}
