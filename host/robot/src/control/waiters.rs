//! Whoever waits for a tick, in the order of their ticks: a tick costs no more than those that are due in it.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::control::answer::Answer;

/// Somebody who waits for a tick. The one of the earliest tick is the greatest.
pub(crate) struct Waiter {
    pub tick: u64,
    /// Of its command: earlier ones are answered earlier.
    pub number: u64,
    pub answer: Answer<u64>,
}

impl Waiter {
    fn turn(&self) -> Reverse<(u64, u64)> {
        Reverse((self.tick, self.number))
    }
}

impl PartialEq for Waiter {
    fn eq(&self, other: &Self) -> bool {
        self.turn() == other.turn()
    }
}

impl Eq for Waiter {}

impl PartialOrd for Waiter {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiter {
    fn cmp(&self, other: &Self) -> Ordering {
        self.turn().cmp(&other.turn())
    }
}

/// Everybody who waits for a tick. One who has gone leaves nothing behind for long.
pub(crate) struct Waiters {
    heap: BinaryHeap<Waiter>,
    room: usize,
    /// With so many it is time to let go of those who have gone.
    enough: usize,
}

impl Waiters {
    /// With room for so many from the start.
    pub fn new(room: usize) -> Self {
        Self { heap: BinaryHeap::with_capacity(room), room, enough: room }
    }

    pub fn add(&mut self, waiter: Waiter) {
        if self.heap.len() >= self.enough {
            self.heap.retain(|waiter| !waiter.answer.is_withdrawn());
            self.enough = (2 * self.heap.len()).max(self.room);
        }
        self.heap.push(waiter);
    }

    /// Whether anybody still waits.
    pub fn any(&mut self) -> bool {
        while self.heap.peek().is_some_and(|waiter| waiter.answer.is_withdrawn()) {
            self.heap.pop();
        }
        !self.heap.is_empty()
    }

    /// Whose tick has come, one after the other.
    pub fn due(&mut self, tick: u64) -> Option<Answer<u64>> {
        let is_due = self.heap.peek().is_some_and(|waiter| waiter.tick <= tick);
        if is_due { self.heap.pop().map(|waiter| waiter.answer) } else { None }
    }
}
