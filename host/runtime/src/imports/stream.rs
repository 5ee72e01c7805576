//! From a feed of the host's to a stream of the contract.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use wasmtime::StoreContextMut;
use wasmtime::component::{Access, Destination, HasSelf, Lift, Lower, StreamProducer, StreamReader, StreamResult};

use super::Run;
use crate::imports::feed::Reader;
use crate::record::value::Canonical;
use crate::record::{Delivery, Tape};

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

/// A stream of what is written to the feed.
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
            tape.item(run, *number, waited, &item);
        }
        destination.set_buffer(Some(item?));
        Poll::Ready(Ok(StreamResult::Completed))
    }
}
