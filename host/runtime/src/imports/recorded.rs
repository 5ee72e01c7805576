//! The contract twice more: as a run that is recorded calls it, and as a replay answers it. Neither adds or hides anything.
//! A run that is not recorded is linked to [`crate::imports`] alone and pays for none of this.

use wasmtime::AsContextMut;
use wasmtime::component::{Access, Accessor, HasData, HasSelf, Resource, StreamReader};

use crate::contract::{Chunk, Fault, Observed};
use crate::contract::{Refusal, actions, clock, durable, model, motion, operator, sensing, skills, types};
use crate::imports::Run;
use crate::leases::Lease;
use crate::record::value::arguments;
use crate::record::{Answer, awaited};
use crate::replay::{self, Replayed};

/// Calls the host and writes down what was called and answered.
pub(crate) struct Recording;

/// Answers from a record, as long as the same is called.
pub(crate) struct Replaying;

pub(crate) struct Recorder<'a>(pub &'a mut Run);

pub(crate) struct Replayer<'a>(pub &'a mut Replayed);

impl HasData for Recording {
    type Data<'a> = Recorder<'a>;
}

impl HasData for Replaying {
    type Data<'a> = Replayer<'a>;
}

impl Recorder<'_> {
    fn call<O: Answer>(&mut self, name: &str, arguments: String, call: impl FnOnce(&mut Run) -> O) -> O {
        let Some(tape) = self.0.tape.clone() else { return call(self.0) };
        let number = tape.called(name, arguments);
        let answer = call(self.0);
        tape.answered(self.0, number, false, &answer);
        answer
    }
}

impl Replayer<'_> {
    pub fn call<O: Answer>(&mut self, name: &str, arguments: &str) -> O {
        match self.0.cursor.call(name, arguments) {
            Ok(number) => self.0.cursor.answer(number),
            Err(halt) => O::fatal(wasmtime::Error::new(halt)),
        }
    }
}

async fn record<O: Answer>(
    accessor: &Accessor<Run, Recording>,
    name: &str,
    arguments: String,
    call: impl AsyncFnOnce(&Accessor<Run, HasSelf<Run>>) -> O,
) -> O {
    let inner = accessor.with_getter::<HasSelf<Run>>(|run| run);
    let Some(tape) = accessor.with(|mut access| access.get().0.tape.clone()) else { return call(&inner).await };
    let number = tape.called(name, arguments);
    let (answer, waited) = awaited(call(&inner)).await;
    accessor.with(|mut access| tape.answered(access.get().0, number, waited, &answer));
    answer
}

async fn answer<O: Answer>(accessor: &Accessor<Replayed, Replaying>, name: &str, arguments: String) -> O {
    let cursor = accessor.with(|mut access| access.get().0.cursor.clone());
    match cursor.call(name, &arguments) {
        Ok(number) => {
            let mut pended = false;
            std::future::poll_fn(|context| cursor.poll_answer(number, &mut pended, context)).await
        }
        Err(halt) => O::fatal(wasmtime::Error::new(halt)),
    }
}

fn record_stream<I>(
    mut access: Access<'_, Run, Recording>,
    name: &str,
    arguments: String,
    call: impl FnOnce(Access<'_, Run, HasSelf<Run>>) -> Result<StreamReader<I>, Fault>,
) -> Result<StreamReader<I>, Fault> {
    let tape = access.get().0.tape.clone();
    let number = tape.as_ref().map(|tape| tape.called(name, arguments));
    let opened = call(Access::new(access.as_context_mut(), |run| run));
    if let (Some(tape), Some(number)) = (tape, number) {
        tape.opened(number, &opened);
    }
    opened
}

/// Calls that are answered at once.
macro_rules! sync {
    ($($interface:ident::$trait:ident {
        $($function:ident = $name:literal ($($argument:ident: $type:ty),*) -> $answer:ty;)*
    })*) => { $(
        impl $interface::$trait for Recorder<'_> { $(
            fn $function(&mut self, $($argument: $type),*) -> $answer {
                let arguments = arguments!($($argument),*);
                self.call($name, arguments, |run| $interface::$trait::$function(run, $($argument),*))
            }
        )* }

        impl $interface::$trait for Replayer<'_> { $(
            fn $function(&mut self, $($argument: $type),*) -> $answer {
                self.call($name, &arguments!($($argument),*))
            }
        )* }
    )* };
}

/// Calls that are awaited, and calls that open a stream.
macro_rules! concurrent {
    ($($interface:ident::$trait:ident {
        $(async $function:ident = $name:literal ($($argument:ident: $type:ty),*) -> $answer:ty;)*
        $(stream $opens:ident = $opened:literal ($($with:ident: $of:ty),*) -> $item:ty;)*
    })*) => { $(
        impl $interface::$trait<Run> for Recording {
            $(
                async fn $function(accessor: &Accessor<Run, Self>, $($argument: $type),*) -> Result<$answer, Fault> {
                    let arguments = arguments!($($argument),*);
                    let call = async |inner: &Accessor<Run, HasSelf<Run>>| {
                        <HasSelf<Run> as $interface::$trait<Run>>::$function(inner, $($argument),*).await
                    };
                    record(accessor, $name, arguments, call).await
                }
            )*
            $(
                fn $opens(access: Access<'_, Run, Self>, $($with: $of),*) -> Result<StreamReader<$item>, Fault> {
                    let arguments = arguments!($($with),*);
                    record_stream(access, $opened, arguments, |inner| {
                        <HasSelf<Run> as $interface::$trait<Run>>::$opens(inner, $($with),*)
                    })
                }
            )*
        }

        impl $interface::$trait<Replayed> for Replaying {
            $(
                async fn $function(accessor: &Accessor<Replayed, Self>, $($argument: $type),*) -> Result<$answer, Fault> {
                    answer(accessor, $name, arguments!($($argument),*)).await
                }
            )*
            $(
                fn $opens(mut access: Access<'_, Replayed, Self>, $($with: $of),*) -> Result<StreamReader<$item>, Fault> {
                    let arguments = arguments!($($with),*);
                    replay::stream(access.as_context_mut(), $opened, &arguments)
                }
            )*
        }
    )* };
}

sync! {
    clock::Host {
        now = "clock.now" () -> wasmtime::Result<u64>;
    }
    sensing::Host {
        robot = "sensing.robot" () -> wasmtime::Result<sensing::Embodiment>;
    }
    sensing::HostObservation {
        taken = "observation.taken" (seen: Resource<Observed>) -> wasmtime::Result<u64>;
        joints = "observation.joints" (seen: Resource<Observed>) -> wasmtime::Result<Vec<sensing::Joint>>;
        samples = "observation.samples" (seen: Resource<Observed>, sensor: String) -> Result<sensing::Samples, Fault>;
        pixels = "observation.pixels" (seen: Resource<Observed>, camera: String) -> Result<sensing::Image, Fault>;
        drop = "observation.drop" (seen: Resource<Observed>) -> wasmtime::Result<()>;
    }
    actions::Host {}
    actions::HostActionChunk {
        new = "action-chunk.new" (rate_hz: f32, rows: Vec<Vec<f32>>) -> wasmtime::Result<Resource<Chunk>>;
        rate_hz = "action-chunk.rate-hz" (chunk: Resource<Chunk>) -> wasmtime::Result<f32>;
        steps = "action-chunk.steps" (chunk: Resource<Chunk>) -> wasmtime::Result<Vec<Vec<f32>>>;
        since = "action-chunk.since" (chunk: Resource<Chunk>) -> wasmtime::Result<Option<u64>>;
        drop = "action-chunk.drop" (chunk: Resource<Chunk>) -> wasmtime::Result<()>;
    }
    model::Host {
        about = "model.about" () -> wasmtime::Result<model::Info>;
    }
    motion::Host {}
    motion::HostLease {
        engage = "lease.engage" (lease: Resource<Lease>, controller: String, goal: Vec<f32>) -> Result<(), Fault>;
        hold = "lease.hold" (lease: Resource<Lease>) -> Result<(), Fault>;
        drop = "lease.drop" (lease: Resource<Lease>) -> wasmtime::Result<()>;
    }
    operator::Host {
        progress = "operator.progress" (fraction: f32, note: String) -> wasmtime::Result<()>;
    }
    durable::Host {}
    skills::Host {}
}

concurrent! {
    clock::HostWithStore {
        async wait = "clock.wait" (until: u64) -> ();
    }
    sensing::HostWithStore {
        async observe = "sensing.observe" () -> Resource<Observed>;
        stream watch = "sensing.watch" (rate_hz: f32) -> Resource<Observed>;
    }
    model::HostWithStore {
        async act = "model.act" (instruction: String, seen: Vec<Resource<Observed>>) -> Resource<Chunk>;
        async ask = "model.ask" (question: String, seen: Vec<Resource<Observed>>) -> model::Answer;
        async locate = "model.locate" (what: String, seen: Resource<Observed>) -> Vec<model::Detection>;
        async embed = "model.embed" (text: String, seen: Vec<Resource<Observed>>) -> Vec<f32>;
    }
    motion::HostWithStore {
        async acquire = "motion.acquire" (parts: Vec<String>) -> Resource<Lease>;
    }
    motion::HostLeaseWithStore {
        async play = "lease.play" (lease: Resource<Lease>, chunk: Resource<Chunk>) -> Vec<motion::Intervention>;
        async move_joints = "lease.move-joints" (lease: Resource<Lease>, positions: Vec<f32>, speed: f32)
            -> Vec<motion::Intervention>;
        async move_tool = "lease.move-tool" (lease: Resource<Lease>, target: types::Pose, speed: f32)
            -> Vec<motion::Intervention>;
        async grip = "lease.grip" (lease: Resource<Lease>, opening: f32, effort: f32) -> f32;
        stream rollout = "lease.rollout" (lease: Resource<Lease>, options: motion::RolloutOptions)
            -> motion::RolloutEvent;
    }
    operator::HostWithStore {
        async confirm = "operator.confirm" (question: String) -> bool;
    }
    durable::HostWithStore {
        async checkpoint = "durable.checkpoint" (state: Vec<u8>) -> ();
    }
    skills::HostWithStore {
        async invoke = "skills.invoke" (skill: String, instruction: String, parameters: String) -> types::Outcome;
    }
}

fn convert(fault: Fault) -> wasmtime::Result<Refusal> {
    match fault {
        Fault::Refused(refusal) => Ok(refusal),
        Fault::Fatal(error) => Err(error),
    }
}

impl types::Host for Recorder<'_> {
    fn convert_error(&mut self, fault: Fault) -> wasmtime::Result<Refusal> {
        convert(fault)
    }
}

impl types::Host for Replayer<'_> {
    fn convert_error(&mut self, fault: Fault) -> wasmtime::Result<Refusal> {
        convert(fault)
    }
}
