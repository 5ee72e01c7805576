//! Changing the version of a skill while it works: what an operator decides about it, and when a new version is worse.
//!
//! A new version is instantiated while the old one works. At the old one's next checkpoint the old one waits, and the new
//! one begins with that checkpoint's state. Until the new one has *taken over*, by acquiring a lease or leaving a checkpoint
//! of its own, nothing is lost: if it refuses the state, traps or says nothing in time, the old one goes on as if nothing had
//! happened. After that it is on probation: if it traps, uses up a budget or draws interventions of the safety filter more
//! often than the old one did, the old version begins again from the checkpoint, and the new one is quarantined.
//!
//! An old version that reaches no checkpoint in time is stopped, and the new one begins from the last that it left. A run
//! that never left one keeps its version to its end.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use waza_robot::{Pending, Robot};

use crate::host::Skill;
use crate::supervisor::instance::Prepared;

/// How running skills change versions. All times are robot time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwapOptions {
    /// How long an old version may take to its next checkpoint before it is stopped.
    pub patience: Duration,
    /// How long a new version may take to its first call.
    pub first_call: Duration,
    /// How long the old version stands by after the new one has taken over. What a play draws is known when it ends, so a
    /// play that began in this time is waited for.
    pub probation: Duration,
}

impl Default for SwapOptions {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(5),
            first_call: Duration::from_secs(1),
            probation: Duration::from_secs(10),
        }
    }
}

/// A new version that waits for a run's next safe point.
pub(crate) struct Offer {
    pub prepared: Prepared,
    pub skill: Arc<Skill>,
    /// When somebody asked for it.
    pub requested: Instant,
}

/// The newest offer to a run; a newer one takes an older one's place.
#[derive(Default)]
pub(crate) struct Offers(Mutex<Offered>);

#[derive(Default)]
struct Offered {
    newest: Option<Offer>,
    /// Who waits for one.
    waker: Option<Waker>,
}

impl Offers {
    pub fn make(&self, offer: Offer) {
        let mut offered = self.lock();
        let (replaced, waker) = (offered.newest.replace(offer), offered.waker.take());
        drop(offered);
        drop(replaced);
        waker.into_iter().for_each(Waker::wake);
    }

    pub fn take(&self) -> Option<Offer> {
        self.lock().newest.take()
    }

    pub fn is_there(&self) -> bool {
        self.lock().newest.is_some()
    }

    /// Waits for an offer. Of several who do, the last is woken.
    pub async fn arrive(&self) {
        poll_fn(|context| {
            let mut offered = self.lock();
            if offered.newest.is_some() {
                return Poll::Ready(());
            }
            offered.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn lock(&self) -> MutexGuard<'_, Offered> {
        // Every change under this lock is a single step, so a panic cannot leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a spell of interventions lasts at least, of robot time. A force that lasts, or a chunk that begins badly,
/// draws several within it.
const SPELL: Duration = Duration::from_millis(500);

/// How rarely chance alone may seem to make a version worse, each time that it draws a spell more. All the times of a
/// probation together then condemn one that is just as good less than once in a hundred.
const CHANCE: f64 = 0.003;

/// Counts spells of interventions. Those that follow the beginning of a spell within [`SPELL`] belong to it, for they
/// come in clusters and are no news. What goes on for longer counts again for every such span.
#[derive(Debug)]
pub(crate) struct Spells {
    /// Ticks.
    span: u64,
    count: u64,
    /// The tick after the newest span that counts.
    until: u64,
}

impl Spells {
    pub fn new(control_hz: f32) -> Self {
        Self { span: ticks(SPELL, control_hz), count: 0, until: 0 }
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

    /// What there is to say of a version that has worked for so many ticks. A spell that has just begun counts with all of
    /// its span: the first of a version must not condemn it for having come early.
    pub fn record(&self, ticks: u64) -> Record {
        Record { spells: self.count, ticks: ticks.max(self.count * self.span) }
    }
}

/// How much the safety filter had to do with a version.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Record {
    pub spells: u64,
    pub ticks: u64,
}

impl Record {
    /// Whether this draws spells more often than another did, and chance would hardly have it so.
    ///
    /// Where the other drew none, too many are one within a 333rd of its time, two within an 18th, three within a sixth,
    /// nine within as much time.
    pub fn is_worse_than(self, other: Self) -> bool {
        let share = self.ticks as f64 / (self.ticks + other.ticks).max(1) as f64;
        let expected = (self.spells + other.spells) as f64 * share;
        self.spells as f64 > expected && self.at_least(other, share) < CHANCE
    }

    /// How probable it is that at least as many of all spells as this drew fall into its share of the time, if both draw
    /// them equally often: each of them then does with that probability (Przyborowski and Wilenski 1940, Homogeneity of
    /// results in testing samples from Poisson series). More than expected did.
    fn at_least(self, other: Self, share: f64) -> f64 {
        let odds = share / (1.0 - share);
        let (these, all) = (self.spells, self.spells + other.spells);
        let ways = (1..=these).map(|one| ((other.spells + one) as f64 / one as f64 * share).ln()).sum::<f64>();
        let exactly = (ways + other.spells as f64 * (1.0 - share).ln()).exp();
        let (mut term, mut sum) = (exactly, exactly);
        for spells in these..all {
            term *= (all - spells) as f64 / (spells + 1) as f64 * odds;
            // Beyond what is expected terms only fall.
            if term < sum * f64::EPSILON {
                break;
            }
            sum += term;
        }
        sum
    }
}

/// A version that has not proved itself.
pub(crate) struct Trial {
    /// The version before it.
    pub old: Arc<Skill>,
    /// What it left.
    pub state: Vec<u8>,
    pub record: Record,
    pub requested: Instant,
    /// It has begun and not taken over yet.
    pub starting: bool,
}

/// An instant of robot time that a run waits for beside everything else.
pub(crate) struct Timer {
    pub reach: Pending<u64>,
    /// The instant.
    pub tick: u64,
    pub is_due: bool,
}

impl Timer {
    pub fn after(robot: &Robot, span: Duration) -> Self {
        let tick = robot.tick().saturating_add(ticks(span, robot.embodiment().control_hz));
        Self { reach: robot.reach(tick), tick, is_due: false }
    }
}

fn ticks(span: Duration, control_hz: f32) -> u64 {
    (span.as_secs_f64() * f64::from(control_hz)).ceil() as u64
}

#[cfg(test)]
mod tests {
    use std::iter::repeat_with;

    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};

    use super::*;

    const HZ: f32 = 100.0;

    fn record(spells: u64, ticks: u64) -> Record {
        Record { spells, ticks }
    }

    fn counted(interventions: &[(u64, u64)]) -> u64 {
        let mut spells = Spells::new(HZ);
        interventions.iter().for_each(|&(first_tick, ticks)| spells.note(first_tick, ticks));
        spells.count
    }

    #[test]
    fn interventions_within_half_a_second_are_one_spell_and_what_lasts_counts_again_for_each() {
        assert_eq!(counted(&[(10, 1), (12, 30), (59, 1)]), 1);
        assert_eq!(counted(&[(10, 1), (60, 1), (300, 1)]), 3);
        assert_eq!(counted(&[(10, 50)]), 1);
        assert_eq!(counted(&[(10, 51)]), 2);
        assert_eq!(counted(&[(10, 10), (30, 120)]), 3, "the second goes on for long");
        let without_end: Vec<_> = (0..100).map(|tick| (tick * 10, 10)).collect();
        assert_eq!(counted(&without_end), 20);
    }

    #[test]
    fn a_version_is_worse_when_chance_would_hardly_let_it_draw_so_many_spells() {
        let chance = |new: Record, old: Record| new.at_least(old, new.ticks as f64 / (new.ticks + old.ticks) as f64);
        for (spells, by_hand) in [(15, 988.0 / 262_144.0), (16, 1160.0 / 524_288.0)] {
            let (new, old) = (record(spells, 1000), record(3, 1000));
            assert!((chance(new, old) - by_hand).abs() < 1e-12, "{spells}: {}", chance(new, old));
            assert_eq!(new.is_worse_than(old), by_hand < CHANCE);
        }
        assert!(!record(3, 150).is_worse_than(record(1, 1400)) && record(3, 150).is_worse_than(record(1, 1500)));
        assert!(!record(30, 1000).is_worse_than(record(200, 10_000)));
        assert!(record(40, 1000).is_worse_than(record(200, 10_000)));
        assert!(!record(1, 1000).is_worse_than(record(400, 10_000)), "it is better");
    }

    #[test]
    fn where_the_old_version_drew_none_its_time_says_how_many_are_too_many() {
        // Of a version that draws without end from its beginning on.
        let too_many =
            |old_ticks| (1..=20).find(|&spells| record(spells, spells * 50).is_worse_than(record(0, old_ticks)));
        let expected = [None, None, Some(6), Some(3), Some(2), Some(1)];
        assert_eq!([0, 300, 500, 1000, 2000, 20_000].map(too_many), expected);
        assert!(record(9, 1000).is_worse_than(record(0, 1000)) && !record(8, 1000).is_worse_than(record(0, 1000)));

        let mut early = Spells::new(HZ);
        early.note(0, 1);
        assert!(!early.record(1).is_worse_than(record(0, 10_000)), "its first came in its first tick");
    }

    #[test]
    fn a_count_of_millions_is_compared_as_well() {
        assert!(!record(10_000, 100_000).is_worse_than(record(1_000_000, 10_000_000)));
        assert!(record(10_500, 100_000).is_worse_than(record(1_000_000, 10_000_000)));
        assert!(!record(1, 100_000).is_worse_than(record(1_000_000, 10_000_000)), "it is better");
    }

    /// What the filter does to a version: clusters that begin at random, `rate` a second, four interventions over a few
    /// tenths of a second in each on average.
    fn clusters(random: &mut ChaCha8Rng, rate: f64, seconds: f64) -> Vec<(u64, u64)> {
        let mut share = || (random.next_u32() as f64 + 0.5) / 2f64.powi(32);
        let mut drawn = Vec::new();
        let mut begin = 0.0;
        loop {
            begin -= share().ln() / rate;
            if begin >= seconds {
                drawn.sort_unstable();
                return drawn;
            }
            let (mut at, length) = (begin, -0.2 * share().ln());
            loop {
                drawn.push(((at * f64::from(HZ)) as u64, 1 + (share() * 6.0) as u64));
                if share() < 0.25 {
                    break;
                }
                at = begin + length * share();
            }
        }
    }

    /// The share of probations of ten seconds in which a version is found to be worse that draws clusters so many times as
    /// often as the old one, which was watched for so long.
    fn condemned(rate: f64, times: f64, watched: f64) -> f64 {
        const PROBATIONS: usize = 2000;
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let found = repeat_with(|| {
            let mut spells = Spells::new(HZ);
            clusters(&mut random, rate, watched).iter().for_each(|&(first, ticks)| spells.note(first, ticks));
            let old = spells.record((watched * f64::from(HZ)) as u64);
            let mut spells = Spells::new(HZ);
            clusters(&mut random, rate * times, 10.0).into_iter().any(|(first, ticks)| {
                spells.note(first, ticks);
                spells.record(first + ticks).is_worse_than(old)
            })
        });
        found.take(PROBATIONS).filter(|&found| found).count() as f64 / PROBATIONS as f64
    }

    #[test]
    fn of_versions_that_are_just_as_good_fewer_than_one_in_a_hundred_is_sent_back() {
        for rate in [0.05, 0.2, 1.0, 3.0] {
            for watched in [3.0, 10.0, 60.0, 600.0] {
                let share = condemned(rate, 1.0, watched);
                assert!(share < 0.01, "{share} of those with {rate} a second, beside {watched} s of the old one");
            }
        }
    }

    #[test]
    fn of_versions_that_draw_five_times_as_often_most_are_sent_back_in_their_probation() {
        for (rate, watched) in [(0.2, 600.0), (0.4, 60.0), (0.4, 600.0)] {
            let share = condemned(rate, 5.0, watched);
            assert!(share > 0.5, "{share} of those with {rate} a second, beside {watched} s of the old one");
        }
    }
}
