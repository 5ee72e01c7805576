//! What a skill is linked to: a run, or the record of one.
//!
//! There is one linking for both. In a run each call goes to the host, and is written down with its answer if the run is recorded;
//! nothing is added or hidden, and one that is not recorded pays a look at whether it is. In a replay the record answers, and no
//! host is called.

use std::sync::Arc;

use wasmtime::AsContextMut;
use wasmtime::component::{Access, Accessor, HasData, HasSelf, Resource, ResourceTable, StreamReader};
use wasmtime_wasi_io::IoView;

use crate::contract::{
    Chunk, Fault, Observed, Refusal, actions, clock, durable, model, motion, operator, sensing, skills, types,
};
use crate::imports::Run;
use crate::imports::replayed::{Awaited, Replayed};
use crate::imports::wasi::Wasi;
use crate::leases::Lease;
use crate::limits::Growth;
use crate::record::calls::calls;
use crate::record::value::{Canonical, arguments};
use crate::record::{Tape, awaited};

/// The data of a skill's store.
pub(crate) enum Sandbox {
    Run(Run),
    Replay(Replayed),
}

impl Sandbox {
    /// The run whose call is on its way to the host.
    pub fn run(&mut self) -> &mut Run {
        match self {
            Self::Run(run) => run,
            Self::Replay(_) => unreachable!("a replay calls no host"),
        }
    }

    pub fn growth(&mut self) -> &mut Growth {
        match self {
            Self::Run(run) => &mut run.growth,
            Self::Replay(replay) => &mut replay.growth,
        }
    }

    pub fn wasi(&mut self) -> &mut Wasi {
        match self {
            Self::Run(run) => &mut run.wasi,
            Self::Replay(replay) => &mut replay.wasi,
        }
    }
}

impl IoView for Sandbox {
    fn table(&mut self) -> &mut ResourceTable {
        match self {
            Self::Run(run) => &mut run.table,
            Self::Replay(replay) => &mut replay.table,
        }
    }
}

/// Sends calls where they are answered.
pub(crate) struct Linked;

pub(crate) struct Calls<'a>(pub &'a mut Sandbox);

impl HasData for Linked {
    type Data<'a> = Calls<'a>;
}

/// A call that was written down, and whose answer will be.
type Called = Option<(Arc<Tape>, u64)>;

impl Run {
    fn called(&self, name: &str, arguments: impl FnOnce() -> String) -> Called {
        let tape = self.tape.clone()?;
        let number = tape.called(name, arguments());
        Some((tape, number))
    }

    fn answered(&self, called: Called, waited: bool, answer: &impl Canonical) {
        if let Some((tape, number)) = called {
            tape.answered(&self.table, number, waited, answer);
        }
    }
}

/// A call whose answer is to come.
enum Begun {
    Run(Called),
    Replay(Awaited),
}

impl Calls<'_> {
    fn begin(&self, name: &str, arguments: impl FnOnce() -> String) -> Begun {
        match &*self.0 {
            Sandbox::Run(run) => Begun::Run(run.called(name, arguments)),
            Sandbox::Replay(replay) => Begun::Replay(replay.awaited(name, &arguments())),
        }
    }
}

macro_rules! linked {
    (
        at_once { $($host:ident::$trait:ident {
            $($function:ident = $name:literal ($($argument:ident: $type:ty),*) -> $answer:ty;)*
        })* }
        in_time { $($interface:ident::$with_store:ident {
            $(async $awaited:ident = $of:literal ($($given:ident: $kind:ty),*) -> $value:ty;)*
            $(stream $opens:ident = $opened:literal ($($with:ident: $what:ty),*) -> $item:ty;)*
        })* }
    ) => {
        $(impl $host::$trait for Calls<'_> { $(
            fn $function(&mut self, $($argument: $type),*) -> $answer {
                match self.0 {
                    Sandbox::Run(run) => {
                        let called = run.called($name, || arguments!($($argument),*));
                        let answer = $host::$trait::$function(run, $($argument),*);
                        run.answered(called, false, &answer);
                        answer
                    }
                    Sandbox::Replay(replay) => replay.at_once($name, &arguments!($($argument),*)),
                }
            }
        )* })*

        $(impl $interface::$with_store<Sandbox> for Linked {
            $(async fn $awaited(accessor: &Accessor<Sandbox, Self>, $($given: $kind),*) -> Result<$value, Fault> {
                let called = match accessor.with(|mut access| access.get().begin($of, || arguments!($($given),*))) {
                    Begun::Run(called) => called,
                    Begun::Replay(awaited) => return awaited.answer().await,
                };
                let inner = accessor.with_getter::<HasSelf<Run>>(Sandbox::run);
                let call = <HasSelf<Run> as $interface::$with_store<Sandbox>>::$awaited(&inner, $($given),*);
                let (answer, waited) = awaited(call).await;
                if called.is_some() {
                    accessor.with(|mut access| access.get().0.run().answered(called, waited, &answer));
                }
                answer
            })*
            $(fn $opens(mut access: Access<'_, Sandbox, Self>, $($with: $what),*) -> Result<StreamReader<$item>, Fault> {
                let called = match access.get().begin($opened, || arguments!($($with),*)) {
                    Begun::Run(called) => called,
                    Begun::Replay(awaited) => return awaited.stream(access.as_context_mut()),
                };
                let inner = Access::new(access.as_context_mut(), |sandbox: &mut Sandbox| sandbox.run());
                let opened = <HasSelf<Run> as $interface::$with_store<Sandbox>>::$opens(inner, $($with),*);
                access.get().0.run().answered(called, false, &opened);
                opened
            })*
        })*
    };
}
calls!(linked);

impl types::Host for Calls<'_> {
    fn convert_error(&mut self, fault: Fault) -> wasmtime::Result<Refusal> {
        match fault {
            Fault::Refused(refusal) => Ok(refusal),
            Fault::Fatal(error) => Err(error),
        }
    }
}
