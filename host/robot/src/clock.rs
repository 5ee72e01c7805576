//! Robot time: ticks, their pace, and how to make it stand still.

use std::time::{Duration, Instant};

use cpu_time::ThreadTime;

/// How fast robot time passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// As the wall clock does. A late tick delays the ones after it: motion slips, it never hurries to catch up.
    RealTime,
    /// As fast as the machine can, but only while somebody waits for it or something moves, and never while anybody
    /// holds a [`TimeHold`](crate::robot::TimeHold). Episodes then repeat bit for bit, however long thinking takes.
    /// For simulated links only.
    Lockstep,
}

/// Nanoseconds of robot time at which a tick begins: `tick / control_hz`.
pub fn tick_ns(tick: u64, control_hz: f32) -> u64 {
    (tick as f64 * 1e9 / f64::from(control_hz)).round() as u64
}

/// How long a control period lasts.
pub(crate) fn period(control_hz: f32) -> Duration {
    Duration::from_secs_f64(1.0 / f64::from(control_hz))
}

/// The end of a sleep is only as exact as the kernel's timer slack (50 µs on Linux); the rest is spun.
const SPIN: Duration = Duration::from_micros(100);

/// Deadlines one period apart.
pub(crate) struct Metronome {
    period: Duration,
    next: Instant,
}

/// How a tick that followed a deadline started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    /// After the deadline.
    pub late: Duration,
    /// Deadlines that passed without a tick of their own.
    pub missed: u64,
    /// The clock leapt, or went backwards: nobody knows how old anything is.
    pub jumped: bool,
}

/// A clock that is later than its deadline by more has leapt: the machine slept, or the process was stopped.
const LEAP: Duration = Duration::from_millis(250);

impl Metronome {
    pub fn new(period: Duration) -> Self {
        Self { period, next: Instant::now() + period }
    }

    /// Sleeps until the next deadline.
    pub fn wait(&mut self) -> Start {
        let now = Instant::now();
        if self.went_backwards(now) {
            self.next = now;
            return Start { jumped: true, ..self.start_at(now) };
        }
        if let Some(rest) = self.next.checked_duration_since(now + SPIN) {
            std::thread::sleep(rest);
        }
        loop {
            let now = Instant::now();
            if now >= self.next {
                return self.start_at(now);
            }
            std::hint::spin_loop();
        }
    }

    /// Whether the next deadline is further away than it was ever set.
    fn went_backwards(&self, now: Instant) -> bool {
        self.next.saturating_duration_since(now) > self.period * 2
    }

    fn start_at(&mut self, now: Instant) -> Start {
        let late = now.saturating_duration_since(self.next);
        let missed = u32::try_from(late.as_nanos() / self.period.as_nanos().max(1)).unwrap_or(u32::MAX);
        self.next += self.period.saturating_mul(missed.saturating_add(1));
        Start { late, missed: missed.into(), jumped: late > LEAP }
    }
}

/// Measures the work of one tick. In real time every delay counts. In lockstep nothing has a deadline, and what else
/// the machine does is no fault of the tick's: there only this thread's processor time counts.
pub(crate) enum Stopwatch {
    Wall(Instant),
    Thread(ThreadTime),
}

impl Stopwatch {
    pub fn start(pace: Pace) -> Self {
        match pace {
            Pace::RealTime => Self::Wall(Instant::now()),
            Pace::Lockstep => Self::Thread(ThreadTime::now()),
        }
    }

    pub fn elapsed(&self) -> Duration {
        match self {
            Self::Wall(since) => since.elapsed(),
            Self::Thread(since) => since.elapsed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_missed_when_it_starts_a_whole_period_late_and_the_beat_goes_on() {
        let period = Duration::from_millis(10);
        let mut metronome = Metronome::new(period);
        let first = metronome.next;
        let almost = metronome.start_at(first + Duration::from_micros(9_999));
        assert_eq!(almost, Start { late: Duration::from_micros(9_999), missed: 0, jumped: false });
        assert_eq!(metronome.next, first + period);
        let late = metronome.start_at(first + period * 3);
        assert_eq!(late, Start { late: period * 2, missed: 2, jumped: false });
        assert_eq!(metronome.next, first + period * 4);
    }

    #[test]
    fn a_clock_that_leaps_or_goes_backwards_is_noticed_and_the_beat_goes_on() {
        let period = Duration::from_millis(10);
        let mut metronome = Metronome::new(period);
        let first = metronome.next;
        assert!(metronome.start_at(first + Duration::from_secs(3)).jumped);
        assert!(!metronome.start_at(metronome.next).jumped);
        metronome.next += Duration::from_secs(3600);
        let began = Instant::now();
        assert!(metronome.wait().jumped);
        assert!(!metronome.wait().jumped);
        assert!(began.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn waiting_ends_at_the_deadline_and_not_before() {
        let mut metronome = Metronome::new(Duration::from_millis(3));
        for _ in 0..5 {
            let deadline = metronome.next;
            metronome.wait();
            assert!(Instant::now() >= deadline);
        }
    }

    #[test]
    fn robot_time_is_the_tick_over_the_control_rate() {
        assert_eq!(tick_ns(7, 100.0), 70_000_000);
        assert_eq!(tick_ns(1, 30.0), 33_333_333);
    }
}
