//! The contract as a run that is recorded calls it: each call and its answer are written down, nothing is added or hidden.
//! A run that is not recorded is linked to [`crate::imports`] alone and pays for none of this.

use wasmtime::AsContextMut;
use wasmtime::component::{Access, Accessor, HasData, HasSelf, Resource, StreamReader};

use crate::contract::{
    Chunk, Fault, Observed, Refusal, actions, clock, durable, model, motion, operator, sensing, skills, types,
};
use crate::imports::Run;
use crate::leases::Lease;
use crate::record::awaited;
use crate::record::calls::calls;
use crate::record::value::{Canonical, arguments};

/// Calls the host and writes down what was called and answered.
pub(crate) struct Recording;

pub(crate) struct Recorder<'a>(pub &'a mut Run);

impl HasData for Recording {
    type Data<'a> = Recorder<'a>;
}

impl Recorder<'_> {
    fn at_once<O: Canonical>(&mut self, name: &str, arguments: String, call: impl FnOnce(&mut Run) -> O) -> O {
        let Some(tape) = self.0.tape.clone() else { return call(self.0) };
        let number = tape.called(name, arguments);
        let answer = call(self.0);
        tape.answered(&self.0.table, number, false, &answer);
        answer
    }
}

async fn in_time<O: Canonical>(
    accessor: &Accessor<Run, Recording>,
    name: &str,
    arguments: String,
    call: impl AsyncFnOnce(&Accessor<Run, HasSelf<Run>>) -> O,
) -> O {
    let inner = accessor.with_getter::<HasSelf<Run>>(|run| run);
    let Some(tape) = accessor.with(|mut access| access.get().0.tape.clone()) else { return call(&inner).await };
    let number = tape.called(name, arguments);
    let (answer, waited) = awaited(call(&inner)).await;
    accessor.with(|mut access| tape.answered(&access.get().0.table, number, waited, &answer));
    answer
}

fn stream<O: Canonical>(
    mut access: Access<'_, Run, Recording>,
    name: &str,
    arguments: String,
    call: impl FnOnce(Access<'_, Run, HasSelf<Run>>) -> O,
) -> O {
    let tape = access.get().0.tape.clone();
    let called = tape.map(|tape| (tape.called(name, arguments), tape));
    let opened = call(Access::new(access.as_context_mut(), |run| run));
    if let Some((number, tape)) = called {
        tape.answered(&access.get().0.table, number, false, &opened);
    }
    opened
}

macro_rules! recorded {
    (
        at_once { $($host:ident::$trait:ident {
            $($function:ident = $name:literal ($($argument:ident: $type:ty),*) -> $answer:ty;)*
        })* }
        in_time { $($interface:ident::$with_store:ident {
            $(async $awaited:ident = $of:literal ($($given:ident: $kind:ty),*) -> $value:ty;)*
            $(stream $opens:ident = $opened:literal ($($with:ident: $what:ty),*) -> $item:ty;)*
        })* }
    ) => {
        $(impl $host::$trait for Recorder<'_> { $(
            fn $function(&mut self, $($argument: $type),*) -> $answer {
                let arguments = arguments!($($argument),*);
                self.at_once($name, arguments, |run| $host::$trait::$function(run, $($argument),*))
            }
        )* })*

        $(impl $interface::$with_store<Run> for Recording {
            $(async fn $awaited(accessor: &Accessor<Run, Self>, $($given: $kind),*) -> Result<$value, Fault> {
                let arguments = arguments!($($given),*);
                in_time(accessor, $of, arguments, async |inner: &Accessor<Run, HasSelf<Run>>| {
                    <HasSelf<Run> as $interface::$with_store<Run>>::$awaited(inner, $($given),*).await
                }).await
            })*
            $(fn $opens(access: Access<'_, Run, Self>, $($with: $what),*) -> Result<StreamReader<$item>, Fault> {
                let arguments = arguments!($($with),*);
                stream(access, $opened, arguments, |inner| {
                    <HasSelf<Run> as $interface::$with_store<Run>>::$opens(inner, $($with),*)
                })
            })*
        })*
    };
}
calls!(recorded);

impl types::Host for Recorder<'_> {
    fn convert_error(&mut self, fault: Fault) -> wasmtime::Result<Refusal> {
        self.0.convert_error(fault)
    }
}
