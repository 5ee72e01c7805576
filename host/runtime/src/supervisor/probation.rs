//! When a new version is worse than the one before it: by how often each draws interventions of the safety filter.

use crate::run::activity::Record;

/// How rarely chance alone may seem to make a version worse, each time that it draws a bout more. All the times of a
/// probation together then condemn one that is just as good less than once in a hundred.
const CHANCE: f64 = 0.003;

impl Record {
    /// Whether this draws bouts more often than another did, and chance would hardly have it so.
    ///
    /// Where the other drew none, too many are one within a 333rd of its time, two within an 18th, three within a sixth,
    /// nine within as much time.
    pub fn is_worse_than(self, other: Self) -> bool {
        let share = self.ticks as f64 / (self.ticks + other.ticks).max(1) as f64;
        let expected = (self.bouts + other.bouts) as f64 * share;
        self.bouts as f64 > expected && self.at_least(other, share) < CHANCE
    }

    /// How probable it is that at least as many of all bouts as this drew fall into its share of the time, if both draw
    /// them equally often: each of them then does with that probability (Przyborowski and Wilenski 1940, Homogeneity of
    /// results in testing samples from Poisson series). More than expected did.
    fn at_least(self, other: Self, share: f64) -> f64 {
        let odds = share / (1.0 - share);
        let (these, all) = (self.bouts, self.bouts + other.bouts);
        let ways = (1..=these).map(|one| ((other.bouts + one) as f64 / one as f64 * share).ln()).sum::<f64>();
        let exactly = (ways + other.bouts as f64 * (1.0 - share).ln()).exp();
        let (mut term, mut sum) = (exactly, exactly);
        for bouts in these..all {
            term *= (all - bouts) as f64 / (bouts + 1) as f64 * odds;
            // Beyond what is expected terms only fall.
            if term < sum * f64::EPSILON {
                break;
            }
            sum += term;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use std::iter::repeat_with;

    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};

    use super::*;
    use crate::run::activity::Bouts;

    const HZ: f32 = 100.0;

    fn record(bouts: u64, ticks: u64) -> Record {
        Record { bouts, ticks }
    }

    #[test]
    fn a_version_is_worse_when_chance_would_hardly_let_it_draw_so_many_bouts() {
        let chance = |new: Record, old: Record| new.at_least(old, new.ticks as f64 / (new.ticks + old.ticks) as f64);
        for (bouts, by_hand) in [(15, 988.0 / 262_144.0), (16, 1160.0 / 524_288.0)] {
            let (new, old) = (record(bouts, 1000), record(3, 1000));
            assert!((chance(new, old) - by_hand).abs() < 1e-12, "{bouts}: {}", chance(new, old));
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
            |old_ticks| (1..=20).find(|&bouts| record(bouts, bouts * 50).is_worse_than(record(0, old_ticks)));
        let expected = [None, None, Some(6), Some(3), Some(2), Some(1)];
        assert_eq!([0, 300, 500, 1000, 2000, 20_000].map(too_many), expected);
        assert!(record(9, 1000).is_worse_than(record(0, 1000)) && !record(8, 1000).is_worse_than(record(0, 1000)));

        let mut early = Bouts::new(HZ);
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
            let mut bouts = Bouts::new(HZ);
            clusters(&mut random, rate, watched).iter().for_each(|&(first, ticks)| bouts.note(first, ticks));
            let old = bouts.record((watched * f64::from(HZ)) as u64);
            let mut bouts = Bouts::new(HZ);
            clusters(&mut random, rate * times, 10.0).into_iter().any(|(first, ticks)| {
                bouts.note(first, ticks);
                bouts.record(first + ticks).is_worse_than(old)
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
