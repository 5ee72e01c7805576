//! The contract as a replay answers it: from the record, as long as the skill calls what it called then.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use wasmtime::component::{
    Access, Accessor, Destination, HasData, Lift, Linker, Lower, Resource, ResourceTable, StreamProducer, StreamReader,
    StreamResult,
};
use wasmtime::{AsContextMut, StoreContextMut};
use wasmtime_wasi_io::poll::{DynPollable, Pollable, subscribe};
use wasmtime_wasi_io::{IoView, async_trait};

use crate::contract::skill::Skill;
use crate::contract::{
    Chunk, Fault, Observed, Refusal, actions, clock, durable, model, motion, operator, sensing, skills, types,
};
use crate::imports;
use crate::imports::wasi::{self, Datetime, Sandboxed, Until, Wasi};
use crate::leases::Lease;
use crate::limits::{Budgets, Growth};
use crate::record::Delivery;
use crate::record::calls::calls;
use crate::record::value::{Answer, Canonical, arguments};
use crate::replay::cursor::Cursor;

/// Links everything: whatever is called gives no power, and must have been recorded.
pub(crate) fn link(linker: &mut Linker<Replayed>) -> wasmtime::Result<()> {
    wasi::link(linker)?;
    Skill::add_to_linker::<_, Replaying>(linker, |replayed| Replayer(replayed))
}

/// The data of a replay's store.
pub(crate) struct Replayed {
    cursor: Cursor,
    pub growth: Growth,
    pub wasi: Wasi,
    /// Of WASI's handles; those of the contract are the recorded numbers.
    table: ResourceTable,
}

impl Replayed {
    pub fn new(cursor: Cursor, seed: u64, budgets: &Budgets) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(budgets.handles);
        let wasi = Wasi::new(seed, budgets.log_bytes, |line| tracing::info!("{line}"));
        Self { cursor, growth: Growth::new(budgets), wasi, table }
    }
}

/// Answers from a record, as long as the same is called.
struct Replaying;

struct Replayer<'a>(&'a mut Replayed);

impl HasData for Replaying {
    type Data<'a> = Replayer<'a>;
}

impl Replayed {
    fn at_once<O: Answer>(&self, name: &str, arguments: &str) -> O {
        match self.cursor.call(name, arguments) {
            Ok(number) => self.cursor.answer(number),
            Err(halt) => O::fatal(wasmtime::Error::new(halt)),
        }
    }
}

async fn in_time<O: Answer>(accessor: &Accessor<Replayed, Replaying>, name: &str, arguments: String) -> O {
    let cursor = accessor.with(|mut access| access.get().0.cursor.clone());
    match cursor.call(name, &arguments) {
        Ok(number) => {
            let mut pended = false;
            std::future::poll_fn(|context| cursor.poll_answer(number, &mut pended, context)).await
        }
        Err(halt) => O::fatal(wasmtime::Error::new(halt)),
    }
}

fn stream<I>(mut store: StoreContextMut<'_, Replayed>, name: &str, arguments: &str) -> Result<StreamReader<I>, Fault>
where
    I: Canonical + Lift + Lower + Send + Sync + 'static,
{
    let cursor = store.data().cursor.clone();
    let number = cursor.call(name, arguments).map_err(wasmtime::Error::new)?;
    cursor.answer::<Result<(), Fault>>(number)?;
    Ok(StreamReader::new(&mut store, Played { number, cursor, pended: false, of: PhantomData::<fn() -> I> })?)
}

macro_rules! answered {
    (
        at_once { $($host:ident::$trait:ident {
            $($function:ident = $name:literal ($($argument:ident: $type:ty),*) -> $answer:ty;)*
        })* }
        in_time { $($interface:ident::$with_store:ident {
            $(async $awaited:ident = $of:literal ($($given:ident: $kind:ty),*) -> $value:ty;)*
            $(stream $opens:ident = $opened:literal ($($with:ident: $what:ty),*) -> $item:ty;)*
        })* }
    ) => {
        $(impl $host::$trait for Replayer<'_> { $(
            fn $function(&mut self, $($argument: $type),*) -> $answer {
                self.0.at_once($name, &arguments!($($argument),*))
            }
        )* })*

        $(impl $interface::$with_store<Replayed> for Replaying {
            $(async fn $awaited(accessor: &Accessor<Replayed, Self>, $($given: $kind),*) -> Result<$value, Fault> {
                in_time(accessor, $of, arguments!($($given),*)).await
            })*
            $(fn $opens(mut access: Access<'_, Replayed, Self>, $($with: $what),*) -> Result<StreamReader<$item>, Fault> {
                stream(access.as_context_mut(), $opened, &arguments!($($with),*))
            })*
        })*
    };
}
calls!(answered);

impl types::Host for Replayer<'_> {
    fn convert_error(&mut self, fault: Fault) -> wasmtime::Result<Refusal> {
        match fault {
            Fault::Refused(refusal) => Ok(refusal),
            Fault::Fatal(error) => Err(error),
        }
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

impl<I> StreamProducer<Replayed> for Played<I>
where
    I: Canonical + Lift + Lower + Send + Sync + 'static,
{
    type Item = I;
    type Buffer = Option<I>;

    fn poll_produce<'a>(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        _: StoreContextMut<'a, Replayed>,
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

impl IoView for Replayed {
    fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }
}

impl Sandboxed for Replayed {
    fn wasi(&mut self) -> &mut Wasi {
        &mut self.wasi
    }

    fn monotonic_ns(&mut self) -> wasmtime::Result<u64> {
        self.at_once("monotonic-clock.now", &arguments!())
    }

    fn resolution_ns(&mut self) -> wasmtime::Result<u64> {
        self.at_once("monotonic-clock.resolution", &arguments!())
    }

    fn wall(&mut self) -> wasmtime::Result<Datetime> {
        self.at_once("wall-clock.now", &arguments!())
    }

    fn alarm(&mut self, until: Until) -> wasmtime::Result<Resource<DynPollable>> {
        let number = self.cursor.call(until.name(), &until.arguments())?;
        self.cursor.answer::<wasmtime::Result<()>>(number)?;
        let alarm = imports::push(&mut self.table, Alarm { number, cursor: self.cursor.clone() })?;
        subscribe(&mut self.table, alarm)
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
