//! From the host's tasks to a stream of the contract: a bounded queue, in which something new can take the place of what is
//! still unread, and the stream that a skill reads it by.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use wasmtime::StoreContextMut;
use wasmtime::component::{Access, Destination, HasSelf, Lift, Lower, StreamProducer, StreamReader, StreamResult};

use super::Run;
use crate::record::value::Canonical;
use crate::record::{Delivery, Tape};

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

pub(crate) fn queue<E>() -> (Writer<E>, Reader<E>) {
    let queue = Queue { events: VecDeque::new(), reader_gone: false, writer_gone: false, reader: None, writer: None };
    let shared = Arc::new(Mutex::new(queue));
    (Writer(shared.clone()), Reader(shared))
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl<E> Writer<E> {
    /// Adds an event.
    pub fn push(&self, event: E) -> Result<(), Full> {
        let mut queue = self.0.lock();
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
        self.0.lock().events.push_back(event);
    }

    /// Adds an event, in place of those that are still unread and match: what is older than it is of no use.
    pub fn replace(&self, event: E, matches: impl Fn(&E) -> bool) -> Result<(), Full> {
        self.0.lock().events.retain(|unread| !matches(unread));
        self.push(event)
    }

    /// Resolves when the reader is gone.
    pub async fn closed(&self) {
        poll_fn(|context| {
            let mut queue = self.0.lock();
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
        let mut queue = self.0.lock();
        queue.writer_gone = true;
        let reader = queue.reader.take();
        drop(queue);
        wake(reader);
    }
}

impl<E> Reader<E> {
    /// Ready when an event or the end is there.
    pub fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut queue = self.0.lock();
        if queue.events.is_empty() && !queue.writer_gone {
            queue.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// The oldest unread event.
    pub fn pop(&self) -> Option<E> {
        self.0.lock().events.pop_front()
    }
}

impl<E> Drop for Reader<E> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.reader_gone = true;
        queue.events.clear();
        let writer = queue.writer.take();
        drop(queue);
        wake(writer);
    }
}

/// Turns an event into what the skill receives, when it receives it: handles are made only for what is read.
type Deliver<E, I> = fn(&mut Run, E) -> wasmtime::Result<I>;

struct Producer<T: 'static, E, I> {
    reader: Reader<E>,
    run: fn(&mut T) -> &mut Run,
    deliver: Deliver<E, I>,
    /// Of a run that is recorded: with the number of the call that opened this.
    tape: Option<(Arc<Tape>, u64)>,
    /// The skill waits.
    waited: bool,
}

impl<T: 'static, E, I> Producer<T, E, I> {
    fn record(&mut self, what: Delivery) {
        let waited = std::mem::take(&mut self.waited);
        if let Some((tape, number)) = &self.tape {
            tape.delivered(*number, waited, what);
        }
    }
}

impl<T: 'static, E, I> Drop for Producer<T, E, I> {
    fn drop(&mut self) {
        self.record(Delivery::Closed);
    }
}

/// A stream of what is written to the queue.
pub(crate) fn stream<T, E, I>(
    mut access: Access<'_, T, HasSelf<Run>>,
    reader: Reader<E>,
    deliver: Deliver<E, I>,
) -> wasmtime::Result<StreamReader<I>>
where
    T: Send + 'static,
    E: Send + 'static,
    I: Canonical + Lift + Lower + Send + Sync + 'static,
{
    let run = access.getter();
    let tape = access.get().tape.clone().map(|tape| (tape.clone(), tape.newest()));
    StreamReader::new(access, Producer { reader, run, deliver, tape, waited: false })
}

impl<T, E, I> StreamProducer<T> for Producer<T, E, I>
where
    T: Send + 'static,
    E: Send + 'static,
    I: Canonical + Lift + Lower + Send + Sync + 'static,
{
    type Item = I;
    type Buffer = Option<I>;

    fn poll_produce<'a>(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut store: StoreContextMut<'a, T>,
        mut destination: Destination<'a, I, Option<I>>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let this = self.get_mut();
        if this.reader.poll_ready(context).is_pending() {
            if finish {
                this.record(Delivery::Cancelled);
                return Poll::Ready(Ok(StreamResult::Cancelled));
            }
            this.waited = true;
            return Poll::Pending;
        }
        // The skill only asks whether something is there.
        if destination.remaining(&mut store) == Some(0) {
            this.record(Delivery::Ready);
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        let Some(event) = this.reader.pop() else {
            this.record(Delivery::End);
            return Poll::Ready(Ok(StreamResult::Dropped));
        };
        let run = (this.run)(store.data_mut());
        let item = (this.deliver)(run, event);
        let waited = std::mem::take(&mut this.waited);
        if let Some((tape, number)) = &this.tape {
            tape.item(&run.table, *number, waited, &item);
        }
        destination.set_buffer(Some(item?));
        Poll::Ready(Ok(StreamResult::Completed))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn an_unread_observation_gives_way_to_a_newer_one_and_nothing_else_does() {
        let (writer, reader) = queue();
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
        let (writer, _reader) = queue();
        assert!((0..LONGEST).all(|event| writer.push(event).is_ok()));
        assert!(writer.push(0).is_err());
    }

    #[test]
    fn the_writer_learns_that_the_reader_is_gone() {
        let (writer, reader) = queue::<()>();
        assert!(writer.closed().now_or_never().is_none());
        drop(reader);
        assert!(writer.closed().now_or_never().is_some());
    }
}
