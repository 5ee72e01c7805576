//! When the control loop may tick: who holds time still under lockstep, the host stop, and the end of the robot.
//!
//! In real time the loop only reads numbers here. The lock is lockstep's, where time may wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};

use crate::clock::Pace;

#[derive(Default)]
struct Time {
    holds: usize,
    /// The loop is in a tick: some who are answered in it may not have been yet.
    ticking: bool,
}

pub(crate) struct Gate {
    pace: Pace,
    /// Odd while the host stop is latched, and different after every stop: a stop that was reset between two ticks
    /// still ends what was playing.
    stops: AtomicU64,
    /// The latched stop that was asked for once more.
    stopped_again: AtomicU64,
    /// The last handle is gone.
    closed: AtomicBool,
    /// The loop is gone: nobody will ever take a command.
    ended: AtomicBool,
    /// Lockstep's alone.
    time: Mutex<Time>,
    wake: Condvar,
    settled: Condvar,
}

impl Gate {
    pub fn new(pace: Pace) -> Arc<Self> {
        Arc::new(Self {
            pace,
            stops: AtomicU64::new(0),
            stopped_again: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            time: Mutex::default(),
            wake: Condvar::new(),
            settled: Condvar::new(),
        })
    }

    pub fn pace(&self) -> Pace {
        self.pace
    }

    pub fn hold_time(self: &Arc<Self>) -> TimeHold {
        match self.pace {
            Pace::RealTime => TimeHold(None),
            Pace::Lockstep => {
                self.time.lock().holds += 1;
                TimeHold(Some(self.clone()))
            }
        }
    }

    /// Latches the host stop. The count, if it was not latched before.
    pub fn stop(&self) -> Option<u64> {
        match self.turn_stops(|stops| stops % 2 == 0) {
            Ok(stop) => Some(stop),
            Err(latched) => {
                self.stopped_again.store(latched, Ordering::Release);
                None
            }
        }
    }

    /// Lifts that stop; false if it is not the one that is latched.
    pub fn reset(&self, stop: u64) -> bool {
        self.turn_stops(|stops| stops == stop && stops % 2 == 1).is_ok()
    }

    /// Lifts that stop if nobody has asked for one since it was latched.
    pub fn take_back(&self, stop: u64) -> bool {
        self.stopped_again.load(Ordering::Acquire) != stop && self.reset(stop)
    }

    /// Counts on to what somebody else has come to.
    pub fn catch_up(&self, stops: u64) {
        if self.stops.fetch_max(stops, Ordering::AcqRel) < stops {
            self.rouse();
        }
    }

    /// Counts on from a count that will do; the new count, or the one that will not.
    fn turn_stops(&self, will_do: impl Fn(u64) -> bool) -> Result<u64, u64> {
        let turn = |stops: u64| will_do(stops).then_some(stops + 1);
        let before = self.stops.fetch_update(Ordering::AcqRel, Ordering::Acquire, turn)?;
        self.rouse();
        Ok(before + 1)
    }

    /// Odd while the host stop is latched.
    pub fn stops(&self) -> u64 {
        self.stops.load(Ordering::Acquire)
    }

    /// Lets a loop in lockstep look again whether there is a reason for a tick; in real time ticks need none.
    pub fn rouse(&self) {
        if self.pace == Pace::Lockstep {
            // Under the lock, or the loop could miss it between its look and its sleep.
            drop(self.time.lock());
            self.wake.notify_one();
        }
    }

    /// The last handle is gone.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.rouse();
    }

    /// Whether anybody may still ask for something.
    pub fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Acquire)
    }

    /// The loop is gone.
    pub fn end(&self) {
        // In one order with the places of an inbox: see `Inbox::send`.
        self.ended.store(true, Ordering::SeqCst);
        drop(self.time.lock());
        self.settled.notify_all();
    }

    /// Whether the loop is gone.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Lets the loop into its next tick, which begins with `begin`. In real time this never waits. In lockstep it waits
    /// until nobody holds time and there is a reason for a tick.
    pub fn pass(&self, mut reason: impl FnMut() -> bool, begin: impl FnOnce()) {
        match self.pace {
            Pace::RealTime => begin(),
            Pace::Lockstep => {
                let mut time = self.time.lock();
                time.ticking = false;
                self.settled.notify_all();
                self.wake.wait_while(&mut time, |time| self.is_open() && (time.holds > 0 || !reason()));
                time.ticking = true;
                // Under the lock: who comes to hold time from here on finds the tick begun, and is heard in the next.
                begin();
            }
        }
    }

    /// In lockstep, waits until everybody who is answered in the tick that is under way has been.
    pub fn settle(&self) {
        if self.pace == Pace::Lockstep {
            self.settled.wait_while(&mut self.time.lock(), |time| time.ticking && !self.has_ended());
        }
    }
}

/// While one of these lives, robot time stands still under [`Pace::Lockstep`]; under [`Pace::RealTime`] it is free of
/// effect. Whoever is about to act on what it has just learnt keeps one, so that thinking takes no robot time, and drops
/// it before waiting for the robot again: an answer that needs a tick never comes while it is held.
#[must_use = "robot time goes on as soon as this is dropped"]
pub struct TimeHold(Option<Arc<Gate>>);

impl Clone for TimeHold {
    fn clone(&self) -> Self {
        self.0.as_ref().map_or(Self(None), Gate::hold_time)
    }
}

impl Drop for TimeHold {
    fn drop(&mut self) {
        if let Some(gate) = &self.0 {
            gate.time.lock().holds -= 1;
            gate.wake.notify_one();
        }
    }
}

impl std::fmt::Debug for TimeHold {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(if self.0.is_some() { "TimeHold" } else { "TimeHold (real time)" })
    }
}
