//! `waza bench`: what things cost on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use waza_model::{Checkpoint, Device, Policy};
use waza_robot::sim::{SceneSpec, Simulator};

use crate::assets::Checkout;
use crate::fault::{OrBadInput, bad_input, model_fault};

use super::stage::{StageOptions, build};

const BENCH_LEROBOT: &str = include_str!("../../../model/training/bench_lerobot.py");

#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Measure how long the model takes from an observation to a chunk of actions.
    #[command(after_help = "Example:\n  waza bench model --device cpu --against lerobot")]
    Model(Model),
    /// Measure what it costs to cross between a skill and the host, and to start a skill.
    #[command(after_help = "Example:\n  waza bench calls --json")]
    Calls(Calls),
}

#[derive(Debug, Args)]
pub struct Calls {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct Model {
    /// A checkpoint folder; the bundled one if left out.
    #[arg(long)]
    model: Option<PathBuf>,
    /// What runs the model: auto, cpu or gpu.
    #[arg(long, default_value_t)]
    device: Device,
    /// What the model is told.
    #[arg(long, default_value = "touch the red block")]
    task: String,
    /// Requests that are measured.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,
    /// Measure another implementation beside it, on the CPU with as many threads as this machine has cores.
    #[arg(long)]
    against: Option<Rival>,
    /// The Python that has the other implementation.
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Rival {
    /// LeRobot's own SmolVLA.
    Lerobot,
}

impl Bench {
    pub fn run(self) -> Result<()> {
        match self {
            Self::Model(command) => command.run(),
            Self::Calls(command) => command.run(),
        }
    }
}

impl Calls {
    fn run(self) -> Result<()> {
        let checkout = Checkout::find()?;
        let guests = checkout.guests();
        build(&guests, &["probe"])?;
        // Robot time that stands still would wake the probe at every call.
        let stage = StageOptions::realtime_on_cpu().open(&checkout)?;
        let simulator = Simulator::new(stage.embodiment.clone(), &SceneSpec::tabletop(), 0);
        let host = stage.host(simulator)?;
        let probe = host.load(&guests.join("probe")).or_bad_input()?;
        let costs = pollster::block_on(waza_runtime::bench::calls(&host, probe.as_str()))?;
        let [sync, asynchronous, instantiate] =
            [costs.sync_import, costs.async_import, costs.instantiate].map(|cost| cost.as_nanos() as u64);
        if self.json {
            println!(
                "{}",
                json!({ "sync_import_ns": sync, "async_import_ns": asynchronous, "instantiate_ns": instantiate })
            );
        } else {
            println!("synchronous import   {sync:>8} ns");
            println!("asynchronous import  {asynchronous:>8} ns");
            println!("instantiate          {instantiate:>8} ns");
        }
        Ok(())
    }
}

impl Model {
    fn run(self) -> Result<()> {
        let folder = match &self.model {
            Some(folder) => folder.clone(),
            None => Checkout::find()?.checkpoint(),
        };
        let checkpoint = Checkpoint::open(&folder).or_bad_input()?;
        let mut policy = Policy::new(&checkpoint, self.device).map_err(model_fault)?;
        let own = waza_model::bench::measure(&mut policy, &self.task, self.runs as usize).map_err(model_fault)?;
        let mut measured = vec![("waza", flat(&own)?)];
        if let Some(Rival::Lerobot) = self.against {
            measured.push(("lerobot", self.lerobot(&folder)?));
        }
        if self.json {
            println!("{}", Value::from_iter(measured));
            return Ok(());
        }
        for (name, latency) in &measured {
            let [p50, p99] = ["p50_ms", "p99_ms"].map(|which| latency[which].as_f64().unwrap_or(f64::NAN));
            println!(
                "{name:<8} p50 {p50:>8.2} ms   p99 {p99:>8.2} ms   {}",
                latency["device"].as_str().unwrap_or_default()
            );
        }
        Ok(())
    }

    fn lerobot(&self, checkpoint: &Path) -> Result<Value> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let place = self.python.display();
        let present = Command::new(&self.python).args(["-c", "import lerobot"]).output();
        if !present.is_ok_and(|output| output.status.success()) {
            let way_out = "install `lerobot[smolvla]`, or name another Python with --python";
            return Err(bad_input("this Python has no LeRobot", place, way_out));
        }
        let output = Command::new(&self.python)
            .args(["-c", BENCH_LEROBOT])
            .arg(checkpoint)
            .args(["--instruction", &self.task])
            .args(["--runs", &self.runs.to_string()])
            .args(["--threads", &threads.to_string()])
            .output()
            .with_context(|| format!("starting {place}"))?;
        if !output.status.success() {
            bail!("LeRobot failed on {}:\n{}", checkpoint.display(), String::from_utf8_lossy(&output.stderr));
        }
        let said = String::from_utf8_lossy(&output.stdout);
        let last = said.lines().last().unwrap_or_default();
        let mut latency: Value =
            serde_json::from_str(last).with_context(|| format!("reading LeRobot's times from {last:?}"))?;
        latency["device"] =
            format!("LeRobot {} on {threads} CPU threads", latency["lerobot"].as_str().unwrap_or("?")).into();
        Ok(latency)
    }
}

/// A report with the total latency at its top, as LeRobot's script has it.
fn flat(report: &waza_model::bench::Report) -> Result<Value> {
    let mut flat = serde_json::to_value(report)?;
    flat["p50_ms"] = report.total.p50_ms.into();
    flat["p99_ms"] = report.total.p99_ms.into();
    Ok(flat)
}
