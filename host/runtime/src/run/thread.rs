//! What the thread of a run waits with: the holds that it keeps on robot time, and the signal that wakes it.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Wake;
use std::thread::Thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use waza_robot::{Reply, TimeHold};

/// Work that the host does for a run beside the skill's own, until the run ends.
pub(crate) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The holds on robot time that a run keeps while it takes its turn.
#[derive(Clone, Default)]
pub(crate) struct Holds(Arc<Mutex<Option<TimeHold>>>);

impl Holds {
    /// Until the run waits again.
    pub fn keep(&self, hold: TimeHold) {
        let mut kept = self.0.lock();
        // One holds time as well as many: a run that is answered and never waits keeps no more of them.
        let spare = if kept.is_some() { Some(hold) } else { kept.replace(hold) };
        drop(kept);
        drop(spare);
    }

    /// Keeps the hold of an answer.
    pub fn keep_of<T>(&self, answer: Reply<T>) -> T {
        self.keep(answer.hold);
        answer.value
    }

    /// Waits for an answer of the robot and keeps its hold.
    pub async fn settle<T>(&self, answer: impl Future<Output = Reply<T>>) -> T {
        self.keep_of(answer.await)
    }

    /// Lets time go on.
    pub fn release(&self) {
        // Dropped outside the lock: it wakes the control loop.
        let released = self.0.lock().take();
        drop(released);
    }
}

/// Why a run was asked to end. The later of these outweighs the earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stop {
    /// The host stops or leaves, or nobody waits for the run any more: it may go on some other time.
    Interrupted = 1,
    /// Somebody wants it no more.
    Ended,
}

/// Wakes the run's thread, and asks the run to end.
pub(crate) struct Signal {
    /// Written once and read without a lock: the control loop wakes runs, and must not wait for one that computes.
    thread: OnceLock<Thread>,
    woken: AtomicBool,
    /// A [`Stop`]; 0: it may go on.
    stopped: AtomicU8,
}

impl Signal {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { thread: OnceLock::new(), woken: AtomicBool::new(true), stopped: AtomicU8::new(0) })
    }

    /// Asks the run to end, be it waiting or computing.
    pub fn stop(self: &Arc<Self>, why: Stop) {
        self.stopped.fetch_max(why as u8, Ordering::AcqRel);
        self.wake_by_ref();
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire) != 0
    }

    /// Somebody wants the run no more.
    pub fn is_unwanted(&self) -> bool {
        self.stopped.load(Ordering::Acquire) == Stop::Ended as u8
    }

    /// This thread is the run's.
    pub fn attach(&self) {
        // A run has one thread, from its beginning to its end.
        let _ = self.thread.set(std::thread::current());
    }

    /// Nobody has woken the run from here on.
    pub fn rest(&self) {
        self.woken.store(false, Ordering::Release);
    }

    pub fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Acquire)
    }

    /// Waits to be woken. False: it was not, for that long.
    pub fn park(&self, longest: Duration) -> bool {
        let end = Instant::now() + longest;
        while !self.is_woken() {
            let now = Instant::now();
            if now >= end {
                return false;
            }
            std::thread::park_timeout(end - now);
        }
        true
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}
