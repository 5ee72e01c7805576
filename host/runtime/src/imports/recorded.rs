//! The contract as skills are linked to it. A run that is recorded has each call and its answer written down, in which nothing is
//! added or hidden; one that is not pays a look at whether it is.

use std::sync::Arc;

use wasmtime::AsContextMut;
use wasmtime::component::{Access, Accessor, HasData, HasSelf, Resource, StreamReader};

use crate::contract::{
    Chunk, Fault, Observed, Refusal, actions, clock, durable, model, motion, operator, sensing, skills, types,
};
use crate::imports::Run;
use crate::leases::Lease;
use crate::record::calls::calls;
use crate::record::value::{Canonical, arguments};
use crate::record::{Tape, awaited};

/// Calls the host, and writes down what was called and answered if the run is recorded.
pub(crate) struct Recording;

pub(crate) struct Recorder<'a>(pub &'a mut Run);

impl HasData for Recording {
    type Data<'a> = Recorder<'a>;
}

/// A call that was written down, and whose answer will be.
type Called = Option<(Arc<Tape>, u64)>;

impl Recorder<'_> {
    fn called(&self, name: &str, arguments: impl FnOnce() -> String) -> Called {
        let tape = self.0.tape.clone()?;
        let number = tape.called(name, arguments());
        Some((tape, number))
    }

    fn answered(&self, called: Called, waited: bool, answer: &impl Canonical) {
        if let Some((tape, number)) = called {
            tape.answered(&self.0.table, number, waited, answer);
        }
    }
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
                let called = self.called($name, || arguments!($($argument),*));
                let answer = $host::$trait::$function(self.0, $($argument),*);
                self.answered(called, false, &answer);
                answer
            }
        )* })*

        $(impl $interface::$with_store<Run> for Recording {
            $(async fn $awaited(accessor: &Accessor<Run, Self>, $($given: $kind),*) -> Result<$value, Fault> {
                let called = accessor.with(|mut access| access.get().called($of, || arguments!($($given),*)));
                let inner = accessor.with_getter::<HasSelf<Run>>(|run| run);
                let call = <HasSelf<Run> as $interface::$with_store<Run>>::$awaited(&inner, $($given),*);
                let (answer, waited) = awaited(call).await;
                if called.is_some() {
                    accessor.with(|mut access| access.get().answered(called, waited, &answer));
                }
                answer
            })*
            $(fn $opens(mut access: Access<'_, Run, Self>, $($with: $what),*) -> Result<StreamReader<$item>, Fault> {
                let called = access.get().called($opened, || arguments!($($with),*));
                let inner = Access::new(access.as_context_mut(), |run: &mut Run| run);
                let opened = <HasSelf<Run> as $interface::$with_store<Run>>::$opens(inner, $($with),*);
                access.get().answered(called, false, &opened);
                opened
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
