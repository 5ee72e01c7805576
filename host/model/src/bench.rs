//! How fast a policy is, and how much of its device it uses.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::checkpoint::{CheckpointError, WeightSource};
use crate::device::{self, Device};
use crate::error::ModelError;
use crate::executor::{Source, Target};
use crate::image::Image;
use crate::noise::fill_normal;
use crate::plan::{Activation, Buffer, BufferId, Layout, Numbers, Op, Pick, Plan, Role, View, Weight, WeightId};
use crate::policy::{Cost, Noise, Policy, Query, Sections};

/// Runs whose time does not count: the first prepares the device, the next ones fill caches.
const WARM_UP: usize = 3;
/// A run that takes longer warms up alone.
const SLOW: Duration = Duration::from_secs(1);

/// The product that a device is measured by: `[m, n, k]` of the vision tower's widest layer, which holds most of the work
/// of a stock SmolVLA.
const PEAK_GEMM: [usize; 3] = [1024, 768, 3072];
/// Products in one run of it, so that starting the run does not count.
const PEAK_REPEATS: usize = 4;
/// Runs, of which the fastest counts, and the time after which no other one starts.
const PEAK_RUNS: usize = 20;
const PEAK_TIME: Duration = Duration::from_secs(2);

/// Latency of one part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// Half of the runs were no slower, ms.
    pub p50_ms: f64,
    /// 99 % of the runs were no slower, ms.
    pub p99_ms: f64,
}

/// What a [`Bench`] found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What ran it.
    pub device: String,
    /// Cameras that a request showed.
    pub cameras: usize,
    /// Runs that were measured.
    pub runs: usize,
    /// The image encoder.
    pub vision: Latency,
    /// The language model.
    pub prefix: Latency,
    /// All flow steps.
    pub denoise: Latency,
    /// From the query to the actions, images and words included.
    pub total: Latency,
    /// Dispatches to the device for one chunk, where there is such a thing.
    pub dispatches: Option<usize>,
    /// Work of the products and the attention of one chunk, 10^9 floating-point operations.
    pub gflop: f64,
    /// That work over the median of the total.
    pub gflop_per_s: f64,
    /// Bytes of weights, buffers and what was kept on the device.
    pub device_bytes: u64,
}

/// What running queries together brings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Batch {
    /// Queries that run together.
    pub size: usize,
    /// Together, fastest of some runs, ms.
    pub together_ms: f64,
    /// One after the other, fastest of some runs, ms.
    pub one_by_one_ms: f64,
    /// The second over the first.
    pub throughput_ratio: f64,
}

/// Measures a policy, request by request, so that its user can measure something else in between.
pub struct Bench<'a> {
    policy: &'a mut Policy,
    query: Query,
    cameras: usize,
    cost: Cost,
    totals: Vec<Duration>,
    sections: Vec<Sections>,
}

impl<'a> Bench<'a> {
    /// Prepares `policy` for requests that show `cameras` of its cameras (at most all of them). Images, of the size that it
    /// was trained on, and numbers are random.
    ///
    /// # Errors
    /// Those of [`Policy::act`].
    pub fn new(policy: &'a mut Policy, instruction: &str, cameras: usize) -> Result<Self, ModelError> {
        let query = random_query(policy, instruction, cameras, 0);
        let cost = policy.cost(&query)?;
        let cameras = cameras.min(policy.about().cameras.len());
        let mut bench = Self { policy, query, cameras, cost, totals: Vec::new(), sections: Vec::new() };
        for _ in 0..WARM_UP {
            if bench.request()?.0 > SLOW {
                break;
            }
        }
        Ok(bench)
    }

    /// Measures one request, of which nothing was done before. Its time comes back.
    ///
    /// # Errors
    /// Those of [`Policy::act`].
    pub fn run(&mut self) -> Result<Duration, ModelError> {
        // Telling sections apart makes a device wait, so there it gets a request of its own.
        if self.cost.dispatches.is_some() {
            self.policy.time_sections(false);
            let (total, _) = self.request()?;
            self.totals.push(total);
        }
        self.policy.time_sections(true);
        let (total, sections) = self.request()?;
        self.policy.time_sections(false);
        if self.cost.dispatches.is_none() {
            self.totals.push(total);
        }
        self.sections.extend(sections);
        Ok(self.totals.last().copied().unwrap_or_default())
    }

    /// What the requests so far came to; of none, nothing.
    pub fn report(&self) -> Option<Report> {
        let total = Latency::of(self.totals.clone())?;
        let section = |part: fn(&Sections) -> Duration| Latency::of(self.sections.iter().map(part).collect());
        let gflop = self.cost.flop as f64 / 1e9;
        Some(Report {
            device: self.policy.about().device.clone(),
            cameras: self.cameras,
            runs: self.totals.len(),
            vision: section(|s| s.vision)?,
            prefix: section(|s| s.prefix)?,
            denoise: section(|s| s.denoise)?,
            total,
            dispatches: self.cost.dispatches,
            gflop,
            gflop_per_s: gflop / (total.p50_ms / 1e3),
            device_bytes: self.policy.device_bytes(),
        })
    }

    fn request(&mut self) -> Result<(Duration, Option<Sections>), ModelError> {
        self.policy.forget();
        self.query.noise = Noise::Seed(self.totals.len() as u64);
        let start = Instant::now();
        let actions = self.policy.act(&self.query)?;
        Ok((start.elapsed(), actions.sections))
    }
}

/// Runs `size` different queries together and one by one, in turns, `runs` times each.
///
/// # Errors
/// Those of [`Policy::act`].
pub fn batch(
    policy: &mut Policy,
    instruction: &str,
    cameras: usize,
    size: usize,
    runs: usize,
) -> Result<Batch, ModelError> {
    let queries: Vec<Query> =
        (0..size).map(|seed| random_query(policy, instruction, cameras, 100 * seed as u64)).collect();
    let together: Vec<&Query> = queries.iter().collect();
    let (mut fastest_together, mut fastest_one_by_one) = (Duration::MAX, Duration::MAX);
    // The first run prepares the device.
    for run in 0..=runs.max(1) {
        let fastest = |time: &mut Duration, start: Instant| {
            if run > 0 {
                *time = start.elapsed().min(*time);
            }
        };
        policy.forget();
        let start = Instant::now();
        policy.act_together(&together).into_iter().try_for_each(|answer| answer.map(drop))?;
        fastest(&mut fastest_together, start);
        policy.forget();
        let start = Instant::now();
        queries.iter().try_for_each(|query| policy.act(query).map(drop))?;
        fastest(&mut fastest_one_by_one, start);
    }
    let [together, one_by_one] = [fastest_together, fastest_one_by_one].map(|time| time.as_secs_f64());
    Ok(Batch {
        size,
        together_ms: together * 1e3,
        one_by_one_ms: one_by_one * 1e3,
        throughput_ratio: one_by_one / together,
    })
}

/// The fastest that `device` multiplies matrices, in GFLOP/s, through the executor that policies run on: a product of
/// `[1024, 3072]` by `[3072, 768]` in f32.
///
/// # Errors
/// If the device cannot be had or fails.
pub fn gemm_peak(device: Device) -> Result<f64, ModelError> {
    gemm_gflop_per_s(device, PEAK_GEMM, Format::F32)
}

/// The fastest that `device` multiplies `[m, k]` by a weight `[n, k]`, in GFLOP/s.
///
/// # Errors
/// As [`gemm_peak`].
pub fn gemm_gflop_per_s(device: Device, [m, n, k]: [usize; 3], format: Format) -> Result<f64, ModelError> {
    let weight = Weight { rows: n, columns: k, tensors: Vec::new(), take: 0..k, pick: Pick::All, role: Role::Factor };
    let mut executor = device::open(device, std::slice::from_ref(&weight), &RandomWeights { format })?;
    let buffer = |name, columns| Buffer { name, rows: m, columns, initial: None, kept: false };
    let view = |id, columns| View { buffer: BufferId(id), row: 0, rows: m, column: 0, columns };
    let product = Op::Gemm {
        input: view(0, k),
        weight: WeightId(0),
        scale: 1.0,
        bias: None,
        activation: Activation::Identity,
        residual: None,
        output: view(1, n),
    };
    let plan = Plan {
        name: "gemm",
        layout: Layout::new(),
        variant: 0,
        buffers: [buffer("input", k), buffer("output", n)].into(),
        ops: vec![product; PEAK_REPEATS],
    };
    plan.check(&[weight])?;
    let mut input = vec![0.0; m * k];
    fill_normal(&mut input, 0);
    let (mut resident, mut fastest, begin) = (None, f64::INFINITY, Instant::now());
    for run in 0..=PEAK_RUNS {
        let start = Instant::now();
        executor.run(
            &plan,
            &[(view(0, k), Source::Host(&input))],
            &mut [(view(1, n), Target::Resident(&mut resident))],
        )?;
        executor.wait()?;
        // The first run prepares the device.
        if run > 0 {
            fastest = fastest.min(start.elapsed().as_secs_f64());
            if begin.elapsed() > PEAK_TIME {
                break;
            }
        }
    }
    Ok(plan.flop() as f64 / fastest / 1e9)
}

/// How the numbers of weights are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// IEEE single precision.
    #[default]
    F32,
    /// The upper half of that.
    Bf16,
    /// IEEE half precision.
    F16,
}

/// Weights that were never trained, drawn when they are asked for: as good as any to measure speed with. All numbers that
/// pass through a network of them keep an ordinary size, because odd ones can change a time.
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomWeights {
    /// How their numbers are kept.
    pub format: Format,
}

impl WeightSource for RandomWeights {
    fn load(&self, weight: &Weight) -> Result<Numbers, CheckpointError> {
        let count = weight.rows * weight.columns;
        let vector = weight.rows == 1 && weight.role == Role::Table;
        let ends_with = |end: &str| weight.tensors.iter().all(|tensor| tensor.ends_with(end));
        // Norms leave numbers as they are, and so do biases.
        let numbers: Vec<f32> = match vector {
            true if ends_with(".bias") => vec![0.0; count],
            true if ends_with("norm.weight") || ends_with("norm1.weight") || ends_with("norm2.weight") => {
                vec![1.0; count]
            }
            _ => uniform(count, (3.0 / weight.columns as f32).sqrt()),
        };
        Ok(match self.format {
            Format::F32 => Numbers::F32(numbers),
            Format::Bf16 => Numbers::Bf16(numbers.into_iter().map(|x| half::bf16::from_f32(x).to_bits()).collect()),
            Format::F16 => Numbers::F16(numbers.into_iter().map(|x| half::f16::from_f32(x).to_bits()).collect()),
        })
    }
}

/// Numbers between `-most` and `most`: Marsaglia's xorshift (2003), which draws hundreds of millions in a second.
fn uniform(count: usize, most: f32) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64 ^ count as u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| most * draw()).collect()
}

impl Latency {
    /// Nearest-rank percentiles, if there are any times.
    pub fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        let percentile = |share: f64| {
            let rank = (share * times.len() as f64).ceil() as usize;
            times.get(rank.saturating_sub(1)).map(|time| time.as_secs_f64() * 1e3)
        };
        Some(Self { p50_ms: percentile(0.5)?, p99_ms: percentile(0.99)? })
    }
}

fn random_query(policy: &Policy, instruction: &str, cameras: usize, seed: u64) -> Query {
    let (about, a) = (policy.about(), policy.architecture());
    let random = |length: usize, seed: u64| {
        let mut numbers = vec![0.0; length];
        fill_normal(&mut numbers, seed);
        numbers
    };
    let frames = a.video.map_or(1, |video| video.frames);
    let images = about.cameras.iter().zip(&policy.camera_sizes_px).take(cameras);
    let images = images.flat_map(|shown| vec![shown; frames]).zip(seed..).filter_map(|((camera, size), seed)| {
        let [width, height] = *size;
        let noise = random(width as usize * height as usize * 3, seed);
        let rgb = noise.iter().map(|x| (128.0 + 40.0 * x) as u8).collect();
        Image::new(width, height, rgb).ok().map(|image| (camera.clone(), image))
    });
    Query {
        instruction: instruction.to_owned(),
        images: images.collect(),
        state: random(about.state_size, seed + 98),
        sensors: random(a.sensors.map_or(0, |sensors| sensors.samples * sensors.channels), seed + 99),
        noise: Noise::Seed(seed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let latency = Latency::of((1..=100).rev().map(Duration::from_millis).collect());
        assert_eq!(latency, Some(Latency { p50_ms: 50.0, p99_ms: 99.0 }));
        let one = Latency::of(vec![Duration::from_millis(7)]);
        assert_eq!(one, Some(Latency { p50_ms: 7.0, p99_ms: 7.0 }));
        assert_eq!(Latency::of(Vec::new()), None);
    }

    #[test]
    fn random_weights_keep_the_size_of_what_passes_through() {
        let numbers = uniform(100_000, 3f32.sqrt());
        let n = numbers.len() as f32;
        let mean = numbers.iter().sum::<f32>() / n;
        let variance = numbers.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / n;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }
}
