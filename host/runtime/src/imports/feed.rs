//! A bounded queue from a task of the host to a stream that a skill reads.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Events that a reader may leave unread.
const LONGEST: usize = 1024;

struct Queue<E> {
    events: VecDeque<E>,
    reader_gone: bool,
    writer_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

type Shared<E> = Arc<Mutex<Queue<E>>>;

/// Dropping it ends the stream after what was written.
pub(crate) struct Writer<E>(Shared<E>);

/// Dropping it tells the writer.
pub(crate) struct Reader<E>(Shared<E>);

/// The reader has fallen too far behind.
pub(crate) struct Full;

pub(crate) fn feed<E>() -> (Writer<E>, Reader<E>) {
    let queue = Queue { events: VecDeque::new(), reader_gone: false, writer_gone: false, reader: None, writer: None };
    let shared = Arc::new(Mutex::new(queue));
    (Writer(shared.clone()), Reader(shared))
}

fn lock<E>(shared: &Shared<E>) -> MutexGuard<'_, Queue<E>> {
    // Every change under this lock is a single step, so a panic cannot leave it half done.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl<E> Writer<E> {
    /// Adds an event.
    pub fn push(&self, event: E) -> Result<(), Full> {
        let mut queue = lock(&self.0);
        if queue.events.len() >= LONGEST {
            return Err(Full);
        }
        queue.events.push_back(event);
        let reader = queue.reader.take();
        drop(queue);
        wake(reader);
        Ok(())
    }

    /// Adds the last event, however much is unread.
    pub fn push_last(self, event: E) {
        lock(&self.0).events.push_back(event);
    }

    /// Adds an event, in place of those that are still unread and match: what is older than it is of no use.
    pub fn replace(&self, event: E, matches: impl Fn(&E) -> bool) -> Result<(), Full> {
        lock(&self.0).events.retain(|unread| !matches(unread));
        self.push(event)
    }

    /// Resolves when the reader is gone.
    pub async fn closed(&self) {
        poll_fn(|context| {
            let mut queue = lock(&self.0);
            if queue.reader_gone {
                return Poll::Ready(());
            }
            queue.writer = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl<E> Drop for Writer<E> {
    fn drop(&mut self) {
        let mut queue = lock(&self.0);
        queue.writer_gone = true;
        let reader = queue.reader.take();
        drop(queue);
        wake(reader);
    }
}

impl<E> Reader<E> {
    /// Ready when an event or the end is there.
    pub fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut queue = lock(&self.0);
        if queue.events.is_empty() && !queue.writer_gone {
            queue.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// The oldest unread event.
    pub fn pop(&self) -> Option<E> {
        lock(&self.0).events.pop_front()
    }
}

impl<E> Drop for Reader<E> {
    fn drop(&mut self) {
        let mut queue = lock(&self.0);
        queue.reader_gone = true;
        queue.events.clear();
        let writer = queue.writer.take();
        drop(queue);
        wake(writer);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn an_unread_observation_gives_way_to_a_newer_one_and_nothing_else_does() {
        let (writer, reader) = feed();
        for event in ["chunk 0", "seen 1", "chunk 1", "seen 2"] {
            let observed = |event: &&str| event.starts_with("seen");
            let pushed = if observed(&event) { writer.replace(event, observed) } else { writer.push(event) };
            assert!(pushed.is_ok());
        }
        drop(writer);
        let read: Vec<_> = std::iter::from_fn(|| reader.pop()).collect();
        assert_eq!(read, ["chunk 0", "chunk 1", "seen 2"]);
        assert!(poll_fn(|context| reader.poll_ready(context)).now_or_never().is_some());
    }

    #[test]
    fn a_reader_that_never_reads_does_not_make_the_host_keep_everything() {
        let (writer, _reader) = feed();
        assert!((0..LONGEST).all(|event| writer.push(event).is_ok()));
        assert!(writer.push(0).is_err());
    }

    #[test]
    fn the_writer_learns_that_the_reader_is_gone() {
        let (writer, reader) = feed::<()>();
        assert!(writer.closed().now_or_never().is_none());
        drop(reader);
        assert!(writer.closed().now_or_never().is_some());
    }
}
