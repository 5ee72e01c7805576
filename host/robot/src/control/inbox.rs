//! What handles ask of the control loop, on its way there.
//!
//! A command lies in a place of its own until the loop takes it or its sender withdraws it; either frees the place. So what
//! lies here is what is still wanted, however much was asked and given up, and however long the loop does not tick. In real
//! time the loop waits for no sender: it passes over a place that somebody is just writing to, and that one alone is heard a
//! tick later.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, OnceLock};

use crate::control::gate::Gate;
use crate::control::shared_slot::SharedSlot;

/// Places in a block: as many as a word has bits.
const PLACES: usize = 64;

/// Blocks are made when they are needed, up to so many.
const BLOCKS: usize = 256;

/// A numbered command, or nothing.
type Place<C> = SharedSlot<Option<(u64, C)>>;

struct Block<C> {
    /// A bit a place: somebody uses it. Set by its sender, cleared by whoever takes the command out of it.
    used: AtomicU64,
    /// A bit a place: a command lies in it. Changed only under the place's lock.
    full: AtomicU64,
    places: [Place<C>; PLACES],
}

pub(crate) struct Inbox<C> {
    gate: Arc<Gate>,
    blocks: Box<[OnceLock<Box<Block<C>>>]>,
    next: AtomicU64,
}

/// Where a command was put.
#[derive(Clone, Copy)]
pub(crate) struct Sent {
    block: usize,
    place: usize,
    number: u64,
}

/// Of an inbox, whatever its commands are.
pub(crate) trait Withdraw: Send + Sync {
    /// Takes a command back, if the loop has not taken it.
    fn withdraw(&self, sent: Sent);
}

impl<C: Send> Inbox<C> {
    /// More cannot wait for one tick.
    pub const MOST: usize = BLOCKS * PLACES;

    pub fn new(gate: Arc<Gate>) -> Self {
        Self { gate, blocks: (0..BLOCKS).map(|_| OnceLock::new()).collect(), next: AtomicU64::new(0) }
    }

    /// Puts a command where the loop finds it. Commands of one thread are taken in their order.
    ///
    /// # Errors
    /// The command, if every place is used, or the loop is gone.
    pub fn send(&self, command: C) -> Result<Sent, C> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let Some((block, place)) = self.claim() else { return Err(command) };
        let sent = Sent { block, place, number };
        self.block(block).put(place, number, command);
        // In one order with `Gate::end`: either the loop's end finds the command, or it is taken back here.
        if self.gate.has_ended()
            && let Some(command) = self.take_back(sent)
        {
            return Err(command);
        }
        self.gate.rouse();
        Ok(sent)
    }

    /// Whether there is nothing to take.
    pub fn is_empty(&self) -> bool {
        self.made().all(|block| block.full.load(Ordering::SeqCst) == 0)
    }

    /// Moves what has arrived into `commands`, with its numbers.
    pub fn take(&self, commands: &mut Vec<(u64, C)>) {
        for block in self.made() {
            let mut full = block.full.load(Ordering::SeqCst);
            while full != 0 {
                let place = full.trailing_zeros() as usize;
                full &= full - 1;
                if let Some(kept) = block.places[place].visit(self.gate.pace()) {
                    commands.extend(block.empty(place, kept, |_| true));
                }
            }
        }
        commands.sort_unstable_by_key(|(number, _)| *number);
    }

    /// Lets go of everything that was asked, when nobody will take it.
    pub fn drain(&self) {
        for block in self.made() {
            for (place, kept) in block.places.iter().enumerate() {
                // A command may be answered when it is dropped, which runs a waiter's code: not under the lock.
                let left = block.empty(place, kept.lock(), |_| true);
                drop(left);
            }
        }
    }

    fn take_back(&self, sent: Sent) -> Option<C> {
        let block = self.block(sent.block);
        let taken = block.empty(sent.place, block.places[sent.place].lock(), |number| number == sent.number);
        taken.map(|(_, command)| command)
    }

    fn made(&self) -> impl Iterator<Item = &Block<C>> {
        self.blocks.iter().map_while(OnceLock::get).map(|block| &**block)
    }

    fn block(&self, block: usize) -> &Block<C> {
        self.blocks[block].get_or_init(|| {
            let places = std::array::from_fn(|_| SharedSlot::new(None));
            Box::new(Block { used: AtomicU64::new(0), full: AtomicU64::new(0), places })
        })
    }

    /// Finds a place that nobody uses.
    fn claim(&self) -> Option<(usize, usize)> {
        (0..BLOCKS).find_map(|block| self.block(block).claim().map(|place| (block, place)))
    }
}

impl<C: Send> Withdraw for Inbox<C> {
    fn withdraw(&self, sent: Sent) {
        drop(self.take_back(sent));
    }
}

impl<C> Block<C> {
    fn claim(&self) -> Option<usize> {
        let free = |used: u64| (used != u64::MAX).then(|| used | (used + 1));
        let before = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, free).ok()?;
        Some(before.trailing_ones() as usize)
    }

    fn put(&self, place: usize, number: u64, command: C) {
        let mut kept = self.places[place].lock();
        *kept = Some((number, command));
        self.full.fetch_or(1 << place, Ordering::SeqCst);
    }

    /// Takes the command that is meant out of its place, which is free then.
    fn empty(
        &self,
        place: usize,
        mut kept: MutexGuard<'_, Option<(u64, C)>>,
        meant: impl Fn(u64) -> bool,
    ) -> Option<(u64, C)> {
        let taken = kept.take_if(|(number, _)| meant(*number))?;
        self.full.fetch_and(!(1 << place), Ordering::SeqCst);
        drop(kept);
        self.used.fetch_and(!(1 << place), Ordering::AcqRel);
        Some(taken)
    }
}
