//! One thread that owns the model, and the handles through which everybody else asks it.
//!
//! A device does one thing at a time, and all of its memory belongs to one model; so many skills share one model, and the
//! broker decides whose turn it is. Requests carry a [`Ticket`]. They are served by [`Priority`]; within a class by the
//! earliest deadline, as long as no skill gets far ahead of another one that waits, and no run of a skill ahead of another
//! run of it; then as they came.
//!
//! - Classes are strict: as long as requests of a higher one keep coming, those of a lower one do not begin, and end at
//!   their deadlines. That is on purpose: a robot that moves comes before everybody who only asks. Whoever hands out
//!   [`Priority::High`] has to bound how much of the model's time it takes.
//! - A request that has not begun by its deadline is dropped: [`ModelError::Late`]. Nothing is dropped because it would
//!   *probably* be late: the first request of a shape takes much longer than the ones after it, and whoever goes by that
//!   never finds out. What has begun is answered after its deadline, too, for 5 s; then it is late as well.
//! - Deadlines are kept by a thread of their own, so they hold while the device is busy, and while it hangs.
//! - A run has at most 16 requests waiting or being answered, a skill 64 ([`ModelError::Quota`]), all skills together 256
//!   ([`ModelError::Busy`]).
//! - Dropping the future of a request withdraws it, at once. What the device has begun of it, it still does.
//! - An answer in words is made token by token, and between two tokens whatever is more urgent is served. One answer is in
//!   the making at a time: it has the room for keys and values to itself. So when another question is the most urgent
//!   request, the answer in the making goes on for it. An answer that is not whole at its deadline ends there.
//! - A camera's frame is encoded once, however many skills ask about it: [`Policy`] keeps what it encoded.
//!   Four skills that ask about one frame take 1.07 times the vision time of one (0.65 ms and 0.61 ms: bundled checkpoint,
//!   2 CPU threads).
//! - On a GPU, requests of one shape that wait at the same time run together. A batch may round differently than a request
//!   alone, so answers are then equal only to f32 tolerance; one request at a time is never batched. On the CPU each runs
//!   alone: four requests take 6.7 ms together and 6.9 ms one after the other (bundled checkpoint, 2 threads), but the
//!   first answer is there after 2.4 ms.
//! - A lost device is opened again, with the model on it, and what was hit is tried once more. The second time its caller
//!   gets the error, and the next request begins with a device that was opened once more. A device that does not answer
//!   counts as lost after 20 s, a software one after 120 s.
//! - Where the model panics, its callers get [`ModelError::Panicked`], and the next request begins with a model that was
//!   opened again.

mod deadlines;
mod queue;
mod serve;
mod ticket;

use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Instant;
use std::{fmt, mem};

use futures_channel::{mpsc as stream, oneshot};
use parking_lot::{Condvar, Mutex};
use serde::Serialize;

use crate::about::About;
use crate::error::ModelError;
use crate::image::Image;
use crate::model::Model;
use crate::policy::{Actions, Policy, Query, Shapes};
use crate::vlm::{Answer, Decoding, Detection, Question, boxes, locating};
use queue::Queue;
use serve::{Job, Server, on_model};
pub use ticket::{Priority, Ticket};

/// Starts the thread that owns a model.
#[derive(Debug)]
pub struct Broker;

/// Asks a model that another thread owns. Clones ask the same model; with the last of them, and once all that was asked is
/// answered, the model goes. Dropping the last waits for that.
pub struct ModelHandle {
    shared: Arc<Shared>,
    about: Arc<About>,
    /// Of a model whose requests may run together.
    shapes: Option<Shapes>,
}

/// What became of the requests so far: every one that was asked is waiting, being answered, or one of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// All requests.
    pub asked: usize,
    /// Not let in: too many waited, or the model had stopped.
    pub refused: usize,
    /// Dropped at their deadline, or after it if the device had begun and did not come back.
    pub late: usize,
    /// Withdrawn before they were answered.
    pub cancelled: usize,
    /// Answered with what was asked for.
    pub served: usize,
    /// Answered with an error.
    pub failed: usize,
    /// Times that the policy ran; with batches, fewer than requests.
    pub runs: usize,
    /// Requests that were tried again because the device failed.
    pub retried: usize,
    /// Times that the model was opened again because its device was lost, or because it panicked.
    pub reopened: usize,
    /// Camera frames encoded for actions.
    pub frames: usize,
    /// Images encoded for words.
    pub images: usize,
    /// Tokens written.
    pub tokens: usize,
}

/// What handles and thread share.
struct Shared {
    state: Mutex<State>,
    /// There may be something to do.
    news: Condvar,
    /// Something may be late earlier than [`State::late_next`], or the model's thread has ended.
    deadlines: Condvar,
}

struct State {
    queue: Queue<Job>,
    statistics: Statistics,
    handles: usize,
    /// The model's thread has ended.
    stopped: bool,
    /// When deadlines are looked at next.
    late_next: Option<Instant>,
    /// The model's and the deadlines', until the last handle has gone, which waits for them: a process that ends while a
    /// thread closes its device may crash.
    threads: Vec<JoinHandle<()>>,
}

impl Broker {
    /// Gives a model a thread of its own. `open` loads it there, now and again whenever its device was lost or it panicked.
    ///
    /// # Errors
    /// Those of `open`; [`ModelError::Panicked`] if it panics; [`ModelError::Thread`] if the system gives no thread.
    pub fn start(
        mut open: impl FnMut() -> Result<Model, ModelError> + Send + 'static,
    ) -> Result<ModelHandle, ModelError> {
        let shared = Arc::new(Shared::new());
        let (ready, opened) = mpsc::channel();
        let stopping = Stopping(Arc::clone(&shared));
        let work = move || {
            // Also if this panics: whoever waits is told.
            let stopping = stopping;
            match on_model(&mut open) {
                Ok(model) => {
                    let shapes = model.policy.as_ref().filter(|policy| policy.batches()).map(Policy::shapes);
                    // Whoever started this thread waits for it.
                    let _ = ready.send(Ok((model.about().clone(), shapes)));
                    Server::new(open, model, Arc::clone(&stopping.0)).serve();
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        };
        shared.spawn("waza-model", work)?;
        let (about, shapes) = opened.recv().unwrap_or(Err(ModelError::Stopped)).inspect_err(|_| shared.end())?;
        let handle = ModelHandle { shared: Arc::clone(&shared), about: Arc::new(about), shapes };
        // If there is no thread for them, dropping the handle ends the model's.
        shared.spawn("waza-deadlines", {
            let shared = Arc::clone(&shared);
            move || deadlines::keep(&shared)
        })?;
        Ok(handle)
    }
}

impl ModelHandle {
    /// What the model is, needs and can do.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// What became of the requests so far, of all handles.
    pub fn statistics(&self) -> Statistics {
        self.shared.state.lock().statistics
    }

    /// As [`Policy::act`](crate::Policy::act), on the model's own thread. The request is made when this returns; the future
    /// only waits for the answer, on any runtime, and dropping it withdraws the request.
    ///
    /// # Errors
    /// Those of [`Policy::act`](crate::Policy::act); [`ModelError::Quota`] or [`ModelError::Busy`] if too many requests
    /// wait; [`ModelError::Late`] if its turn did not come in time; [`ModelError::Panicked`] if the model panicked over it;
    /// [`ModelError::Stopped`] if the thread died.
    pub fn act(
        &self,
        query: Query,
        ticket: &Ticket,
    ) -> impl Future<Output = Result<Actions, ModelError>> + Send + use<> {
        let (answer, answered) = oneshot::channel();
        // Here, because it takes time: nobody else waits for it.
        let shape = self.shapes.as_ref().and_then(|shapes| shapes.of(&query));
        let asked = self.ask_for(Job::Act { query: Arc::new(query), shape, answer }, ticket);
        async move {
            let _withdraw = asked?;
            answered.await.unwrap_or(Err(ModelError::Stopped))
        }
    }

    /// As [`Vlm::ask`](crate::Vlm::ask), on the model's own thread, and with the words as they come. Dropping what is
    /// returned ends the answer.
    ///
    /// # Errors
    /// Those of [`Vlm::ask`](crate::Vlm::ask), and of the broker as for [`ModelHandle::act`]; [`Answering::whole`] has them.
    pub fn ask(&self, question: Question, decoding: Decoding, ticket: &Ticket) -> Answering {
        // As many pieces as the answer may have tokens, which the model's context bounds.
        let (pieces, words) = stream::unbounded();
        let (answer, answered) = oneshot::channel();
        let question = Arc::new(question);
        let asked = self.ask_for(Job::Ask { question, decoding, pieces, sent: 0, answer }, ticket);
        Answering { words, answered, asked }
    }

    /// As [`Vlm::locate`](crate::Vlm::locate), on the model's own thread.
    ///
    /// # Errors
    /// As [`ModelHandle::ask`].
    pub fn locate(
        &self,
        what: &str,
        image: &Image,
        ticket: &Ticket,
    ) -> impl Future<Output = Result<Vec<Detection>, ModelError>> + Send + use<> {
        let asked = self.ask(locating(what, image), Decoding::default(), ticket);
        async move { Ok(boxes(&asked.whole().await?)) }
    }

    /// As [`Vlm::embed`](crate::Vlm::embed), on the model's own thread.
    ///
    /// # Errors
    /// Those of [`Vlm::embed`](crate::Vlm::embed), and of the broker as for [`ModelHandle::act`].
    pub fn embed(
        &self,
        text: String,
        images: Vec<Image>,
        ticket: &Ticket,
    ) -> impl Future<Output = Result<Vec<f32>, ModelError>> + Send + use<> {
        let (answer, answered) = oneshot::channel();
        let asked = self.ask_for(Job::Embed { question: Arc::new(Question { text, images }), answer }, ticket);
        async move {
            let _withdraw = asked?;
            answered.await.unwrap_or(Err(ModelError::Stopped))
        }
    }

    fn ask_for(&self, job: Job, ticket: &Ticket) -> Result<Withdraw, ModelError> {
        let mut state = self.shared.state.lock();
        state.statistics.asked += 1;
        let pushed =
            if state.stopped { Err(ModelError::Stopped) } else { state.queue.push(ticket, job, Instant::now()) };
        match &pushed {
            Ok((_, deadline)) if state.is_late_earlier(*deadline) => drop(self.shared.deadlines.notify_one()),
            Ok(_) => {}
            Err(_) => state.statistics.refused += 1,
        }
        drop(state);
        self.shared.news.notify_one();
        let (id, _) = pushed?;
        Ok(Withdraw { shared: Arc::clone(&self.shared), id })
    }
}

impl Clone for ModelHandle {
    fn clone(&self) -> Self {
        self.shared.state.lock().handles += 1;
        Self { shared: Arc::clone(&self.shared), about: Arc::clone(&self.about), shapes: self.shapes.clone() }
    }
}

impl Drop for ModelHandle {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.handles -= 1;
        let is_last = state.handles == 0;
        drop(state);
        if is_last {
            self.shared.news.notify_one();
            self.shared.end();
        }
    }
}

impl fmt::Debug for ModelHandle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ModelHandle").field("about", &self.about).finish_non_exhaustive()
    }
}

impl Shared {
    fn new() -> Self {
        let state = State {
            queue: Queue::new(),
            statistics: Statistics::default(),
            handles: 1,
            stopped: false,
            late_next: None,
            threads: Vec::new(),
        };
        Self { state: Mutex::new(state), news: Condvar::new(), deadlines: Condvar::new() }
    }

    fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), ModelError> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(work).map_err(ModelError::Thread)?;
        self.state.lock().threads.push(thread);
        Ok(())
    }

    /// Waits for the threads, which have nothing to do any more but what they have begun.
    fn end(&self) {
        let threads = mem::take(&mut self.state.lock().threads);
        if threads.iter().any(|it| it.thread().id() == thread::current().id()) {
            // The last handle went with somebody whom one of them woke; they end by themselves.
            return;
        }
        for thread in threads {
            // If it panicked, whoever asked it was told.
            let _ = thread.join();
        }
    }
}

/// An answer in words, as it comes. Dropping it ends the answer.
pub struct Answering {
    words: stream::UnboundedReceiver<String>,
    answered: oneshot::Receiver<Result<Answer, ModelError>>,
    asked: Result<Withdraw, ModelError>,
}

impl Answering {
    /// The next words. None: there are no more; [`Answering::whole`] says why.
    pub async fn words(&mut self) -> Option<String> {
        self.words.recv().await.ok()
    }

    /// The whole answer, once it is there.
    ///
    /// # Errors
    /// As [`ModelHandle::ask`].
    pub async fn whole(self) -> Result<Answer, ModelError> {
        let _withdraw = self.asked?;
        self.answered.await.unwrap_or(Err(ModelError::Stopped))
    }
}

/// Withdraws a request, if it was not answered.
struct Withdraw {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Withdraw {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        let withdrawn = state.queue.remove(self.id);
        state.statistics.cancelled += usize::from(withdrawn.is_some());
        // What the request holds is dropped outside the lock.
        drop(state);
    }
}

/// Tells everybody that the thread has ended, however it did.
struct Stopping(Arc<Shared>);

impl Drop for Stopping {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.stopped = true;
        let waiting = state.queue.clear();
        state.statistics.failed += waiting.len();
        drop(state);
        self.0.deadlines.notify_one();
        waiting.into_iter().for_each(|entry| entry.job.fail(ModelError::Stopped));
    }
}
