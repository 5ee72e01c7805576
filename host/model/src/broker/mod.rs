//! One thread that owns the model, and the handles through which everybody else asks it.
//!
//! A device does one thing at a time, and all of its memory belongs to one model; so many skills share one model, and the
//! broker decides whose turn it is. Requests carry a [`Ticket`]. They are served by [`Priority`]; within a class by the
//! earliest deadline, as long as no skill gets far ahead of another one that waits; then as they came.
//!
//! - A request that has not begun by its deadline is dropped: [`ModelError::Late`]. Nothing is dropped because it would
//!   *probably* be late: the first request of a shape takes much longer than the ones after it, and whoever goes by that
//!   never finds out.
//! - A skill has at most 16 requests waiting ([`ModelError::Quota`]), all skills together 256 ([`ModelError::Busy`]).
//! - Dropping the future of a request that has not begun withdraws it, at once.
//! - An answer in words is made token by token, and between two tokens whatever is more urgent is served. One answer is in
//!   the making at a time: it has the room for keys and values to itself. So when another question is the most urgent
//!   request, the answer in the making goes on for it. An answer that is not whole at its deadline ends there.
//! - A camera's frame is encoded once, however many skills ask about it: [`Policy`](crate::Policy) keeps what it encoded.
//!   Four skills that ask about one frame take 1.07 times the vision time of one (0.65 ms and 0.61 ms: bundled checkpoint,
//!   2 CPU threads).
//! - On a GPU, requests of one shape that wait at the same time run together. A batch may round differently than a request
//!   alone, so answers are then equal only to f32 tolerance; one request at a time is never batched. On the CPU each runs
//!   alone: four requests take 6.7 ms together and 6.9 ms one after the other (bundled checkpoint, 2 threads), but the
//!   first answer is there after 2.4 ms.
//! - A lost device is opened again, with the model on it, and what was hit is tried once more. The second time its caller
//!   gets the error, and the next request begins with a device that was opened once more.

mod queue;
mod serve;
mod ticket;

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use futures_channel::{mpsc as stream, oneshot};
use serde::Serialize;

use crate::about::About;
use crate::error::ModelError;
use crate::image::Image;
use crate::model::Model;
use crate::policy::{Actions, Query};
use crate::vlm::{Answer, Decoding, Detection, Question, boxes, locating};
use queue::Queue;
use serve::{Job, Server};
pub use ticket::{Priority, Ticket};

/// Starts the thread that owns a model.
#[derive(Debug)]
pub struct Broker;

/// Asks a model that another thread owns. Clones ask the same model; with the last of them, and once all that was asked is
/// answered, the model goes. Dropping the last waits for that.
pub struct ModelHandle {
    shared: Arc<Shared>,
    about: Arc<About>,
}

/// What became of the requests so far: every one that was asked is waiting, being answered, or one of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// All requests.
    pub asked: usize,
    /// Not let in: too many waited, or the model had stopped.
    pub refused: usize,
    /// Dropped at their deadline.
    pub late: usize,
    /// Withdrawn before they began, or in the middle of an answer in words.
    pub cancelled: usize,
    /// Answered with what was asked for.
    pub served: usize,
    /// Answered with an error.
    pub failed: usize,
    /// Times that the policy ran; with batches, fewer than requests.
    pub runs: usize,
    /// Requests that were tried again because the device failed.
    pub retried: usize,
    /// Times that the model was opened again because its device was lost.
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
}

struct State {
    queue: Queue<Job>,
    statistics: Statistics,
    handles: usize,
    /// The thread has ended.
    stopped: bool,
    /// Until the last handle has gone, which waits for it: a process that ends while a thread closes its device may crash.
    thread: Option<JoinHandle<()>>,
}

impl Broker {
    /// Gives a model a thread of its own. `open` loads it there, now and again whenever its device was lost.
    ///
    /// # Errors
    /// Those of `open`; [`ModelError::Thread`] if the system gives no thread.
    pub fn start(
        mut open: impl FnMut() -> Result<Model, ModelError> + Send + 'static,
    ) -> Result<ModelHandle, ModelError> {
        let state =
            State { queue: Queue::new(), statistics: Statistics::default(), handles: 1, stopped: false, thread: None };
        let shared = Arc::new(Shared { state: Mutex::new(state), news: Condvar::new() });
        let (ready, opened) = mpsc::channel();
        let stopping = Stopping(Arc::clone(&shared));
        let work = move || {
            // Also if this panics: whoever waits is told.
            let stopping = stopping;
            match open() {
                Ok(model) => {
                    // Whoever started this thread waits for it.
                    let _ = ready.send(Ok(model.about().clone()));
                    Server::new(open, model, Arc::clone(&stopping.0)).serve();
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        };
        let thread = thread::Builder::new().name("waza-model".to_owned()).spawn(work).map_err(ModelError::Thread)?;
        shared.lock().thread = Some(thread);
        match opened.recv().unwrap_or(Err(ModelError::Stopped)) {
            Ok(about) => Ok(ModelHandle { shared, about: Arc::new(about) }),
            Err(error) => {
                shared.end();
                Err(error)
            }
        }
    }
}

impl ModelHandle {
    /// What the model is, needs and can do.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// What became of the requests so far, of all handles.
    pub fn statistics(&self) -> Statistics {
        self.shared.lock().statistics
    }

    /// As [`Policy::act`](crate::Policy::act), on the model's own thread. The request is made when this returns; the future
    /// only waits for the answer, on any runtime, and dropping it withdraws a request that has not begun.
    ///
    /// # Errors
    /// Those of [`Policy::act`](crate::Policy::act); [`ModelError::Quota`] or [`ModelError::Busy`] if too many requests
    /// wait; [`ModelError::Late`] if its turn did not come in time; [`ModelError::Stopped`] if the thread died.
    pub fn act(
        &self,
        query: Query,
        ticket: &Ticket,
    ) -> impl Future<Output = Result<Actions, ModelError>> + Send + use<> {
        let (answer, answered) = oneshot::channel();
        let asked = self.ask_for(Job::Act { query: Box::new(query), shape: None, answer }, ticket);
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
        let (pieces, words) = stream::unbounded();
        let (answer, answered) = oneshot::channel();
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
        let asked = self.ask_for(Job::Embed { text, images, answer }, ticket);
        async move {
            let _withdraw = asked?;
            answered.await.unwrap_or(Err(ModelError::Stopped))
        }
    }

    fn ask_for(&self, job: Job, ticket: &Ticket) -> Result<Withdraw, ModelError> {
        let mut state = self.shared.lock();
        state.statistics.asked += 1;
        let pushed =
            if state.stopped { Err(ModelError::Stopped) } else { state.queue.push(ticket, job, Instant::now()) };
        if pushed.is_err() {
            state.statistics.refused += 1;
        }
        drop(state);
        self.shared.news.notify_one();
        Ok(Withdraw { shared: Arc::clone(&self.shared), id: pushed? })
    }
}

impl Clone for ModelHandle {
    fn clone(&self) -> Self {
        self.shared.lock().handles += 1;
        Self { shared: Arc::clone(&self.shared), about: Arc::clone(&self.about) }
    }
}

impl Drop for ModelHandle {
    fn drop(&mut self) {
        self.shared.lock().handles -= 1;
        self.shared.news.notify_one();
        if self.shared.lock().handles == 0 {
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
    fn lock(&self) -> MutexGuard<'_, State> {
        // What panics while it holds the lock leaves the queue whole: requests come and go in single steps.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the thread, which has nothing to do any more but what it has begun.
    fn end(&self) {
        let thread = self.lock().thread.take();
        if let Some(thread) = thread.filter(|it| it.thread().id() != thread::current().id()) {
            // If it panicked, whoever asked it was told.
            let _ = thread.join();
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.news.wait(state).unwrap_or_else(PoisonError::into_inner)
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

/// Withdraws a request, if it still waits.
struct Withdraw {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Withdraw {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
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
        let mut state = self.0.lock();
        state.stopped = true;
        let waiting = state.queue.clear();
        state.statistics.failed += waiting.len();
        drop(state);
        // Answered by dropping: whoever waits is told that the model has stopped.
        drop(waiting);
    }
}
