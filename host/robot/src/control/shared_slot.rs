//! A value that the control loop shares with one other thread.

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use crate::clock::Pace;

/// A lock of the standard library, which on Linux lets go without taking another one. `parking_lot`'s takes that of a queue
/// when somebody waits, and the loop would wait in it for a thread that may be of the lowest priority.
pub(crate) struct SharedSlot<T>(Mutex<T>);

impl<T> SharedSlot<T> {
    pub fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        // What is kept so is whole after every step, so a panic cannot leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the loop: in real time it waits for nobody who is just reading or writing; there is a next tick.
    pub fn visit(&self, pace: Pace) -> Option<MutexGuard<'_, T>> {
        match pace {
            Pace::Lockstep => Some(self.lock()),
            Pace::RealTime => self.try_lock(),
        }
    }

    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(value) => Some(value),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}
