//! From a feed of the host's to a stream of the contract.

use std::pin::Pin;
use std::task::{Context, Poll};

use wasmtime::StoreContextMut;
use wasmtime::component::{Access, Destination, HasSelf, Lift, Lower, StreamProducer, StreamReader, StreamResult};

use super::Run;
use crate::feed::Reader;

/// Turns an event into what the skill receives, when it receives it: handles are made only for what is read.
type Deliver<E, I> = fn(&mut Run, E) -> wasmtime::Result<I>;

struct Producer<T: 'static, E, I> {
    reader: Reader<E>,
    run: fn(&mut T) -> &mut Run,
    deliver: Deliver<E, I>,
}

/// A stream of what is written to the feed.
pub(crate) fn stream<T, E, I>(
    access: Access<'_, T, HasSelf<Run>>,
    reader: Reader<E>,
    deliver: Deliver<E, I>,
) -> wasmtime::Result<StreamReader<I>>
where
    T: Send + 'static,
    E: Send + 'static,
    I: Lift + Lower + Send + Sync + 'static,
{
    let run = access.getter();
    StreamReader::new(access, Producer { reader, run, deliver })
}

impl<T, E, I> StreamProducer<T> for Producer<T, E, I>
where
    T: Send + 'static,
    E: Send + 'static,
    I: Lift + Lower + Send + Sync + 'static,
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
        if self.reader.poll_ready(context).is_pending() {
            return if finish { Poll::Ready(Ok(StreamResult::Cancelled)) } else { Poll::Pending };
        }
        // The skill only asks whether something is there.
        if destination.remaining(&mut store) == Some(0) {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        let Some(event) = self.reader.pop() else { return Poll::Ready(Ok(StreamResult::Dropped)) };
        let item = (self.deliver)((self.run)(store.data_mut()), event)?;
        destination.set_buffer(Some(item));
        Poll::Ready(Ok(StreamResult::Completed))
    }
}
