//! What counts the calls of a run: how many are under way, how much they carry, how often the model is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::limits::{Budget, Budgets, Exhausted, mebibytes};

/// What is under way at once, against a limit: the calls of a run, or it and all that it invoked.
#[derive(Clone, Default)]
pub(crate) struct Concurrent(Arc<AtomicUsize>);

/// One of them, until it is dropped.
pub(crate) struct Slot(Concurrent);

impl Concurrent {
    fn enter(&self, budget: Budget, most: usize) -> Result<Slot, Exhausted> {
        let one_more = |count: usize| (count < most).then_some(count + 1);
        match self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more) {
            Ok(_) => Ok(Slot(self.clone())),
            Err(_) => Err(Exhausted { budget, limit: most.to_string() }),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A second's worth of something, which fills again as robot time passes.
struct Bucket {
    per_s: f64,
    level: f64,
    filled_ns: u64,
}

impl Bucket {
    fn new(per_s: u32, now_ns: u64) -> Self {
        Self { per_s: per_s.into(), level: per_s.into(), filled_ns: now_ns }
    }

    /// False: there is not so much.
    fn take(&mut self, amount: f64, now_ns: u64) -> bool {
        let passed_s = now_ns.saturating_sub(self.filled_ns) as f64 * 1e-9;
        self.level = self.per_s.min(self.level + self.per_s * passed_s);
        self.filled_ns = now_ns;
        let enough = amount <= self.level;
        if enough {
            self.level -= amount;
        }
        enough
    }
}

/// The meters of one run.
pub(crate) struct Meter {
    calls: Concurrent,
    most_calls: usize,
    /// Shared by a run and all that it invoked.
    family: Concurrent,
    most_invocations: usize,
    bytes: Mutex<Bucket>,
    requests: Mutex<Bucket>,
}

impl Meter {
    pub fn new(budgets: &Budgets, family: Concurrent, now_ns: u64) -> Self {
        Self {
            calls: Concurrent::default(),
            most_calls: budgets.calls,
            family,
            most_invocations: budgets.invocations,
            bytes: Mutex::new(Bucket::new(budgets.bytes_per_s, now_ns)),
            requests: Mutex::new(Bucket::new(budgets.model_requests_per_s, now_ns)),
        }
    }

    /// A call, an alarm, a stream, a rollout or a controller begins; it has ended when the place is dropped.
    pub fn call(&self) -> Result<Slot, Exhausted> {
        self.calls.enter(Budget::Calls, self.most_calls)
    }

    /// Another skill is invoked; it has ended when the place is dropped.
    pub fn invocation(&self) -> Result<Slot, Exhausted> {
        self.family.enter(Budget::Invocations, self.most_invocations)
    }

    /// The run and all that it invoked, as what it invokes counts itself.
    pub fn family(&self) -> Concurrent {
        self.family.clone()
    }

    /// So many bytes cross the boundary.
    pub fn carry(&self, bytes: usize, now_ns: u64) -> Result<(), Exhausted> {
        take(&self.bytes, bytes as f64, now_ns).map_err(|per_s| Exhausted {
            budget: Budget::Bytes,
            limit: format!("{} a second", mebibytes(per_s as usize)),
        })
    }

    /// The model is asked once more.
    pub fn request(&self, now_ns: u64) -> Result<(), Exhausted> {
        take(&self.requests, 1.0, now_ns)
            .map_err(|per_s| Exhausted { budget: Budget::ModelRequests, limit: format!("{per_s} a second") })
    }
}

fn take(bucket: &Mutex<Bucket>, amount: f64, now_ns: u64) -> Result<(), f64> {
    let mut bucket = bucket.lock();
    if bucket.take(amount, now_ns) { Ok(()) } else { Err(bucket.per_s) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn meter() -> Meter {
        let budgets =
            Budgets { calls: 2, invocations: 1, bytes_per_s: 1 << 20, model_requests_per_s: 10, ..Budgets::default() };
        Meter::new(&budgets, Concurrent::default(), 0)
    }

    #[test]
    fn requests_beyond_the_rate_are_refused_until_robot_time_has_passed() {
        let meter = meter();
        assert!((0..10).all(|_| meter.request(0).is_ok()));
        let error = meter.request(0).unwrap_err();
        assert_eq!(error.to_string(), "the number of requests to the model is used up (limit: 10 a second)");
        assert!((0..5).all(|_| meter.request(SECOND / 2).is_ok()));
        assert!(meter.request(SECOND / 2).is_err());
        // A long rest is worth no more than a second.
        assert_eq!((0..100).filter(|_| meter.request(100 * SECOND).is_ok()).count(), 10);
    }

    #[test]
    fn bytes_beyond_the_rate_are_refused_and_not_counted() {
        let meter = meter();
        assert!(meter.carry(1 << 20, 0).is_ok());
        let error = meter.carry(1, 0).unwrap_err();
        assert_eq!(error.to_string(), "the traffic of calls is used up (limit: 1 MiB a second)");
        assert!(meter.carry(1 << 19, SECOND / 2).is_ok());
    }

    #[test]
    fn what_has_ended_makes_place_for_another() {
        let meter = meter();
        let (first, _second) = (meter.call().unwrap(), meter.call().unwrap());
        assert_eq!(meter.call().err().map(|it| (it.budget, it.limit)), Some((Budget::Calls, "2".into())));
        drop(first);
        assert!(meter.call().is_ok());
    }

    #[test]
    fn all_that_a_run_invoked_shares_its_places() {
        let elder = meter();
        let younger = Meter::new(&Budgets { invocations: 1, ..Budgets::default() }, elder.family(), 0);
        let _place = elder.invocation().unwrap();
        assert_eq!(younger.invocation().err().map(|it| it.budget), Some(Budget::Invocations));
    }
}
