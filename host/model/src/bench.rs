//! How long a policy takes.

use std::time::Duration;

use serde::Serialize;

use crate::error::ModelError;
use crate::image::Image;
use crate::noise::fill_normal;
use crate::policy::{Noise, Policy, Query, Sections};

/// Runs whose time does not count: the first prepares the device, the next ones fill caches.
const WARM_UP: usize = 3;

/// Latency of one part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// Half of the runs were no slower, ms.
    pub p50_ms: f64,
    /// 99 % of the runs were no slower, ms.
    pub p99_ms: f64,
}

/// What [`measure`] found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What ran it.
    pub device: String,
    /// Runs that were measured.
    pub runs: usize,
    /// From the query to the actions, images and words included.
    pub total: Latency,
    /// The image encoder, where the device can tell it apart.
    pub vision: Option<Latency>,
    /// The language model.
    pub prefix: Option<Latency>,
    /// All flow steps.
    pub denoise: Option<Latency>,
}

/// Asks `policy` `runs` times (at least once) with all its cameras and measures it. The images, of the size that it was
/// trained on, and the state are random.
///
/// # Errors
/// Those of [`Policy::act`].
pub fn measure(policy: &mut Policy, instruction: &str, runs: usize) -> Result<Report, ModelError> {
    let runs = runs.max(1);
    let mut query = random_query(policy, instruction);
    let (mut totals, mut sections) = (Vec::with_capacity(runs), Vec::with_capacity(runs));
    for run in 0..WARM_UP + runs {
        query.noise = Noise::Seed(run as u64);
        let actions = policy.act(&query)?;
        if run >= WARM_UP {
            totals.push(actions.elapsed);
            sections.extend(actions.sections);
        }
    }
    let section = |part: fn(&Sections) -> Duration| {
        (sections.len() == runs).then(|| Latency::of(sections.iter().map(part).collect()))
    };
    Ok(Report {
        device: policy.about().device.clone(),
        runs,
        total: Latency::of(totals),
        vision: section(|s| s.vision),
        prefix: section(|s| s.prefix),
        denoise: section(|s| s.denoise),
    })
}

impl Latency {
    /// Nearest-rank percentiles.
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let percentile = |share: f64| {
            let rank = (share * times.len() as f64).ceil() as usize;
            times[rank.clamp(1, times.len()) - 1].as_secs_f64() * 1e3
        };
        Self { p50_ms: percentile(0.5), p99_ms: percentile(0.99) }
    }
}

fn random_query(policy: &Policy, instruction: &str) -> Query {
    let about = policy.about();
    let random = |length: usize, seed: u64| {
        let mut numbers = vec![0.0; length];
        fill_normal(&mut numbers, seed);
        numbers
    };
    let images = about.cameras.iter().zip(&policy.camera_sizes_px).enumerate().filter_map(|(seed, (camera, size))| {
        let [width, height] = *size;
        let noise = random(width as usize * height as usize * 3, seed as u64);
        let rgb = noise.iter().map(|x| (128.0 + 40.0 * x) as u8).collect();
        Image::new(width, height, rgb).ok().map(|image| (camera.clone(), image))
    });
    Query {
        instruction: instruction.to_owned(),
        images: images.collect(),
        state: random(about.state_size, 99),
        sensors: Vec::new(),
        noise: Noise::Seed(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let latency = Latency::of((1..=100).rev().map(Duration::from_millis).collect());
        assert_eq!(latency, Latency { p50_ms: 50.0, p99_ms: 99.0 });
        let one = Latency::of(vec![Duration::from_millis(7)]);
        assert_eq!(one, Latency { p50_ms: 7.0, p99_ms: 7.0 });
    }
}
