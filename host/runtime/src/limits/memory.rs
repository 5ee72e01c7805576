//! The memory of all runs of a host together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a small run takes at most, bytes: one in Rust takes a tenth of it, one that brings a Python interpreter all of it.
const SMALL: usize = 32 << 20;

/// The part of the whole that is left to small runs: an eighth.
const RESERVE: usize = 8;

/// How much all runs may take, and how much they do.
#[derive(Clone)]
pub(crate) struct HostMemory(Arc<Pool>);

struct Pool {
    most: usize,
    used: AtomicUsize,
}

/// What one of them takes, until it is dropped.
pub(crate) struct Share {
    memory: HostMemory,
    used: usize,
}

impl HostMemory {
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Pool { most, used: AtomicUsize::new(0) }))
    }

    /// What nobody else shares in.
    pub fn of_one() -> Self {
        Self::new(usize::MAX)
    }

    /// Bytes: in use, and at most.
    pub fn level(&self) -> (usize, usize) {
        (self.0.used.load(Ordering::Acquire), self.0.most)
    }

    /// Whether there is no room for another small run.
    pub fn is_full(&self) -> bool {
        let (used, most) = self.level();
        used.saturating_add(SMALL.min(most / RESERVE)) > most
    }

    pub fn share(&self) -> Share {
        Share { memory: self.clone(), used: 0 }
    }
}

impl Share {
    /// Takes more. False: there is not so much, or what is left is for small ones.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let Pool { most, used } = &*self.memory.0;
        let own = self.used.saturating_add(bytes);
        let most = if own > SMALL { most - most / RESERVE } else { *most };
        let more = |used: usize| used.checked_add(bytes).filter(|used| *used <= most);
        let fits = used.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok();
        if fits {
            self.used = own;
        }
        fits
    }

    /// Gives some back.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.used);
        self.used -= bytes;
        self.memory.0.used.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// In words, for whoever gets no more.
    pub fn limit(&self) -> String {
        let (used, most) = self.memory.level();
        format!("{} MiB for all runs, {} in use, an eighth for small ones", most >> 20, used >> 20)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shrink(self.used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_ones_leave_an_eighth_to_small_ones_and_what_is_dropped_is_free_again() {
        let memory = HostMemory::new(256 << 20);
        let (mut large, mut small) = (memory.share(), memory.share());
        assert!(large.grow(224 << 20) && !large.grow(1));
        assert!(!memory.is_full() && small.grow(32 << 20) && memory.is_full());
        assert!(!memory.share().grow(1), "{:?}", memory.level());
        small.shrink(1 << 20);
        assert!(memory.share().grow(1 << 20));
        drop((large, small));
        assert_eq!(memory.level().0, 0);
    }
}
