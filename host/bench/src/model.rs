//! `waza-bench model`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;
use tempfile::TempDir;
use waza_model::bench::{Batch, Bench, Format, Latency, RandomWeights, Report, batch, gemm_peak};
use waza_model::{Checkpoint, Device, LARGEST_BATCH, Policy};

use crate::lerobot::{Lerobot, Request};
use crate::shape::{Shape, unpack_smolvla_450m};
use crate::stage::{checkpoint, doing};

/// Runs if nobody asks for another number of them, unless they take too long.
const RUNS: u64 = 100;
const ENOUGH: Duration = Duration::from_secs(20);
/// Runs however long they take.
const LEAST_RUNS: u64 = 3;
/// Runs of batches.
const BATCH_RUNS: usize = 3;

#[derive(Debug, Args)]
pub struct Model {
    /// A known model's shape.
    #[arg(long, conflicts_with = "model", default_value = "bundled")]
    shape: Shape,
    /// A checkpoint folder.
    #[arg(long)]
    model: Option<PathBuf>,
    /// How the random weights of a shape are kept.
    #[arg(long, default_value = "f32")]
    weights: Weights,
    /// Cameras that requests show; all if left out.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    cameras: Option<u32>,
    /// Measure so many requests together, too.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=LARGEST_BATCH as i64))]
    batch: u32,
    /// What runs the model: auto, cpu or gpu.
    #[arg(long, default_value_t)]
    device: Device,
    /// What the model is told.
    #[arg(long, default_value = "touch the red block")]
    task: String,
    /// Requests that are measured; if left out, 100 or as many as 20 seconds hold.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: Option<u32>,
    /// Measure another implementation in turns with this one, on the same device with as many threads.
    #[arg(long)]
    against: Option<Rival>,
    /// The Python that has the other implementation.
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rival {
    /// LeRobot's own SmolVLA.
    Lerobot,
    /// The same through `torch.compile`.
    LerobotCompiled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Weights {
    F32,
    Bf16,
    F16,
}

/// All that was measured.
#[derive(Debug, Serialize)]
struct Measured {
    model: String,
    waza: Own,
    #[serde(skip_serializing_if = "Option::is_none")]
    lerobot: Option<Theirs>,
    /// Median of the other implementation's times over that of Waza's.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Own {
    #[serde(flatten)]
    report: Report,
    /// Of one large product on the same device.
    gemm_peak_gflop_per_s: f64,
    share_of_gemm_peak: f64,
    /// The most memory that this process had, where the system says.
    process_peak_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<Batch>,
}

#[derive(Debug, Serialize)]
struct Theirs {
    version: String,
    device: String,
    threads: usize,
    compiled: bool,
    runs: usize,
    total: Latency,
}

impl Model {
    pub fn run(self) -> Result<()> {
        let measured = self.measure()?;
        if self.json {
            println!("{}", serde_json::to_string(&measured)?);
        } else {
            print!("{measured}");
        }
        Ok(())
    }

    fn measure(&self) -> Result<Measured> {
        let subject = self.subject()?;
        doing("loading the model");
        let mut policy = subject.load(self.device)?;
        let all = policy.about().cameras.len();
        let cameras = self.cameras.map_or(all, |cameras| cameras as usize);
        if cameras > all {
            bail!("the model looks at {all} cameras: --cameras {cameras}: say at most {all}");
        }
        let device = policy.about().device.clone();
        let mut bench = Bench::new(&mut policy, &self.task, cameras)?;
        doing("measuring requests");
        let request = Request {
            checkpoint: &subject.folder,
            random: subject.random,
            instruction: &self.task,
            cameras,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            cuda: !(device.starts_with("cpu") || device.contains("software")),
            compiled: self.against == Some(Rival::LerobotCompiled),
        };
        let mut rival = self.against.map(|_| Lerobot::start(&self.python, &request)).transpose()?;

        let theirs = self.take_turns(&mut bench, rival.as_mut())?;
        let report = bench.report().context("nothing was measured")?;
        drop(bench);
        let lerobot = rival.as_ref().zip(Latency::of(theirs.clone())).map(|(rival, total)| Theirs {
            version: rival.about.lerobot.clone(),
            device: rival.about.device.clone(),
            threads: rival.about.threads,
            compiled: request.compiled,
            runs: theirs.len(),
            total,
        });
        drop(rival);
        doing("measuring batches and the device's own speed");
        let batch = (self.batch > 1)
            .then(|| batch(&mut policy, &self.task, cameras, self.batch as usize, BATCH_RUNS))
            .transpose()?;
        // The model makes room for what the device is measured with.
        drop(policy);
        let peak = gemm_peak(self.device)?;
        Ok(Measured {
            model: subject.name,
            ratio: lerobot.as_ref().map(|theirs| theirs.total.p50_ms / report.total.p50_ms),
            lerobot,
            waza: Own {
                share_of_gemm_peak: report.gflop_per_s / peak,
                gemm_peak_gflop_per_s: peak,
                process_peak_bytes: process_peak_bytes(),
                batch,
                report,
            },
        })
    }

    /// One request each, until there are enough. The times of the other implementation come back.
    fn take_turns(&self, bench: &mut Bench, mut rival: Option<&mut Lerobot>) -> Result<Vec<Duration>> {
        let most = self.runs.map_or(RUNS, u64::from);
        let (begin, mut theirs) = (Instant::now(), Vec::new());
        for run in 0..most {
            if self.runs.is_none() && run >= LEAST_RUNS && begin.elapsed() > ENOUGH {
                break;
            }
            bench.run()?;
            if let Some(rival) = &mut rival {
                theirs.push(rival.run()?);
            }
        }
        Ok(theirs)
    }

    fn subject(&self) -> Result<Subject> {
        let (folder, name) = match (&self.model, self.shape) {
            (Some(folder), _) => (folder.clone(), folder.display().to_string()),
            (None, Shape::Bundled) => (checkpoint(), Shape::Bundled.name().to_owned()),
            (None, Shape::Smolvla450m) => {
                let unpacked = unpack_smolvla_450m().context("unpacking the shape")?;
                let format = match self.weights {
                    Weights::F32 => Format::F32,
                    Weights::Bf16 => Format::Bf16,
                    Weights::F16 => Format::F16,
                };
                return Ok(Subject {
                    name: format!("{}, random weights", self.shape.name()),
                    folder: unpacked.path().to_owned(),
                    random: true,
                    format,
                    _unpacked: Some(unpacked),
                });
            }
        };
        Ok(Subject { name, folder, random: false, format: Format::F32, _unpacked: None })
    }
}

/// What is measured.
struct Subject {
    name: String,
    folder: PathBuf,
    /// The folder holds no weights.
    random: bool,
    format: Format,
    _unpacked: Option<TempDir>,
}

impl Subject {
    fn load(&self, device: Device) -> Result<Policy> {
        Ok(if self.random {
            let checkpoint = Checkpoint::open_without_weights(&self.folder)?;
            Policy::with_weights(&checkpoint, RandomWeights { format: self.format }, device)?
        } else {
            Policy::new(&Checkpoint::open(&self.folder)?, device)?
        })
    }
}

/// `VmHWM` of `/proc/self/status`, which Linux has.
fn process_peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Own { report, gemm_peak_gflop_per_s, share_of_gemm_peak, process_peak_bytes, batch } = &self.waza;
        let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        writeln!(
            f,
            "{}, {}, on {}, {}",
            self.model,
            plural(report.cameras, "camera"),
            report.device,
            plural(report.runs, "run")
        )?;
        writeln!(f, "{:<12} {:>9} {:>9}", "ms", "p50", "p99")?;
        let sections = [("vision", report.vision), ("prefix", report.prefix), ("denoise", report.denoise)];
        for (name, latency) in sections.into_iter().chain([("total", report.total)]) {
            writeln!(f, "{name:<12} {:>9.2} {:>9.2}", latency.p50_ms, latency.p99_ms)?;
        }
        if let Some(theirs) = &self.lerobot {
            writeln!(f, "{:<12} {:>9.2} {:>9.2}", "LeRobot", theirs.total.p50_ms, theirs.total.p99_ms)?;
            let compiled = if theirs.compiled { ", compiled" } else { "" };
            let Theirs { version, device, threads, .. } = theirs;
            writeln!(f, "LeRobot is {version} on {device}, {}{compiled}", plural(*threads, "thread"))?;
        }
        if let Some(ratio) = self.ratio {
            writeln!(f, "LeRobot takes {ratio:.2} times as long")?;
        }
        let (work, speed, share) = (report.gflop, report.gflop_per_s, 100.0 * share_of_gemm_peak);
        writeln!(
            f,
            "{work:.1} GFLOP a chunk, {speed:.1} GFLOP/s: {share:.0} % of the {gemm_peak_gflop_per_s:.1} of one large product"
        )?;
        if let Some(dispatches) = report.dispatches {
            writeln!(f, "{dispatches} dispatches a chunk")?;
        }
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        write!(f, "{:.0} MB on the device", megabytes(report.device_bytes))?;
        match process_peak_bytes {
            Some(bytes) => writeln!(f, ", {:.0} MB in this process at most", megabytes(*bytes))?,
            None => writeln!(f)?,
        }
        if let Some(Batch { size, together_ms, one_by_one_ms, throughput_ratio }) = batch {
            writeln!(
                f,
                "{size} requests: {one_by_one_ms:.1} ms one by one, {together_ms:.1} ms together, {throughput_ratio:.2} \
                 times the throughput"
            )?;
        }
        Ok(())
    }
}
