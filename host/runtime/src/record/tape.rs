//! Writing a run down while it runs.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;

use wasmtime::component::{Resource, ResourceTable};
use waza_robot::{Observation, Robot};

use crate::contract::{Observed, Outcome};
use crate::error::SkillError;
use crate::record::entry::{Delivery, Ending, Entry};
use crate::record::value::Canonical;

/// Takes what a run writes down. Called on the run's thread, under lockstep while robot time stands still: it must neither
/// wait nor fail.
pub trait Journal: Send + Sync {
    /// The next entry, at an instant of robot time, ns.
    fn entry(&self, at_ns: u64, entry: &Entry);

    /// An observation was handed to the skill, which the entry before names by this number.
    fn observed(&self, observation: u32, seen: &Arc<Observation>);
}

/// Writes one run's entries into a journal.
pub(crate) struct Tape {
    journal: Arc<dyn Journal>,
    robot: Robot,
    calls: AtomicU64,
    /// The run has ended: what is dropped now, the host drops.
    over: AtomicBool,
}

impl Tape {
    pub fn new(journal: Arc<dyn Journal>, robot: Robot) -> Arc<Self> {
        Arc::new(Self { journal, robot, calls: AtomicU64::new(0), over: AtomicBool::new(false) })
    }

    fn write(&self, entry: &Entry) {
        if self.over.load(Ordering::Relaxed) {
            return;
        }
        self.journal.entry(self.robot.tick_ns(self.robot.tick()), entry);
    }

    /// The call's number.
    pub fn called(&self, name: &str, arguments: String) -> u64 {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        self.write(&Entry::Call { number, name: name.into(), arguments });
        number
    }

    /// The number of the call that was made last.
    pub fn newest(&self) -> u64 {
        self.calls.load(Ordering::Relaxed).saturating_sub(1)
    }

    /// What the skill was handed is in this table.
    pub fn answered(&self, table: &ResourceTable, number: u64, waited: bool, answer: &impl Canonical) {
        self.write(&Entry::Answer { number, waited, value: answer.spelt() });
        self.observed(table, answer);
    }

    pub fn delivered(&self, number: u64, waited: bool, what: Delivery) {
        self.write(&Entry::Stream { number, waited, what });
    }

    /// What a stream delivers.
    pub fn item(&self, table: &ResourceTable, number: u64, waited: bool, item: &impl Canonical) {
        self.delivered(number, waited, Delivery::Item(item.spelt()));
        self.observed(table, item);
    }

    fn observed(&self, table: &ResourceTable, handed: &impl Canonical) {
        if let Some(number) = handed.observation()
            && let Ok(seen) = table.get(&Resource::<Observed>::new_borrow(number))
        {
            self.journal.observed(number, seen);
        }
    }

    pub fn rang(&self, number: u64, waited: bool) {
        self.write(&Entry::Alarm { number, waited });
    }

    pub fn said(&self, line: &str) {
        self.write(&Entry::Log { line: line.into() });
    }

    pub fn ended(&self, ended: &Result<Outcome, SkillError>) {
        self.write(&Entry::End(Ending::of(ended)));
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Awaits something, and says whether it had to be waited for.
pub(crate) async fn awaited<T>(future: impl Future<Output = T>) -> (T, bool) {
    let mut future = pin!(future);
    let mut waited = false;
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready((value, waited)),
        Poll::Pending => {
            waited = true;
            Poll::Pending
        }
    })
    .await
}
