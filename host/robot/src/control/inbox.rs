//! The seam between the handles of a robot and its control loop: commands, the host stop, and who holds time still.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};

use futures_channel::oneshot;

use crate::clock::Pace;
use crate::control::external_drive::Driven;
use crate::control::play::PlayReport;
use crate::control::player::Prepared;
use crate::observation::Observation;
use crate::robot::RobotError;

/// What the control loop answers, together with robot time standing still.
#[derive(Debug)]
pub struct Reply<T> {
    /// The answer.
    pub value: T,
    /// Taken before the answer was sent: under [`Pace::Lockstep`] robot time stands still until it is dropped, and so
    /// until the answer is taken, or its future is dropped.
    pub hold: TimeHold,
}

pub(crate) type Answer<T> = oneshot::Sender<Reply<Result<T, RobotError>>>;

/// What handles ask of the loop.
pub(crate) enum Command {
    Observe(Answer<Arc<Observation>>),
    Reach(u64, Answer<u64>),
    Play(Prepared, Answer<PlayReport>),
    Drive(Driven, Answer<PlayReport>),
    Hold(Vec<usize>),
}

#[derive(Default)]
struct State {
    commands: Vec<Command>,
    holds: usize,
    /// The last handle is gone.
    closed: bool,
    /// The loop is gone: nobody will ever take a command.
    ended: bool,
    /// The loop is between two takes: some who are answered in this tick may not have been yet.
    ticking: bool,
}

pub(crate) struct Inbox {
    pace: Pace,
    state: Mutex<State>,
    wake: Condvar,
    settled: Condvar,
    /// Odd while the host stop is latched, and different after every stop: a stop that was reset between two ticks
    /// still ends what was playing. Not behind the mutex, so that no other command can delay it.
    stops: AtomicU64,
}

impl Inbox {
    pub fn new(pace: Pace) -> Arc<Self> {
        Arc::new(Self {
            pace,
            state: Mutex::default(),
            wake: Condvar::new(),
            settled: Condvar::new(),
            stops: AtomicU64::new(0),
        })
    }

    pub fn send(&self, command: Command) {
        let mut state = self.lock();
        if state.ended {
            // Dropping a command answers it, which may run a waiter's code: not under the lock.
            drop(state);
            drop(command);
            return;
        }
        state.commands.push(command);
        drop(state);
        self.wake.notify_one();
    }

    pub fn hold_time(self: &Arc<Self>) -> TimeHold {
        match self.pace {
            Pace::RealTime => TimeHold(None),
            Pace::Lockstep => {
                self.lock().holds += 1;
                TimeHold(Some(self.clone()))
            }
        }
    }

    pub fn reply<T>(self: &Arc<Self>, to: Answer<T>, value: Result<T, RobotError>) {
        // A waiter that has gone away gives its hold back here.
        drop(to.send(Reply { value, hold: self.hold_time() }));
    }

    pub fn stop(&self) {
        self.turn_stops(|stops| stops % 2 == 0);
    }

    /// Lifts that stop; false if it is not the one that is latched.
    pub fn reset(&self, stop: u64) -> bool {
        self.turn_stops(|stops| stops == stop && stops % 2 == 1)
    }

    /// Counts on from a count that will do.
    fn turn_stops(&self, will_do: impl Fn(u64) -> bool) -> bool {
        let turn = |stops: u64| will_do(stops).then_some(stops + 1);
        let turned = self.stops.fetch_update(Ordering::AcqRel, Ordering::Acquire, turn).is_ok();
        if turned {
            drop(self.lock());
            self.wake.notify_one();
        }
        turned
    }

    /// Whether the loop is gone.
    pub fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// Odd while the host stop is latched.
    pub fn stops(&self) -> u64 {
        self.stops.load(Ordering::Acquire)
    }

    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    /// Moves the commands that have arrived into `commands` and says whether anybody may still send some.
    ///
    /// In real time this never waits: commands that are just being sent are taken a tick later. In lockstep it waits
    /// until nobody holds time and there is a reason for a tick: `busy`, a command, or a change of the stop since
    /// `stops`.
    pub fn take(&self, commands: &mut Vec<Command>, busy: bool, stops: u64) -> bool {
        let mut state = match self.pace {
            Pace::RealTime => match self.state.try_lock() {
                Ok(state) => state,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return true,
            },
            Pace::Lockstep => {
                let waits = |state: &mut State| {
                    let idle = !busy && state.commands.is_empty() && self.stops() == stops;
                    !state.closed && (state.holds > 0 || idle)
                };
                let mut state = self.lock();
                state.ticking = false;
                self.settled.notify_all();
                let mut state = self.wake.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner);
                state.ticking = true;
                state
            }
        };
        commands.append(&mut state.commands);
        !state.closed
    }

    /// In lockstep, waits until everybody who is answered in the tick that is under way has been.
    pub fn settle(&self) {
        if self.pace == Pace::Lockstep {
            let ticking = |state: &mut State| state.ticking && !state.ended;
            drop(self.settled.wait_while(self.lock(), ticking));
        }
    }

    pub fn pace(&self) -> Pace {
        self.pace
    }

    /// Answers everything that was asked, and will be, with [`RobotError::Ended`].
    pub fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        self.settled.notify_all();
        let commands = std::mem::take(&mut state.commands);
        drop(state);
        drop(commands);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under this lock is a single step, so a panic cannot leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// While one of these lives, robot time stands still under [`Pace::Lockstep`]; under [`Pace::RealTime`] it is free of
/// effect. Whoever is about to act on what it has just learnt keeps one, so that thinking takes no robot time, and drops
/// it before waiting for the robot again: an answer that needs a tick never comes while it is held.
#[must_use = "robot time goes on as soon as this is dropped"]
pub struct TimeHold(Option<Arc<Inbox>>);

impl Clone for TimeHold {
    fn clone(&self) -> Self {
        self.0.as_ref().map_or(Self(None), Inbox::hold_time)
    }
}

impl Drop for TimeHold {
    fn drop(&mut self) {
        if let Some(inbox) = &self.0 {
            inbox.lock().holds -= 1;
            inbox.wake.notify_one();
        }
    }
}

impl std::fmt::Debug for TimeHold {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(if self.0.is_some() { "TimeHold" } else { "TimeHold (real time)" })
    }
}
