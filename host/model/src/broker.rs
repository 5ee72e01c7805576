//! One thread that owns the model, and the handles through which everybody else asks it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use futures_channel::oneshot;

use crate::about::About;
use crate::error::ModelError;
use crate::policy::{Actions, Policy, Query};

/// Requests that may wait; a skill beyond them is told that the model is busy, and never hangs.
const MOST_WAITING: usize = 64;

/// Starts the thread that owns a policy.
#[derive(Debug)]
pub struct Broker;

struct Request {
    query: Query,
    answer: oneshot::Sender<Result<Actions, ModelError>>,
}

/// Asks a model that another thread owns. Clones ask the same model; with the last of them the model goes.
#[derive(Clone, Debug)]
pub struct ModelHandle {
    requests: Sender<Request>,
    waiting: Arc<AtomicUsize>,
    about: Arc<About>,
}

impl Broker {
    /// Gives `policy` a thread of its own, which serves requests in the order in which they come.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(policy: Policy) -> std::io::Result<ModelHandle> {
        let (requests, inbox) = channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let handle = ModelHandle { requests, waiting: Arc::clone(&waiting), about: Arc::new(policy.about().clone()) };
        thread::Builder::new().name("waza-model".to_owned()).spawn(move || serve(policy, &inbox, &waiting))?;
        Ok(handle)
    }
}

fn serve(mut policy: Policy, inbox: &Receiver<Request>, waiting: &AtomicUsize) {
    while let Ok(Request { query, answer }) = inbox.recv() {
        waiting.fetch_sub(1, Ordering::Relaxed);
        // Whoever asked may have gone away in the meantime, before the work or during it.
        if !answer.is_canceled() {
            let _ = answer.send(policy.act(&query));
        }
    }
}

impl ModelHandle {
    /// What the model is, needs and can do.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// As [`Policy::act`], on the model's own thread. The request is in the queue when this returns; the future only waits
    /// for the answer, on any runtime, and dropping it withdraws a request that has not begun.
    ///
    /// # Errors
    /// Those of [`Policy::act`]; [`ModelError::Busy`] if too many requests wait; [`ModelError::Stopped`] if the thread died.
    pub fn act(&self, query: Query) -> impl Future<Output = Result<Actions, ModelError>> + Send + use<> {
        let (answer, result) = oneshot::channel();
        let queued = self.enqueue(Request { query, answer });
        async move {
            queued?;
            result.await.unwrap_or(Err(ModelError::Stopped))
        }
    }

    fn enqueue(&self, request: Request) -> Result<(), ModelError> {
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        if waiting >= MOST_WAITING {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(ModelError::Busy { waiting });
        }
        self.requests.send(request).map_err(|_| ModelError::Stopped)
    }
}
