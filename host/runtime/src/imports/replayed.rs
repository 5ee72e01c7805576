//! What a replay is in place of a run: it answers from the record, as long as the skill calls what it called then.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use wasmtime::component::{
    Destination, Lift, Lower, Resource, ResourceTable, StreamProducer, StreamReader, StreamResult,
};
use wasmtime::{AsContextMut, StoreContextMut};
use wasmtime_wasi_io::async_trait;
use wasmtime_wasi_io::poll::{DynPollable, Pollable, subscribe};

use crate::contract::Fault;
use crate::imports;
use crate::imports::sandbox::Sandbox;
use crate::imports::wasi::{Until, Wasi};
use crate::limits::memory::HostMemory;
use crate::limits::{Budgets, Growth};
use crate::record::Delivery;
use crate::record::cursor::{Cursor, Halt};
use crate::record::value::{Answer, Canonical};

/// A replay, as its store has it.
pub(crate) struct Replayed {
    cursor: Cursor,
    pub growth: Growth,
    pub wasi: Wasi,
    /// Of WASI's handles; those of the contract are the recorded numbers.
    pub table: ResourceTable,
}

impl Replayed {
    pub fn new(cursor: Cursor, seed: u64, budgets: &Budgets) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(budgets.handles);
        let wasi = Wasi::new(seed, budgets.log_bytes, |line| tracing::info!("{line}"));
        Self { cursor, growth: Growth::new(budgets, &HostMemory::of_one()), wasi, table }
    }

    /// Answers a call that is not awaited.
    pub fn at_once<O: Answer>(&self, name: &str, arguments: &str) -> O {
        match self.cursor.call(name, arguments) {
            Ok(number) => self.cursor.answer(number),
            Err(halt) => O::fatal(wasmtime::Error::new(halt)),
        }
    }

    /// The skill makes a call that it awaits.
    pub fn awaited(&self, name: &str, arguments: &str) -> Awaited {
        Awaited { cursor: self.cursor.clone(), number: self.cursor.call(name, arguments) }
    }

    pub fn alarm(&mut self, until: Until) -> wasmtime::Result<Resource<DynPollable>> {
        let number = self.cursor.call(until.name(), &until.arguments())?;
        self.cursor.answer::<wasmtime::Result<()>>(number)?;
        let alarm = imports::push(&mut self.table, Alarm { number, cursor: self.cursor.clone() })?;
        subscribe(&mut self.table, alarm)
    }
}

/// A call whose answer is awaited.
pub(crate) struct Awaited {
    cursor: Cursor,
    number: Result<u64, Halt>,
}

impl Awaited {
    /// What it was answered then, when its turn has come.
    pub async fn answer<O: Answer>(self) -> O {
        match self.number {
            Ok(number) => {
                let mut pended = false;
                std::future::poll_fn(|context| self.cursor.poll_answer(number, &mut pended, context)).await
            }
            Err(halt) => O::fatal(wasmtime::Error::new(halt)),
        }
    }

    /// The stream that it opened then.
    pub fn stream<I>(self, store: impl AsContextMut<Data = Sandbox>) -> Result<StreamReader<I>, Fault>
    where
        I: Canonical + Lift + Lower + Send + Sync + 'static,
    {
        let number = self.number.map_err(wasmtime::Error::new)?;
        self.cursor.answer::<Result<(), Fault>>(number)?;
        let played = Played { number, cursor: self.cursor, pended: false, of: PhantomData::<fn() -> I> };
        Ok(StreamReader::new(store, played)?)
    }
}

/// Delivers what a stream delivered.
struct Played<I> {
    number: u64,
    cursor: Cursor,
    pended: bool,
    of: PhantomData<fn() -> I>,
}

impl<I> Drop for Played<I> {
    fn drop(&mut self) {
        self.cursor.close(self.number);
    }
}

impl<I> StreamProducer<Sandbox> for Played<I>
where
    I: Canonical + Lift + Lower + Send + Sync + 'static,
{
    type Item = I;
    type Buffer = Option<I>;

    fn poll_produce<'a>(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        _: StoreContextMut<'a, Sandbox>,
        mut destination: Destination<'a, I, Option<I>>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let this = self.get_mut();
        let delivery = ready!(this.cursor.poll_stream(this.number, &mut this.pended, finish, context));
        Poll::Ready(match delivery.map_err(wasmtime::Error::new)? {
            Delivery::Ready => Ok(StreamResult::Completed),
            Delivery::Cancelled => Ok(StreamResult::Cancelled),
            Delivery::End | Delivery::Closed => Ok(StreamResult::Dropped),
            Delivery::Item(item) => <wasmtime::Result<I>>::parse(&item).map_err(wasmtime::Error::new)?.map(|item| {
                destination.set_buffer(Some(item));
                StreamResult::Completed
            }),
        })
    }
}

/// Rings when it rang.
struct Alarm {
    number: u64,
    cursor: Cursor,
}

#[async_trait]
impl Pollable for Alarm {
    async fn ready(&mut self) {
        let mut pended = false;
        std::future::poll_fn(|context| self.cursor.poll_alarm(self.number, &mut pended, context)).await;
    }
}
