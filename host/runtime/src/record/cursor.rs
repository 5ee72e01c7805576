//! Where a replay stands in its record: what the skill does is compared with the next entry, what it waits for comes when
//! it is the next entry.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::limits::CpuClock;
use crate::record::value::Answer;
use crate::record::{Delivery, Difference, Ending, Entry};

/// The replay goes no further: it differs, or the record ends.
#[derive(Debug, thiserror::Error)]
#[error("the replay has ended")]
pub(crate) struct Halt;

/// Why a replay goes no further.
#[derive(Debug, Clone)]
pub(crate) enum Halted {
    Differs(Difference),
    /// Everything that was recorded has been the same.
    RecordEnds,
}

/// What brings something that a skill waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Answer(u64),
    Stream(u64),
    Alarm(u64),
}

impl Source {
    fn of(entry: &Entry) -> Option<Self> {
        match entry {
            Entry::Answer { number, .. } => Some(Self::Answer(*number)),
            // These the skill does, it does not wait for them.
            Entry::Stream { what: Delivery::Cancelled | Delivery::Closed, .. } => None,
            Entry::Stream { number, .. } => Some(Self::Stream(*number)),
            Entry::Alarm { number, .. } => Some(Self::Alarm(*number)),
            Entry::Call { .. } | Entry::Log { .. } | Entry::End(_) => None,
        }
    }
}

/// Shared by everything that the skill calls.
#[derive(Clone)]
pub(crate) struct Cursor(Arc<Mutex<State>>);

struct State {
    /// With their instants of robot time, ns. Without what a skill may say.
    entries: Vec<(u64, Entry)>,
    next: usize,
    /// That have been the same.
    calls: u64,
    waiting: BTreeMap<Source, Waker>,
    halted: Option<Halted>,
    /// The run is over: what is dropped now is dropped by the host.
    over: bool,
    burst: CpuClock,
}

impl Cursor {
    pub fn new(entries: Vec<(u64, Entry)>, burst: CpuClock) -> Self {
        // A new version may say what it likes: that moves nothing.
        let entries = entries.into_iter().filter(|(_, entry)| !matches!(entry, Entry::Log { .. })).collect();
        let waiting = BTreeMap::new();
        Self(Arc::new(Mutex::new(State { entries, next: 0, calls: 0, waiting, halted: None, over: false, burst })))
    }

    /// The skill makes a call. Its number, if it was recorded.
    pub fn call(&self, name: &str, arguments: &str) -> Result<u64, Halt> {
        let mut state = self.0.lock();
        if let Some((_, Entry::Call { number, name: recorded, arguments: with })) = state.peek()
            && recorded == name
            && with == arguments
        {
            let number = *number;
            state.calls += 1;
            state.advance();
            return Ok(number);
        }
        Err(state.differ(&format!("it calls {name}{arguments}")))
    }

    /// The answer to a call that the skill does not await.
    pub fn answer<O: Answer>(&self, number: u64) -> O {
        let mut state = self.0.lock();
        if !matches!(state.peek(), Some((_, Entry::Answer { number: of, .. })) if *of == number) {
            let halt = state.differ(&format!("call {number} has no answer"));
            return O::fatal(wasmtime::Error::new(halt));
        }
        state.take_answer()
    }

    /// The answer to a call that the skill awaits, when its turn has come. `pended` is kept from poll to poll.
    pub fn poll_answer<O: Answer>(&self, number: u64, pended: &mut bool, context: &Context<'_>) -> Poll<O> {
        let mut state = self.0.lock();
        if state.is_due(Source::Answer(number), pended, context) {
            Poll::Ready(state.take_answer())
        } else {
            Poll::Pending
        }
    }

    /// What comes through a stream, when its turn has come. `finish`: the skill waits no longer.
    pub fn poll_stream(
        &self,
        number: u64,
        pended: &mut bool,
        finish: bool,
        context: &Context<'_>,
    ) -> Poll<Result<Delivery, Halt>> {
        let mut state = self.0.lock();
        if finish {
            // A skill that waits no longer gets what it got then, be it nothing.
            match state.peek() {
                Some((_, Entry::Stream { number: of, what, .. })) if *of == number && *what != Delivery::Closed => {}
                _ => {
                    return Poll::Ready(
                        Err(state.differ(&format!("it stops waiting for the stream of call {number}"))),
                    );
                }
            }
        } else if !state.is_due(Source::Stream(number), pended, context) {
            return Poll::Pending;
        }
        *pended = false;
        match state.take() {
            Some(Entry::Stream { what, .. }) => Poll::Ready(Ok(what)),
            _ => Poll::Ready(Err(Halt)),
        }
    }

    /// The skill closed a stream.
    pub fn close(&self, number: u64) {
        let mut state = self.0.lock();
        state.waiting.remove(&Source::Stream(number));
        if state.over {
            return;
        }
        match state.peek() {
            Some((_, Entry::Stream { number: of, what: Delivery::Closed, .. })) if *of == number => state.advance(),
            // The next call halts.
            _ => {
                state.differ(&format!("it closes the stream of call {number}"));
            }
        }
    }

    /// An alarm, when its turn has come.
    pub fn poll_alarm(&self, number: u64, pended: &mut bool, context: &Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if !state.is_due(Source::Alarm(number), pended, context) {
            return Poll::Pending;
        }
        state.take();
        Poll::Ready(())
    }

    /// The skill waits, and nothing that it waits for comes next.
    pub fn stuck(&self) {
        let mut state = self.0.lock();
        state.differ("it waits");
    }

    /// How it ended; nothing counts any more.
    pub fn end(&self, ending: Option<&Ending>) -> (u64, Halted, Option<Ending>) {
        let mut state = self.0.lock();
        state.over = true;
        let recorded = match state.entries.get(state.next) {
            Some((_, Entry::End(recorded))) => Some(recorded.clone()),
            _ => None,
        };
        if state.halted.is_none() {
            match (&recorded, ending) {
                // It ended by itself, before or after it would have been ended from outside.
                (Some(Ending::Stopped(_)), _) => {}
                (Some(recorded), Some(ending)) if recorded == ending => {}
                // It ended with what it was recorded to end with.
                (Some(_), None) => {}
                (_, ending) => {
                    let now = ending.map_or_else(|| "it ended".into(), ToString::to_string);
                    state.differ(&now);
                }
            }
        }
        (state.calls, state.halted.clone().unwrap_or(Halted::RecordEnds), recorded)
    }

    pub fn is_halted(&self) -> bool {
        self.0.lock().halted.is_some()
    }
}

impl State {
    fn peek(&self) -> Option<&(u64, Entry)> {
        // What was the same so far says nothing about what comes after a difference.
        if self.halted.is_some() { None } else { self.entries.get(self.next) }
    }

    fn take(&mut self) -> Option<Entry> {
        let entry = self.peek()?.1.clone();
        self.advance();
        Some(entry)
    }

    fn take_answer<O: Answer>(&mut self) -> O {
        match self.take() {
            Some(Entry::Answer { value, .. }) => O::parse(&value).unwrap_or_else(|misspelt| {
                self.next -= 1;
                let halt = self.differ(&format!("the contract knows no such answer: {misspelt}"));
                O::fatal(wasmtime::Error::new(halt))
            }),
            _ => O::fatal(wasmtime::Error::new(Halt)),
        }
    }

    fn advance(&mut self) {
        self.next += 1;
        let due = self.peek().and_then(|(_, entry)| Source::of(entry));
        if let Some(waker) = due.and_then(|due| self.waiting.remove(&due)) {
            waker.wake();
        }
    }

    /// Whether the next entry is what this waits for, and the skill has waited for it as it did. If not, the waiter is
    /// woken when it may be.
    fn is_due(&mut self, source: Source, pended: &mut bool, context: &Context<'_>) -> bool {
        let next = self.peek().map(|(_, entry)| entry).filter(|entry| Source::of(entry) == Some(source));
        let waits = match next {
            Some(Entry::Answer { waited, .. } | Entry::Stream { waited, .. } | Entry::Alarm { waited, .. }) => *waited,
            _ => {
                *pended = true;
                self.waiting.insert(source, context.waker().clone());
                return false;
            }
        };
        if waits && !std::mem::replace(pended, true) {
            context.waker().wake_by_ref();
            return false;
        }
        if waits {
            self.burst.begin();
        }
        true
    }

    /// Stops here, for good: what the skill does now is not what comes next.
    fn differ(&mut self, now: &str) -> Halt {
        if self.halted.is_none() {
            self.halted = Some(match self.entries.get(self.next) {
                // The record is cut short, or the run was ended from outside somewhere on the way to here.
                None | Some((_, Entry::End(Ending::Stopped(_)))) => Halted::RecordEnds,
                Some((at_ns, entry)) => Halted::Differs(Difference {
                    call: self.calls,
                    at_ns: *at_ns,
                    recorded: described(entry),
                    now: now.into(),
                }),
            });
        }
        Halt
    }
}

fn described(entry: &Entry) -> String {
    match entry {
        Entry::Call { name, arguments, .. } => format!("it calls {name}{arguments}"),
        Entry::Answer { number, value, .. } => format!("call {number} returns {value}"),
        Entry::Stream { number, what, .. } => match what {
            Delivery::Ready => format!("it looks whether the stream of call {number} has something"),
            Delivery::Item(item) => format!("it reads {item} from the stream of call {number}"),
            Delivery::End => format!("it reads the end of the stream of call {number}"),
            Delivery::Cancelled => format!("it stops waiting for the stream of call {number}"),
            Delivery::Closed => format!("it closes the stream of call {number}"),
        },
        Entry::Alarm { number, .. } => format!("the alarm of call {number} rings"),
        Entry::Log { line } => format!("it says {line}"),
        Entry::End(ending) => ending.to_string(),
    }
}
