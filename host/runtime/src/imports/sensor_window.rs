//! What a model looks at of the robot's sensors.

use waza_model::architecture::Sensors;
use waza_robot::observation::Window;
use waza_robot::{Embodiment, Observation};

use crate::contract::Refusal;

/// The newest samples of all sensors, as many as the model looks at, oldest first. A sample is one value a channel, sensor by
/// sensor in the embodiment's order, at the pace of the fastest sensor: a slower one counts with what it said last. Before
/// the robot's first sample is more of the same.
pub(crate) fn window(seen: &Observation, robot: &Embodiment, wanted: Sensors) -> Result<Vec<f32>, Refusal> {
    let fastest = seen.windows.iter().max_by(|a, b| a.rate_hz.total_cmp(&b.rate_hz));
    let (Some(fastest), None) = (fastest, seen.windows.iter().position(|window| window.values.is_empty())) else {
        return Err(Refusal::Unavailable("a sensor that the model looks at has said nothing yet".into()));
    };
    let channels: usize = seen.windows.iter().map(|window| window.channels).sum();
    if channels != wanted.channels {
        let what = format!("the model looks at {} sensor channels, {} has {channels}", wanted.channels, robot.name);
        return Err(Refusal::Failed(what));
    }
    let period_ns = 1e9 / f64::from(fastest.rate_hz);
    let kept = samples(fastest);
    // All that there has been since the robot's start is as much as there can be.
    if kept < wanted.samples && seen.taken_ns as f64 > (wanted.samples + 1) as f64 * period_ns {
        let what = format!("the model looks at {} samples, {} keeps {kept}", wanted.samples, robot.name);
        return Err(Refusal::Failed(what));
    }
    let newest_ns = fastest.first_ns as f64 + (kept - 1) as f64 * period_ns;
    let rows = (0..wanted.samples).rev().map(|back| newest_ns - back as f64 * period_ns);
    Ok(rows.flat_map(|at_ns| seen.windows.iter().flat_map(move |window| sample(window, at_ns))).copied().collect())
}

fn samples(window: &Window) -> usize {
    window.values.len() / window.channels.max(1)
}

/// What a sensor said last at a moment; half a sample may be rounding.
fn sample(window: &Window, at_ns: f64) -> &[f32] {
    let index = ((at_ns - window.first_ns as f64) * f64::from(window.rate_hz) / 1e9 + 0.01).floor();
    let index = (index.max(0.0) as usize).min(samples(window) - 1);
    &window.values[index * window.channels..][..window.channels]
}

#[cfg(test)]
mod tests {
    use waza_robot::Proprioception;

    use super::*;

    fn window_of(channels: usize, rate_hz: f32, first_ns: u64, values: &[f32]) -> Window {
        Window { channels, first_ns, rate_hz, values: values.to_vec() }
    }

    fn seen(windows: Vec<Window>) -> Observation {
        Observation {
            tick: 100,
            taken_ns: 1_000_000_000,
            joints: Proprioception::default(),
            frames: vec![],
            frame_ages_ns: vec![],
            windows,
        }
    }

    fn wanted(channels: usize, samples: usize) -> Sensors {
        Sensors { channels, samples, tokens: 1 }
    }

    #[test]
    fn the_newest_samples_count_and_a_slow_sensor_with_what_it_said_last() {
        let fast = window_of(2, 100.0, 950_000_000, &[1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 4.0, -4.0]);
        // At 0.93 s and at 0.98 s, the last of the fast one's moments.
        let slow = window_of(1, 20.0, 930_000_000, &[7.0, 8.0]);
        let window = window(&seen(vec![fast, slow]), &Embodiment::so101(), wanted(3, 3)).unwrap();
        assert_eq!(window, [2.0, -2.0, 7.0, 3.0, -3.0, 7.0, 4.0, -4.0, 8.0]);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_both_sides() {
        let with = |wanted| {
            let windows = vec![window_of(1, 100.0, 980_000_000, &[1.0, 2.0])];
            format!("{:?}", window(&seen(windows), &Embodiment::so101(), wanted).unwrap_err())
        };
        assert!(with(wanted(2, 2)).contains("looks at 2 sensor channels, so101-tabletop has 1"));
        assert!(with(wanted(1, 9)).contains("looks at 9 samples, so101-tabletop keeps 2"));
    }

    #[test]
    fn before_the_first_sample_is_more_of_the_same() {
        let mut early = seen(vec![window_of(1, 100.0, 0, &[5.0, 6.0])]);
        early.taken_ns = 20_000_000;
        assert_eq!(window(&early, &Embodiment::so101(), wanted(1, 4)).unwrap(), [5.0, 5.0, 5.0, 6.0]);
    }
}
