//! A barrier that spins before it sleeps: phases last some ten microseconds, and waking a sleeping thread takes as long.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};

/// Spins before a thread sleeps, some fifty microseconds: whoever is waited for then has lost its core. To yield instead
/// was slower beside other programs (`docs/decisions/0004-cpu-executor.md`).
const SPINS: usize = 4096;

/// Where `threads` threads wait for each other, any number of times.
pub(super) struct Barrier {
    threads: usize,
    arrived: AtomicUsize,
    round: AtomicUsize,
    broken: AtomicBool,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
}

/// Breaks the barrier when a thread panics, so that no other waits for it for ever.
pub(super) struct Guard<'a>(&'a Barrier);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.broken.store(true, Ordering::SeqCst);
            self.0.wake_up();
        }
    }
}

impl Barrier {
    pub fn new(threads: usize) -> Self {
        Self {
            threads,
            arrived: AtomicUsize::new(0),
            round: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        }
    }

    pub fn guard(&self) -> Guard<'_> {
        Guard(self)
    }

    /// Returns once all threads have come here, and have seen all that the others wrote before.
    ///
    /// # Panics
    /// If one of them panicked and will not come.
    pub fn wait(&self) {
        let round = self.round.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            self.arrived.store(0, Ordering::Relaxed);
            self.round.store(round.wrapping_add(1), Ordering::SeqCst);
            self.wake_up();
            return;
        }
        let over = || self.round.load(Ordering::SeqCst) != round || self.broken.load(Ordering::SeqCst);
        let mut spins = 0;
        while !over() {
            spins += 1;
            if spins < SPINS { spin_loop() } else { self.sleep_until(over) }
        }
        assert!(self.round.load(Ordering::Acquire) != round, "another thread of the CPU executor panicked");
    }

    fn sleep_until(&self, over: impl Fn() -> bool) {
        let mut guard = self.sleep.lock();
        // Either this is counted before the others look for sleepers, or what they did before that is seen here.
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while !over() {
            self.wake.wait(&mut guard);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    fn wake_up(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            // Nobody is between looking and sleeping while this holds the lock.
            drop(self.sleep.lock());
            self.wake.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_passes_before_everybody_has_come() {
        let (barrier, count) = (Barrier::new(3), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for round in 1..=200 {
                        count.fetch_add(1, Ordering::Relaxed);
                        barrier.wait();
                        assert_eq!(count.load(Ordering::Relaxed), 3 * round);
                        barrier.wait();
                    }
                });
            }
        });
    }

    #[test]
    fn a_thread_that_comes_late_wakes_those_that_sleep() {
        let barrier = Barrier::new(3);
        std::thread::scope(|scope| {
            let waiting: Vec<_> = (0..2).map(|_| scope.spawn(|| (0..2).for_each(|_| barrier.wait()))).collect();
            for _ in 0..2 {
                while barrier.sleepers.load(Ordering::SeqCst) < 2 {
                    std::thread::yield_now();
                }
                barrier.wait();
            }
            assert!(waiting.into_iter().all(|thread| thread.join().is_ok()));
        });
    }

    #[test]
    fn a_thread_that_panics_does_not_leave_the_others_waiting() {
        let barrier = Barrier::new(2);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| barrier.wait());
            let panicking = scope.spawn(|| {
                let _guard = barrier.guard();
                panic!("on purpose");
            });
            assert!(panicking.join().is_err());
            assert!(waiting.join().is_err());
        });
    }
}
