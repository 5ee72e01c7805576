//! Answers of the control loop, on their way back.
//!
//! Whoever asks makes the memory that the answer comes in, and frees it: the loop writes into it and lets go. What the loop
//! has no use for any more, a play that is over for one, goes back with the answer.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::clock::Pace;
use crate::control::gate::{Gate, TimeHold};
use crate::control::inbox::{Sent, Withdraw};
use crate::control::play::PlayReport;
use crate::control::shared_slot::SharedSlot;
use crate::error::RobotError;

/// What the control loop answers, together with robot time standing still.
#[derive(Debug)]
pub struct Reply<T> {
    /// The answer.
    pub value: T,
    /// Taken before the answer was sent: under [`Pace::Lockstep`] robot time stands still until it is dropped, and so
    /// until the answer is taken, or its future is dropped.
    pub hold: TimeHold,
}

/// What goes back to whoever asked, to be freed there.
pub(crate) type Spent = Box<dyn Send>;

/// Between the loop and whoever waits.
struct Cell<T> {
    gate: Arc<Gate>,
    /// Whoever asked has gone.
    withdrawn: AtomicBool,
    /// The loop has let go: it answered, or never will.
    settled: AtomicBool,
    content: SharedSlot<Content<T>>,
    waker: SharedSlot<Option<Waker>>,
}

struct Content<T> {
    value: Option<Result<T, RobotError>>,
    hold: Option<TimeHold>,
    spent: Option<Spent>,
}

impl<T> Default for Content<T> {
    fn default() -> Self {
        Self { value: None, hold: None, spent: None }
    }
}

/// The loop's end. Dropping it without an answer answers [`RobotError::Ended`].
pub(crate) struct Answer<T>(Arc<Cell<T>>);

impl<T> Answer<T> {
    /// Whether nobody waits for it any more.
    pub fn is_withdrawn(&self) -> bool {
        self.0.withdrawn.load(Ordering::SeqCst)
    }

    pub fn send(self, value: Result<T, RobotError>, spent: Option<Spent>) {
        let cell = &*self.0;
        let hold = cell.gate.hold_time();
        // Nobody else looks into it before it is settled, but in lockstep, where the loop may wait.
        let mut content = cell.content.lock();
        content.value = Some(value);
        content.spent = spent;
        // Whoever has gone holds no time.
        let unheld = match self.is_withdrawn() {
            true => Some(hold),
            false => content.hold.replace(hold),
        };
        drop(content);
        drop(unheld);
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        let cell = &*self.0;
        cell.settled.store(true, Ordering::SeqCst);
        // Against the one in `Pending::poll`: either this finds the waker, or that finds the answer.
        fence(Ordering::SeqCst);
        if let Some(waker) = cell.waker.try_lock()
            && let Some(waker) = &*waker
        {
            // It is dropped with the cell, and not here.
            waker.wake_by_ref();
        }
    }
}

/// An answer of the control loop, when it is there.
///
/// Dropping it withdraws a question ([`Robot::observe`](crate::Robot::observe), [`Robot::reach`](crate::Robot::reach)): nothing
/// of it is left. A play goes on, also one that has not begun: [`Robot::hold`](crate::Robot::hold) ends it.
pub struct Pending<T> {
    cell: Arc<Cell<T>>,
    asked: Option<(Arc<dyn Withdraw>, Sent)>,
}

/// The end of a play.
pub type Playing = Pending<PlayReport>;

impl<T> Pending<T> {
    /// To be withdrawn from there when it is dropped.
    pub(crate) fn asked(mut self, inbox: Arc<dyn Withdraw>, sent: Sent) -> Self {
        self.asked = Some((inbox, sent));
        self
    }
}

impl<T> Future for Pending<T> {
    type Output = Reply<Result<T, RobotError>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let cell = &*self.cell;
        if !cell.settled.load(Ordering::SeqCst) {
            let waker = context.waker().clone();
            let before = cell.waker.lock().replace(waker);
            drop(before);
            fence(Ordering::SeqCst);
            if !cell.settled.load(Ordering::SeqCst) {
                return Poll::Pending;
            }
        }
        let Content { value, hold, spent } = std::mem::take(&mut *cell.content.lock());
        drop(spent);
        let value = value.unwrap_or(Err(RobotError::Ended));
        Poll::Ready(Reply { value, hold: hold.unwrap_or_else(|| cell.gate.hold_time()) })
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        let cell = &*self.cell;
        if let Some((inbox, sent)) = self.asked.take() {
            inbox.withdraw(sent);
        }
        cell.withdrawn.store(true, Ordering::SeqCst);
        // In real time the loop may be just about to answer, and shall not find this in its way.
        if cell.gate.pace() == Pace::Lockstep || cell.settled.load(Ordering::SeqCst) {
            let left = std::mem::take(&mut *cell.content.lock());
            drop(left);
        }
        let waker = cell.waker.lock().take();
        drop(waker);
    }
}

/// Keeps answers that are under way, so that it is never the loop that lets go of one as the last.
#[derive(Default)]
pub(crate) struct Keeper(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    answers: Vec<Arc<dyn Send + Sync>>,
    /// At so many it is time to let go of those that are over.
    enough: usize,
}

/// Fewer answers are not looked through.
const FEW: usize = 32;

impl Keeper {
    /// Both ends of an answer to come.
    pub fn pending<T: Send + 'static>(&self, gate: &Arc<Gate>) -> (Answer<T>, Pending<T>) {
        let cell = Arc::new(Cell {
            gate: gate.clone(),
            withdrawn: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            content: SharedSlot::new(Content::default()),
            waker: SharedSlot::new(None),
        });
        self.keep(cell.clone());
        (Answer(cell.clone()), Pending { cell, asked: None })
    }

    fn keep(&self, answer: Arc<dyn Send + Sync>) {
        let mut over = Vec::new();
        let mut kept = self.0.lock();
        if kept.answers.len() >= kept.enough {
            // Nobody else has them: nobody else can get them.
            over.extend(kept.answers.extract_if(.., |answer| Arc::strong_count(answer) == 1));
            kept.enough = (2 * kept.answers.len()).max(FEW);
        }
        kept.answers.push(answer);
        drop(kept);
        drop(over);
    }
}
