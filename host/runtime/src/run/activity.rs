//! What one version of a skill has done in a run so far: its first call, whether it took over, its plays, and what the
//! safety filter had to do with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long a bout of interventions lasts at least, of robot time. A force that lasts, or a chunk that begins badly, draws
/// several interventions within it.
const BOUT: Duration = Duration::from_millis(500);

/// What one version of a skill has done in a run so far.
pub(crate) struct Activity {
    made: Instant,
    /// Nanoseconds from `made` to its first call; 0: it has made none.
    first_call_ns: AtomicU64,
    /// It has a lease or has left a checkpoint: there is no way back but from an older checkpoint.
    took_over: AtomicBool,
    /// Of interventions of the safety filter in what it commanded.
    bouts: Mutex<Bouts>,
    /// The tick in which it began.
    begun_tick: AtomicU64,
    /// The ticks in which plays began that have not ended: what they drew is not counted yet.
    plays: Mutex<Vec<u64>>,
}

/// A play of a version's, until it is dropped.
pub(crate) struct PlayInFlight {
    activity: Arc<Activity>,
    begun_tick: u64,
}

impl Drop for PlayInFlight {
    fn drop(&mut self) {
        let mut plays = self.activity.plays.lock();
        if let Some(index) = plays.iter().position(|tick| *tick == self.begun_tick) {
            plays.swap_remove(index);
        }
    }
}

impl Activity {
    pub fn new(tick: u64, control_hz: f32) -> Self {
        Self {
            made: Instant::now(),
            first_call_ns: AtomicU64::new(0),
            took_over: AtomicBool::new(false),
            bouts: Mutex::new(Bouts::new(control_hz)),
            begun_tick: AtomicU64::new(tick),
            plays: Mutex::default(),
        }
    }

    /// It begins to work in this tick.
    pub fn begin(&self, tick: u64) {
        self.begun_tick.store(tick, Ordering::Relaxed);
    }

    /// A play begins.
    pub fn play(self: &Arc<Self>, tick: u64) -> PlayInFlight {
        self.plays.lock().push(tick);
        PlayInFlight { activity: self.clone(), begun_tick: tick }
    }

    /// Whether a play that began until then has not ended.
    pub fn plays_since(&self, tick: u64) -> bool {
        self.plays.lock().iter().any(|begun| *begun <= tick)
    }

    /// The safety filter acted on what it commanded in so many ticks, the first of which was that one.
    pub fn intervened(&self, first_tick: u64, ticks: u64) {
        self.bouts.lock().note(first_tick, ticks);
    }

    /// It called the host.
    pub fn called(&self) {
        if self.first_call_ns.load(Ordering::Relaxed) == 0 {
            let ns = u64::try_from(self.made.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1);
            self.first_call_ns.store(ns, Ordering::Relaxed);
        }
    }

    /// When it first called the host.
    pub fn first_call(&self) -> Option<Instant> {
        let ns = self.first_call_ns.load(Ordering::Relaxed);
        (ns > 0).then(|| self.made + Duration::from_nanos(ns))
    }

    pub fn take_over(&self) {
        self.took_over.store(true, Ordering::Relaxed);
    }

    pub fn has_taken_over(&self) -> bool {
        self.took_over.load(Ordering::Relaxed)
    }

    /// What the safety filter has had to do with it until `tick`.
    pub fn record(&self, tick: u64) -> Record {
        self.bouts.lock().record(tick.saturating_sub(self.begun_tick.load(Ordering::Relaxed)))
    }
}

/// Counts bouts of interventions. Those that follow the beginning of a bout within [`BOUT`] belong to it, for they come in
/// clusters and are no news. What goes on for longer counts again for every such span.
#[derive(Debug)]
pub(crate) struct Bouts {
    /// Ticks.
    span: u64,
    count: u64,
    /// The tick after the newest span that counts.
    until: u64,
}

/// How much the safety filter had to do with a version.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Record {
    pub bouts: u64,
    pub ticks: u64,
}

impl Bouts {
    pub fn new(control_hz: f32) -> Self {
        Self { span: ticks(BOUT, control_hz), count: 0, until: 0 }
    }

    /// A rule acted in so many ticks, the first of which was that one. Plays that overlap are told out of order: what lies
    /// before the newest span does not count any more.
    pub fn note(&mut self, first_tick: u64, ticks: u64) {
        let from = first_tick.max(self.until);
        let spans = first_tick.saturating_add(ticks).saturating_sub(from).div_ceil(self.span);
        if spans > 0 {
            self.count += spans;
            self.until = from.saturating_add(spans * self.span);
        }
    }

    /// What there is to say of a version that has worked for so many ticks. A bout that has just begun counts with all of
    /// its span: the first of a version must not condemn it for having come early.
    pub fn record(&self, ticks: u64) -> Record {
        Record { bouts: self.count, ticks: ticks.max(self.count * self.span) }
    }
}

/// A span of robot time in whole ticks.
pub(crate) fn ticks(span: Duration, control_hz: f32) -> u64 {
    (span.as_secs_f64() * f64::from(control_hz)).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(interventions: &[(u64, u64)]) -> u64 {
        let mut bouts = Bouts::new(100.0);
        interventions.iter().for_each(|&(first_tick, ticks)| bouts.note(first_tick, ticks));
        bouts.count
    }

    #[test]
    fn interventions_within_half_a_second_are_one_bout_and_what_lasts_counts_again_for_each() {
        assert_eq!(counted(&[(10, 1), (12, 30), (59, 1)]), 1);
        assert_eq!(counted(&[(10, 1), (60, 1), (300, 1)]), 3);
        assert_eq!(counted(&[(10, 50)]), 1);
        assert_eq!(counted(&[(10, 51)]), 2);
        assert_eq!(counted(&[(10, 10), (30, 120)]), 3, "the second goes on for long");
        let without_end: Vec<_> = (0..100).map(|tick| (tick * 10, 10)).collect();
        assert_eq!(counted(&without_end), 20);
    }
}
