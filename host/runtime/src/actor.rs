//! What drives one run: its own thread, polling the skill and the host's work for it until all of it waits.
//!
//! Under lockstep this keeps robot time still while anybody thinks. Every answer of the robot comes with a hold on time;
//! the run keeps it until the skill and all host tasks have taken their turn and wait again. Only then does time go on,
//! so what happens in a tick does not depend on how long anybody took.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use futures_channel::mpsc;
use waza_robot::{Reply, TimeHold};

/// Work that the host does for a run beside the skill's own, until the run ends.
pub(crate) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The holds on robot time that a run keeps while it takes its turn.
#[derive(Clone, Default)]
pub(crate) struct Holds(Arc<Mutex<Vec<TimeHold>>>);

impl Holds {
    /// Until the run waits again.
    pub fn keep(&self, hold: TimeHold) {
        self.lock().push(hold);
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
        let released = std::mem::take(&mut *self.lock());
        drop(released);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<TimeHold>> {
        // Pushing and taking are single steps, so a panic cannot leave the list half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes the run's thread, and asks the run to end.
pub(crate) struct Signal {
    thread: Mutex<Option<Thread>>,
    woken: AtomicBool,
    stopped: AtomicBool,
}

impl Signal {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { thread: Mutex::new(None), woken: AtomicBool::new(true), stopped: AtomicBool::new(false) })
    }

    /// Asks the run to end, be it waiting or computing.
    pub fn stop(self: &Arc<Self>) {
        self.stopped.store(true, Ordering::Release);
        self.wake_by_ref();
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        if let Some(thread) = &*self.thread.lock().unwrap_or_else(PoisonError::into_inner) {
            thread.unpark();
        }
    }
}

/// Why a run was not driven to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Stopped,
    OutOfTime,
}

/// What drives a run.
pub(crate) struct Actor {
    pub signal: Arc<Signal>,
    pub holds: Holds,
    pub tasks: mpsc::UnboundedReceiver<Task>,
}

impl Actor {
    /// Drives `skill`, and the tasks that are sent meanwhile, on this thread. Tasks take their turn before the skill, in
    /// the order in which they were sent, so that a run repeats.
    ///
    /// `begin` is called whenever the run starts to think after it has waited. `left` says how long it may still take;
    /// nothing is polled once that is zero.
    pub fn drive<T>(
        mut self,
        skill: impl Future<Output = T>,
        begin: impl Fn(),
        left: impl Fn() -> Duration,
    ) -> Result<T, Ended> {
        *self.signal.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::thread::current());
        let waker = Waker::from(self.signal.clone());
        let mut context = Context::from_waker(&waker);
        let mut skill = pin!(skill);
        let mut running: Vec<Task> = Vec::new();
        begin();
        loop {
            self.signal.woken.store(false, Ordering::Release);
            if self.signal.is_stopped() {
                return Err(Ended::Stopped);
            }
            if left().is_zero() {
                return Err(Ended::OutOfTime);
            }
            running.retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
            if let Poll::Ready(value) = skill.as_mut().poll(&mut context) {
                return Ok(value);
            }
            let before = running.len();
            running.extend(std::iter::from_fn(|| self.tasks.try_recv().ok()));
            if running.len() > before || self.signal.woken.load(Ordering::Acquire) {
                continue;
            }
            self.holds.release();
            if !self.park(left()) {
                return Err(Ended::OutOfTime);
            }
            begin();
        }
    }

    /// Waits to be woken. False: it was not, for that long.
    fn park(&self, longest: Duration) -> bool {
        let end = Instant::now() + longest;
        while !self.signal.woken.load(Ordering::Acquire) {
            let now = Instant::now();
            if now >= end {
                return false;
            }
            std::thread::park_timeout(end - now);
        }
        true
    }
}
