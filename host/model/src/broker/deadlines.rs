//! The thread that tells who has waited too long, while the model's own thread waits for the device.

use std::time::Instant;

use parking_lot::MutexGuard;

use super::serve::fail_late;
use super::{Shared, State};

/// Answers what is late until the model's thread has ended.
pub(super) fn keep(shared: &Shared) {
    let mut state = shared.state.lock();
    while !state.stopped {
        let now = Instant::now();
        let late = state.take_late(now);
        if !late.is_empty() {
            MutexGuard::unlocked(&mut state, || fail_late(late));
            continue;
        }
        state.late_next = state.queue.late_next(now);
        match state.late_next {
            Some(next) => drop(shared.deadlines.wait_until(&mut state, next)),
            None => shared.deadlines.wait(&mut state),
        }
    }
}

impl State {
    /// Whether [`keep`] has to look at the queue before it would by itself.
    pub(super) fn is_late_earlier(&self, deadline: Instant) -> bool {
        self.late_next.is_none_or(|next| deadline < next)
    }
}
