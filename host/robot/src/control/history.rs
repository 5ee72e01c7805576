//! The newest samples of one sensor, kept for observations.

use crate::clock;
use crate::embodiment::Sensor;
use crate::observation::Window;

/// How much of a sensor's past an observation holds, seconds.
const WINDOW_S: f32 = 0.5;

/// A ring of samples. A sensor is sampled at its own rate, or once a tick if that is slower.
pub(crate) struct History {
    channels: usize,
    rate_hz: f32,
    control_hz: f32,
    /// Oldest first, starting at `next` once it is full.
    values: Vec<f32>,
    next: usize,
    samples: usize,
    capacity: usize,
    /// When the newest sample was taken.
    newest_tick: u64,
}

impl History {
    pub fn new(sensor: &Sensor, control_hz: f32) -> Self {
        let rate_hz = sensor.rate_hz.min(control_hz);
        let capacity = (WINDOW_S * rate_hz).ceil().max(1.0) as usize;
        let channels = sensor.channels.len();
        let values = vec![0.0; capacity * channels];
        Self { channels, rate_hz, control_hz, values, next: 0, samples: 0, capacity, newest_tick: 0 }
    }

    /// Keeps a tick's sample if the sensor's rate asks for one.
    pub fn push(&mut self, tick: u64, sample: &[f32]) {
        let turn = |tick: u64| (tick as f64 * f64::from(self.rate_hz) / f64::from(self.control_hz)).floor();
        if self.samples > 0 && turn(tick) == turn(self.newest_tick) {
            return;
        }
        self.values[self.next * self.channels..][..self.channels].copy_from_slice(sample);
        self.next = (self.next + 1) % self.capacity;
        self.samples = (self.samples + 1).min(self.capacity);
        self.newest_tick = tick;
    }

    pub fn window(&self) -> Window {
        let (newer, older) = self.values.split_at(self.next * self.channels);
        let older = if self.samples == self.capacity { older } else { &[] };
        let newest_ns = clock::tick_ns(self.newest_tick, self.control_hz);
        let span_ns = clock::tick_ns(self.samples.saturating_sub(1) as u64, self.rate_hz);
        Window {
            channels: self.channels,
            first_ns: newest_ns.saturating_sub(span_ns),
            rate_hz: self.rate_hz,
            values: [older, newer].concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sensor(rate_hz: f32) -> Sensor {
        Sensor { name: "wrench".into(), channels: vec!["x".into(), "y".into()], unit: "N".into(), rate_hz }
    }

    #[test]
    fn a_window_holds_the_newest_half_second_oldest_first() {
        let mut history = History::new(&sensor(100.0), 100.0);
        for tick in 1..=120 {
            history.push(tick, &[tick as f32, 0.0]);
        }
        let window = history.window();
        let firsts: Vec<f32> = window.values.chunks(2).map(|sample| sample[0]).collect();
        assert_eq!(firsts, (71..=120).map(|tick| tick as f32).collect::<Vec<_>>());
        assert_eq!(window.first_ns, 710_000_000);
    }

    #[test]
    fn a_slow_sensor_is_sampled_at_its_own_rate() {
        let mut history = History::new(&sensor(10.0), 100.0);
        for tick in 1..=35 {
            history.push(tick, &[tick as f32, 0.0]);
        }
        let window = history.window();
        assert_eq!(window.values, [1.0, 0.0, 10.0, 0.0, 20.0, 0.0, 30.0, 0.0]);
        assert_eq!(window.rate_hz, 10.0);
    }

    #[test]
    fn a_sensor_that_has_not_been_read_yet_has_an_empty_window() {
        assert_eq!(History::new(&sensor(100.0), 100.0).window().values, Vec::<f32>::new());
    }
}
