//! `waza-bench swap`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use waza_robot::Embodiment;
use waza_robot::sim::{SceneSpec, Simulator};
use waza_runtime::{Budgets, Event, Host, HostOptions, Running, SwapOptions, TaskRequest};
use waza_toolchain::Build;

use crate::stage::{Stage, build_guests, component, doing};
use crate::statistics::percentile;

/// Of the control loop while versions change.
const CONTROL_HZ: f32 = 500.0;

/// What the guest `relay` says of its version in its component, where another text of that length can stand.
const MARK: &[u8] = b"conduct=";
const PADDED: usize = 16;

/// Longer than any swap takes.
const HANGS: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub struct Swap {
    /// How often the version changes.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    swaps: u32,
    /// Skills that do nothing but compute meanwhile.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=64))]
    spinning: u32,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// From asking for a version to its first call, ms: reading, finding it compiled, checking, instantiating, and the old
/// version's way to its next checkpoint.
#[derive(Debug, Serialize)]
struct Measured {
    swaps: usize,
    spinning: u32,
    median_ms: f64,
    p99_ms: f64,
    longest_ms: f64,
    control_hz: f32,
    ticks: u64,
    ticks_missed: u64,
    latest_start_ms: f64,
}

impl Swap {
    pub fn run(self) -> Result<()> {
        let measured = self.measure()?;
        if self.json {
            println!("{}", serde_json::to_string(&measured)?);
            return Ok(());
        }
        let Measured {
            swaps,
            spinning,
            median_ms,
            p99_ms,
            longest_ms,
            control_hz,
            ticks,
            ticks_missed,
            latest_start_ms,
        } = measured;
        println!("swaps                    {swaps:>8} beside a rollout and {spinning} skills that spin");
        println!("request to first call    {median_ms:>8.2} ms median, {p99_ms:.2} ms p99, {longest_ms:.2} ms longest");
        println!("control ticks missed     {ticks_missed:>8} of {ticks} at {control_hz} Hz");
        println!("latest start of a tick   {latest_start_ms:>8.2} ms");
        Ok(())
    }

    fn measure(&self) -> Result<Measured> {
        build_guests(Build::Packages(&["relay", "conduct"]))?;
        let embodiment = Arc::new(Embodiment { control_hz: CONTROL_HZ, ..Embodiment::so101() });
        let stage = Stage { embodiment: embodiment.clone(), ..Stage::open()? };
        let state = tempfile::tempdir().context("making a temporary folder")?;
        let options = HostOptions {
            state: Some(state.path().join("state")),
            budgets: Budgets { cpu_burst: Duration::MAX, cpu_time: Duration::MAX, ..Budgets::default() },
            // A version that begins while the model is at work draws what the rollout draws.
            swap: SwapOptions { probation: Duration::from_millis(10), ..SwapOptions::default() },
            ..HostOptions::default()
        };
        let host = stage.host(Simulator::new(embodiment, &SceneSpec::tabletop(), 0), options)?;
        let versions = ["0.2.0", "0.3.0"].map(|version| package(state.path(), version));
        let [first, second] = versions.map(|package| package.and_then(|folder| Ok((host.load(&folder)?, folder))));
        let versions = [second?.1, first?.1];

        let spinning = package_of("conduct", state.path(), "spin", |_, bytes| bytes)?;
        let spinning = host.load(&spinning)?;
        let spin = TaskRequest { instruction: "spin".into(), ..TaskRequest::default() };
        let _spinning: Vec<Running> =
            (0..self.spinning).map(|_| host.run(spinning.as_str(), spin.clone(), |_| ())).collect();

        let request = TaskRequest {
            instruction: "roll out: touch the red block".into(),
            parameters: format!("{} at 2", u32::MAX),
            ..TaskRequest::default()
        };
        let (sender, events) = channel();
        let relay = host.run("test/relay", request, move |event| drop(sender.send(event)));
        let began = host.robot().statistics();
        let mut took_ms = Vec::new();
        doing("changing versions");
        for swap in 0..self.swaps as usize {
            match change(&host, &versions[(swap + 1) % 2], &events)? {
                Some(took) => took_ms.push(1e3 * took.as_secs_f64()),
                None => bail!("after {swap} swaps the run ended: {:?}", pollster::block_on(relay).value),
            }
        }
        let ended = host.robot().statistics();
        let of = |p| percentile(&took_ms, p).unwrap_or_default();
        Ok(Measured {
            swaps: took_ms.len(),
            spinning: self.spinning,
            median_ms: of(0.5),
            p99_ms: of(0.99),
            longest_ms: of(1.0),
            control_hz: CONTROL_HZ,
            ticks: ended.ticks - began.ticks,
            ticks_missed: ended.missed - began.missed,
            latest_start_ms: 1e3 * ended.latest_start.as_secs_f64(),
        })
    }
}

/// Loads a version, and waits until it has taken over and proved itself. None: the run has ended.
fn change(host: &Host, folder: &Path, events: &Receiver<Event>) -> Result<Option<Duration>> {
    host.load(folder)?;
    let mut took = None;
    loop {
        match (events.recv_timeout(HANGS), took) {
            (Ok(Event::Swapped { took: so_long, .. }), _) => took = Some(so_long),
            (Ok(Event::SwapSettled { .. }), Some(took)) => return Ok(Some(took)),
            (Ok(Event::RolledBack { from, why, .. }), _) => bail!("version {from} was rolled back: {why}"),
            (Ok(_), _) => {}
            (Err(RecvTimeoutError::Disconnected), _) => return Ok(None),
            (Err(RecvTimeoutError::Timeout), _) => bail!("no version took over within {HANGS:?}"),
        }
    }
}

/// A version of the relay that differs from others in its name only.
fn package(into: &Path, version: &str) -> Result<PathBuf> {
    package_of("relay", into, version, |manifest, mut bytes| {
        *manifest = manifest.replace("version = \"0.1.0\"", &format!("version = \"{version}\""));
        if let Some(place) = bytes.windows(MARK.len()).position(|at| at == MARK) {
            let told = format!("{version:PADDED$}");
            bytes[place + MARK.len()..][..PADDED].copy_from_slice(told.as_bytes());
        }
        bytes
    })
}

/// A package of a guest, changed.
fn package_of(
    id: &str,
    into: &Path,
    name: &str,
    change: impl FnOnce(&mut String, Vec<u8>) -> Vec<u8>,
) -> Result<PathBuf> {
    let built = component(id);
    let bytes = std::fs::read(&built).with_context(|| format!("reading {}", built.display()))?;
    let permissions = ["sensing", "model", "motion:body", "operator", "durable", "skills:test/conduct"];
    let mut manifest = format!(
        "id = \"test/{id}\"\nversion = \"0.1.0\"\nwit = \"0.1.0\"\ncomponent = \"guest.wasm\"\npermissions = {permissions:?}\n"
    );
    let bytes = change(&mut manifest, bytes);
    let folder = into.join(name);
    std::fs::create_dir(&folder).context("making a package")?;
    std::fs::write(folder.join("guest.wasm"), bytes).context("writing a component")?;
    std::fs::write(folder.join("skill.toml"), manifest).context("writing a manifest")?;
    Ok(folder)
}
