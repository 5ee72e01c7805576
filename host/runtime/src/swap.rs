//! Changing the version of a skill while it works: what an operator decides about it, and when a new version is worse.
//!
//! A new version is instantiated while the old one works. At the old one's next checkpoint the old one waits, and the new
//! one begins with that checkpoint's state. Until the new one has *taken over*, by acquiring a lease or leaving a checkpoint
//! of its own, nothing is lost: if it refuses the state, traps or says nothing in time, the old one goes on as if nothing had
//! happened. After that it is on probation: if it traps, uses up a budget or draws more interventions of the safety filter than
//! the old one did, the old version begins again from the checkpoint, and the new one is quarantined.
//!
//! An old version that reaches no checkpoint in time is stopped, and the new one begins from the last that it left. A run
//! that never left one keeps its version to its end.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use waza_robot::{Pending, Robot};

use crate::host::Skill;
use crate::incarnation::{Conduct, Prepared};

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

/// How much the safety filter had to do with a version.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Record {
    pub interventions: u64,
    pub ticks: u64,
}

impl Record {
    pub fn of(conduct: &Conduct, now: u64) -> Self {
        Self { interventions: conduct.interventions(), ticks: now.saturating_sub(conduct.begun_tick()) }
    }

    /// Whether this draws more interventions than another did in as much time, beyond chance: counts of rare events scatter
    /// by about their root, and more than two of those are no chance any more. Where the other drew none, one is more.
    pub fn is_worse_than(self, other: Self) -> bool {
        let share = self.ticks as f64 / other.ticks.max(1) as f64;
        let expected = other.interventions as f64 * share;
        self.interventions as f64 > expected + 2.0 * expected.sqrt()
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
        let ticks = span.as_secs_f64() * f64::from(robot.embodiment().control_hz);
        let tick = robot.tick().saturating_add(ticks.ceil() as u64);
        Self { reach: robot.reach(tick), tick, is_due: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(interventions: u64, ticks: u64) -> Record {
        Record { interventions, ticks }
    }

    #[test]
    fn a_version_is_worse_when_it_draws_more_interventions_than_chance_explains() {
        assert!(record(1, 100).is_worse_than(record(0, 5000)));
        assert!(!record(0, 100).is_worse_than(record(0, 0)));
        // 16, and twice its root.
        assert!(!record(24, 1000).is_worse_than(record(16, 1000)));
        assert!(record(25, 1000).is_worse_than(record(16, 1000)));
        assert!(!record(4, 100).is_worse_than(record(400, 10_000)));
        assert!(record(9, 100).is_worse_than(record(400, 10_000)));
    }
}
