//! `waza-bench skills`: what many skills cost, and whether each gets its share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::json;
use waza_robot::sim::{SceneSpec, Simulator};
use waza_runtime::{Event, Host, HostOptions, SkillId, TaskRequest};
use waza_toolchain::Build;

use crate::stage::{Stage, build_guests, component, doing, guests};

/// The observer's, which it asks for.
const SEE_HZ: f64 = 10.0;

/// Far longer than it takes to start every skill.
const IDLE_S: u32 = 500;

/// Until what waits has given back what it does not need.
const COME_TO_REST: Duration = Duration::from_secs(3);

/// How long all of them may take to start.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Args)]
pub struct Skills {
    /// Skills that are loaded, each of another component, and then all wait at once.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1000))]
    idle: u32,
    /// Skills that see at the same time.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    seeing: u32,
    /// How long they see, s.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=500))]
    seconds: u32,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Skills {
    pub fn run(self) -> Result<()> {
        build_guests(Build::Packages(&["observer"]))?;
        let stage = Stage::open()?;
        // As under `waza serve`: what is compiled lies in files.
        let state = tempfile::tempdir().context("making a temporary folder")?;
        let options = HostOptions { state: Some(state.path().into()), ..HostOptions::default() };
        let simulator = Simulator::new(stage.embodiment.clone(), &SceneSpec::tabletop(), 0);
        let host = stage.host(simulator, options)?;
        let observer = host.load(&guests().join("observer"))?;
        self.see(&host, &observer, 1)?;

        doing("loading skills");
        let before = resident_bytes();
        let began = Instant::now();
        let idle = load_many(&host, self.idle)?;
        let load_ms = 1e3 * began.elapsed().as_secs_f64() / f64::from(self.idle);
        let loaded = resident_bytes();
        doing("starting skills");
        let waiting = {
            let begun = Arc::new(AtomicUsize::new(0));
            let runs: Vec<_> = idle
                .iter()
                .map(|skill| {
                    let begun = begun.clone();
                    host.run(skill.as_str(), request("idle", IDLE_S), move |event| {
                        begun.fetch_add(usize::from(matches!(event, Event::Log { .. })), Ordering::Relaxed);
                    })
                })
                .collect();
            let started = Instant::now();
            while begun.load(Ordering::Relaxed) < idle.len() {
                ensure!(started.elapsed() < PATIENCE, "only {begun:?} of {} skills began to wait", idle.len());
                std::thread::sleep(Duration::from_millis(10));
            }
            std::thread::sleep(COME_TO_REST);
            let waiting = resident_bytes();
            drop(runs);
            waiting
        };
        doing("letting skills see");
        let seen = self.see(&host, &observer, self.seeing)?;

        let grown = |to: Option<u64>| Some(to?.saturating_sub(before?));
        let (loaded, waiting) = (grown(loaded), grown(waiting));
        let fairness = jain(&seen);
        let (fewest, most) = (seen.iter().copied().fold(f64::MAX, f64::min), seen.iter().copied().fold(0.0, f64::max));
        let asked = SEE_HZ * f64::from(self.seconds);
        if self.json {
            let measured = json!({
                "idle_skills": self.idle,
                "load_ms_each": load_ms,
                "loaded_bytes": loaded,
                "loaded_and_waiting_bytes": waiting,
                "seeing_skills": self.seeing,
                "observations_asked_each": asked,
                "observations_fewest": fewest,
                "observations_most": most,
                "fairness": fairness,
            });
            println!("{measured}");
            return Ok(());
        }
        let mb = |bytes: Option<u64>| bytes.map_or("unknown".into(), |bytes| format!("{:.0} MB", bytes as f64 / 1e6));
        println!("{} skills loaded              {:>10}   {load_ms:.1} ms each", self.idle, mb(loaded));
        println!("{} skills loaded and waiting  {:>10}", self.idle, mb(waiting));
        println!(
            "{} skills seeing at {SEE_HZ} Hz for {} s: {fewest} to {most} of {asked} observations, fairness {fairness:.3}",
            self.seeing, self.seconds
        );
        Ok(())
    }

    /// How many observations each of so many runs saw.
    fn see(&self, host: &Host, observer: &SkillId, runs: u32) -> Result<Vec<f64>> {
        let runs: Vec<_> =
            (0..runs).map(|_| host.run(observer.as_str(), request("see", self.seconds), |_| ())).collect();
        let seen = runs.into_iter().map(|run| {
            let outcome = pollster::block_on(run).value?;
            outcome.data.parse().context("the observer counts")
        });
        seen.collect()
    }
}

fn request(instruction: &str, seconds: u32) -> TaskRequest {
    TaskRequest { instruction: instruction.into(), parameters: seconds.to_string(), ..TaskRequest::default() }
}

/// Loads so many observers, each a component of its own: vendors do not share theirs.
fn load_many(host: &Host, count: u32) -> Result<Vec<SkillId>> {
    let component = std::fs::read(component("observer"))?;
    let package = tempfile::tempdir().context("making a temporary folder")?;
    let load = |number: u32| {
        // A custom section of four bytes, called `n`.
        let other = [component.as_slice(), &[0, 6, 1, b'n'], &number.to_le_bytes()].concat();
        std::fs::write(package.path().join("observer.wasm"), other)?;
        let manifest = format!(
            "id = \"waza/observer-{number}\"\nversion = \"0.1.0\"\nwit = \"0.1.0\"\ncomponent = \"observer.wasm\"\n\
             permissions = [\"sensing\"]\n"
        );
        std::fs::write(package.path().join("skill.toml"), manifest)?;
        Ok(host.load(package.path())?)
    };
    (0..count).map(load).collect()
}

/// Jain's index: 1 if all have the same, 1/n if one has everything (Jain, Chiu, Hawe 1984).
fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (shares.len() as f64 * squares)
}

/// Memory of this process that is in RAM, where the system tells.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fairness_is_one_for_equal_shares_and_falls_with_starving() {
        assert_eq!(jain(&[7.0; 10]), 1.0);
        assert_eq!(jain(&[1.0, 0.0, 0.0, 0.0]), 0.25);
        assert!((jain(&[1.0, 2.0, 3.0]) - 36.0 / 42.0).abs() < 1e-12);
    }
}
