//! What handles ask of the control loop, on its way there.
//!
//! A command lies in a place of its own until the loop takes it or its sender withdraws it; either frees the place. So what
//! lies here is what is still wanted, however much was asked and given up, and however long the loop does not tick. The loop
//! waits for no sender: it passes over a place that somebody is just writing to, and that one alone is heard a tick later.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::control::gate::Gate;
use crate::control::shared_slot::SharedSlot;

/// Places in a block: as many as a word has bits.
const PLACES: usize = 64;

/// Blocks are made when they are needed, up to so many.
const BLOCKS: usize = 256;

/// Of no command.
const NONE: u64 = u64::MAX;

struct Place<C> {
    /// Of the command in it, or [`NONE`]. Whoever replaces it with that takes the command out: the loop or its sender.
    number: AtomicU64,
    /// Only ever looked at by one, so that nobody waits for the lock.
    command: SharedSlot<Option<C>>,
}

struct Block<C> {
    /// A bit a place: somebody uses it. Set by its sender, cleared by whoever has taken the command out of it.
    used: AtomicU64,
    /// A bit a place: there is a command in it, or just about to be.
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
        let number = self.next.fetch_add(1, Ordering::SeqCst);
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
        self.made().all(|block| block.numbers().next().is_none())
    }

    /// Moves what has arrived into `commands`, with its numbers.
    pub fn take(&self, commands: &mut Vec<(u64, C)>) {
        // What is numbered from here on waits: it may lie where this has not looked yet, and what its thread sent before it
        // where this has looked already.
        let until = self.next.load(Ordering::SeqCst);
        for block in self.made() {
            for (place, number) in block.numbers().filter(|(_, number)| *number < until) {
                commands.extend(block.empty(place, number).map(|command| (number, command)));
            }
        }
        commands.sort_unstable_by_key(|(number, _)| *number);
    }

    /// Lets go of everything that was asked, when nobody will take it.
    pub fn drain(&self) {
        for block in self.made() {
            for (place, number) in block.numbers() {
                drop(block.empty(place, number));
            }
        }
    }

    fn take_back(&self, sent: Sent) -> Option<C> {
        self.block(sent.block).empty(sent.place, sent.number)
    }

    fn made(&self) -> impl Iterator<Item = &Block<C>> {
        self.blocks.iter().map_while(OnceLock::get).map(|block| &**block)
    }

    fn block(&self, block: usize) -> &Block<C> {
        self.blocks[block].get_or_init(|| {
            let place = |_| Place { number: AtomicU64::new(NONE), command: SharedSlot::new(None) };
            let places = std::array::from_fn(place);
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

    /// Into a place that was claimed.
    fn put(&self, place: usize, number: u64, command: C) {
        *self.places[place].command.lock() = Some(command);
        self.full.fetch_or(1 << place, Ordering::SeqCst);
        self.places[place].number.store(number, Ordering::SeqCst);
    }

    /// Places with a command, and its number.
    fn numbers(&self) -> impl Iterator<Item = (usize, u64)> {
        let mut full = self.full.load(Ordering::SeqCst);
        let places = std::iter::from_fn(move || {
            let place = (full != 0).then(|| full.trailing_zeros() as usize)?;
            full &= full - 1;
            Some(place)
        });
        let numbered = places.map(|place| (place, self.places[place].number.load(Ordering::SeqCst)));
        numbered.filter(|(_, number)| *number != NONE)
    }

    /// Takes that command out of its place, which is free then, if nobody else has.
    fn empty(&self, place: usize, number: u64) -> Option<C> {
        let Place { number: lies, command } = &self.places[place];
        lies.compare_exchange(number, NONE, Ordering::SeqCst, Ordering::SeqCst).ok()?;
        self.full.fetch_and(!(1 << place), Ordering::SeqCst);
        let taken = command.lock().take();
        self.used.fetch_and(!(1 << place), Ordering::AcqRel);
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::clock::Pace;

    fn inbox<C: Send>() -> Inbox<C> {
        Inbox::new(Gate::new(Pace::RealTime))
    }

    fn taken<C: Send>(inbox: &Inbox<C>) -> Vec<C> {
        let mut commands = Vec::new();
        inbox.take(&mut commands);
        commands.into_iter().map(|(_, command)| command).collect()
    }

    #[test]
    fn a_sender_that_stands_still_in_the_middle_of_sending_delays_nobody_else() {
        let inbox = inbox();
        let (number, (block, place)) = (inbox.next.fetch_add(1, Ordering::SeqCst), inbox.claim().unwrap());
        let writing = inbox.block(block).places[place].command.lock();
        assert!(['b', 'c'].into_iter().all(|command| inbox.send(command).is_ok()));
        assert_eq!(taken(&inbox), ['b', 'c']);
        drop(writing);
        inbox.block(block).put(place, number, 'a');
        assert_eq!(taken(&inbox), ['a']);
    }

    #[test]
    fn what_one_thread_sends_is_taken_in_its_order_also_from_places_that_were_used_before() {
        let inbox = inbox();
        let first: Vec<_> = (0..100).map(|command| inbox.send(command).unwrap()).collect();
        first.iter().step_by(3).for_each(|sent| inbox.withdraw(*sent));
        assert!((100..200).all(|command| inbox.send(command).is_ok()));
        let expected: Vec<_> = (0..200).filter(|command| *command >= 100 || command % 3 > 0).collect();
        assert_eq!(taken(&inbox), expected);
        assert!(inbox.is_empty());
    }

    #[test]
    fn whoever_withdraws_late_takes_back_nothing_of_others() {
        let inbox = inbox();
        let gone = inbox.send('a').unwrap();
        assert_eq!(taken(&inbox), ['a']);
        let others = inbox.send('b').unwrap();
        assert_eq!((gone.block, gone.place), (others.block, others.place));
        inbox.withdraw(gone);
        assert_eq!(taken(&inbox), ['b']);
    }

    #[test]
    fn what_is_sent_after_the_loop_has_ended_comes_back() {
        let gate = Gate::new(Pace::RealTime);
        let inbox = Inbox::new(gate.clone());
        assert!(inbox.send('a').is_ok());
        gate.end();
        inbox.drain();
        assert_eq!(inbox.send('b').err(), Some('b'));
        assert!(inbox.is_empty());
    }

    #[test]
    fn every_command_is_taken_or_taken_back_and_never_both_however_threads_race() {
        let inbox = inbox();
        let (over, mut received) = (AtomicBool::new(false), Vec::new());
        let kept: Vec<u64> = std::thread::scope(|scope| {
            let sender = |thread: u64| {
                let inbox = &inbox;
                scope.spawn(move || {
                    let mut kept = Vec::new();
                    for number in 0..20_000 {
                        let command = thread << 32 | number;
                        let sent = inbox.send(command).unwrap();
                        if number % 4 > 0 && inbox.take_back(sent).is_some_and(|back| back == command) {
                            continue;
                        }
                        kept.push(command);
                    }
                    kept
                })
            };
            let senders: Vec<_> = (0..3).map(sender).collect();
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    received.extend(taken(&inbox));
                }
                received.extend(taken(&inbox));
            });
            let kept = senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect();
            over.store(true, Ordering::Relaxed);
            kept
        });
        for thread in 0..3 {
            let of = |commands: &[u64]| commands.iter().filter(|it| **it >> 32 == thread).copied().collect::<Vec<_>>();
            let (received, kept) = (of(&received), of(&kept));
            let differs = received.iter().zip(&kept).position(|(received, kept)| received != kept);
            assert_eq!((differs, received.len()), (None, kept.len()), "of thread {thread}, in its order");
        }
        assert!(inbox.made().all(|block| block.used.load(Ordering::Relaxed) == 0));
    }
}
