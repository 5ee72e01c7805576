//! The little of WASI 0.2 that a skill gets: clocks, random numbers, standard output and error. No files, no sockets, no
//! arguments, no environment.
//!
//! The monotonic clock is robot time and random numbers come from the run's seed, so that a run repeats under lockstep.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime_wasi_io::bytes::Bytes;
use wasmtime_wasi_io::poll::{DynPollable, Pollable, subscribe};
use wasmtime_wasi_io::streams::{DynInputStream, DynOutputStream, InputStream, OutputStream, StreamError};
use wasmtime_wasi_io::{IoView, async_trait};

use crate::imports::clock::{has_come, wait};
use crate::imports::sandbox::Sandbox;
use crate::imports::{self, Call, Run};
use crate::limits::rate::Slot;
use crate::record::value::{Canonical, arguments, record};
use crate::record::{Tape, awaited};
use crate::run::events::Event;

/// Of the interfaces; the linker takes any 0.2 for it.
const VERSION: &str = "0.2.6";

/// The longest line that is logged as one.
const LONGEST_LINE: usize = 4096;

/// What a run's WASI calls work on.
pub(crate) struct Wasi {
    log: Log,
    random: ChaCha8Rng,
}

impl Wasi {
    /// `said` gets what is written, line by line.
    pub fn new(seed: u64, log_bytes: u64, said: impl Fn(String) + Send + 'static) -> Self {
        Self { random: ChaCha8Rng::seed_from_u64(seed), log: Log::new(log_bytes, Box::new(said)) }
    }

    /// Of a run: its lines are reported, and recorded if it is.
    pub fn of(context: &Arc<Call>, tape: Option<Arc<Tape>>) -> Self {
        let (seed, log_bytes) = (context.seed, context.budgets().log_bytes);
        let context = context.clone();
        Self::new(seed, log_bytes, move |line| {
            // A target of its own: who reads the host's log decides about the words of strangers apart.
            tracing::info!(target: "skill", run = %context.job.id, skill = %context.skill.manifest.id, "{line}");
            if let Some(tape) = &tape {
                tape.said(&line);
            }
            (context.events)(Event::Log { line });
        })
    }

    /// Where its standard output and error go.
    pub fn log(&self) -> Log {
        self.log.clone()
    }
}

/// Terminals that no skill has.
struct Terminal;

/// When an alarm rings, ns of robot time.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    Instant(u64),
    Elapsed(u64),
}

impl Until {
    pub fn name(self) -> &'static str {
        match self {
            Self::Instant(_) => "monotonic-clock.subscribe-instant",
            Self::Elapsed(_) => "monotonic-clock.subscribe-duration",
        }
    }

    pub fn arguments(self) -> String {
        let (Self::Instant(ns) | Self::Elapsed(ns)) = self;
        arguments!(ns)
    }
}

impl Run {
    fn now_ns(&self) -> u64 {
        let robot = self.context.robot();
        robot.tick_ns(robot.tick())
    }

    /// Answers a call, and writes it down if the run is recorded.
    fn told<T: Canonical>(&self, name: &str, value: T) -> wasmtime::Result<T> {
        let answer = Ok(value);
        if let Some(tape) = &self.tape {
            let number = tape.called(name, arguments!());
            tape.answered(&self.table, number, false, &answer);
        }
        answer
    }

    fn alarm(&mut self, until: Until) -> wasmtime::Result<Resource<DynPollable>> {
        let until_ns = match until {
            Until::Instant(ns) => ns,
            Until::Elapsed(ns) => self.now_ns().saturating_add(ns),
        };
        let call = self.context.meter.call();
        let tape = self.tape.clone().map(|tape| {
            let number = tape.called(until.name(), until.arguments());
            let answer = call.as_ref().map(|_| ()).map_err(|over| wasmtime::Error::new(over.clone()));
            tape.answered(&self.table, number, false, &answer);
            (tape, number)
        });
        let call = call.map_err(wasmtime::Error::new)?;
        let alarm = self.push(Alarm { context: self.context.clone(), until_ns, tape, _call: call })?;
        subscribe(&mut self.table, alarm)
    }
}

impl Sandbox {
    fn monotonic_ns(&mut self) -> wasmtime::Result<u64> {
        match self {
            Self::Run(run) => run.told("monotonic-clock.now", run.now_ns()),
            Self::Replay(replay) => replay.at_once("monotonic-clock.now", &arguments!()),
        }
    }

    fn resolution_ns(&mut self) -> wasmtime::Result<u64> {
        match self {
            Self::Run(run) => run.told("monotonic-clock.resolution", run.context.robot().tick_ns(1)),
            Self::Replay(replay) => replay.at_once("monotonic-clock.resolution", &arguments!()),
        }
    }

    fn wall(&mut self) -> wasmtime::Result<Datetime> {
        match self {
            Self::Run(run) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                run.told("wall-clock.now", Datetime { seconds: now.as_secs(), nanoseconds: now.subsec_nanos() })
            }
            Self::Replay(replay) => replay.at_once("wall-clock.now", &arguments!()),
        }
    }

    fn alarm(&mut self, until: Until) -> wasmtime::Result<Resource<DynPollable>> {
        match self {
            Self::Run(run) => run.alarm(until),
            Self::Replay(replay) => replay.alarm(until),
        }
    }
}

/// Links everything that this module's description names.
pub(crate) fn link(linker: &mut Linker<Sandbox>) -> wasmtime::Result<()> {
    wasmtime_wasi_io::add_to_linker_async(linker)?;
    crate::controllers::random::link_random(linker, |data: &mut Sandbox| &mut data.wasi().random)?;
    link_clocks(linker)?;
    link_cli(linker)
}

fn link_clocks(linker: &mut Linker<Sandbox>) -> wasmtime::Result<()> {
    let mut interface = linker.instance(&format!("wasi:clocks/monotonic-clock@{VERSION}"))?;
    interface
        .func_wrap("now", |mut store: StoreContextMut<'_, Sandbox>, (): ()| Ok((store.data_mut().monotonic_ns()?,)))?;
    interface.func_wrap("resolution", |mut store: StoreContextMut<'_, Sandbox>, (): ()| {
        Ok((store.data_mut().resolution_ns()?,))
    })?;
    interface.func_wrap("subscribe-instant", |mut store: StoreContextMut<'_, Sandbox>, (ns,): (u64,)| {
        Ok((store.data_mut().alarm(Until::Instant(ns))?,))
    })?;
    interface.func_wrap("subscribe-duration", |mut store: StoreContextMut<'_, Sandbox>, (ns,): (u64,)| {
        Ok((store.data_mut().alarm(Until::Elapsed(ns))?,))
    })?;
    let mut interface = linker.instance(&format!("wasi:clocks/wall-clock@{VERSION}"))?;
    interface.func_wrap("now", |mut store: StoreContextMut<'_, Sandbox>, (): ()| Ok((store.data_mut().wall()?,)))?;
    interface.func_wrap("resolution", |_: StoreContextMut<'_, Sandbox>, (): ()| {
        Ok((Datetime { seconds: 0, nanoseconds: 1 },))
    })
}

#[derive(wasmtime::component::ComponentType, wasmtime::component::Lower)]
#[component(record)]
pub(crate) struct Datetime {
    pub seconds: u64,
    pub nanoseconds: u32,
}

record! { Datetime { seconds, nanoseconds } }

fn link_cli(linker: &mut Linker<Sandbox>) -> wasmtime::Result<()> {
    let mut interface = linker.instance(&format!("wasi:cli/environment@{VERSION}"))?;
    interface.func_wrap("get-environment", |_: StoreContextMut<'_, Sandbox>, (): ()| {
        Ok((Vec::<(String, String)>::new(),))
    })?;
    interface.func_wrap("get-arguments", |_: StoreContextMut<'_, Sandbox>, (): ()| Ok((Vec::<String>::new(),)))?;
    interface.func_wrap("initial-cwd", |_: StoreContextMut<'_, Sandbox>, (): ()| Ok((Option::<String>::None,)))?;
    let mut interface = linker.instance(&format!("wasi:cli/exit@{VERSION}"))?;
    interface.func_wrap(
        "exit",
        |_: StoreContextMut<'_, Sandbox>, (_,): (Result<(), ()>,)| -> wasmtime::Result<()> {
            Err(wasmtime::Error::msg("it called exit; a skill returns from `run` instead"))
        },
    )?;
    let mut interface = linker.instance(&format!("wasi:cli/stdin@{VERSION}"))?;
    interface.func_wrap("get-stdin", |mut store: StoreContextMut<'_, Sandbox>, (): ()| {
        let stream: DynInputStream = Box::new(Nothing);
        Ok((imports::push(store.data_mut().table(), stream)?,))
    })?;
    for (interface, function) in [("stdout", "get-stdout"), ("stderr", "get-stderr")] {
        let mut interface = linker.instance(&format!("wasi:cli/{interface}@{VERSION}"))?;
        interface.func_wrap(function, |mut store: StoreContextMut<'_, Sandbox>, (): ()| {
            let stream: DynOutputStream = Box::new(store.data_mut().wasi().log());
            Ok((imports::push(store.data_mut().table(), stream)?,))
        })?;
    }
    for direction in ["input", "output"] {
        let mut interface = linker.instance(&format!("wasi:cli/terminal-{direction}@{VERSION}"))?;
        interface.resource(&format!("terminal-{direction}"), ResourceType::host::<Terminal>(), |_, _| Ok(()))?;
    }
    for stream in ["stdin", "stdout", "stderr"] {
        let mut interface = linker.instance(&format!("wasi:cli/terminal-{stream}@{VERSION}"))?;
        let function = format!("get-terminal-{stream}");
        interface.func_wrap(&function, |_: StoreContextMut<'_, Sandbox>, (): ()| {
            Ok((Option::<Resource<Terminal>>::None,))
        })?;
    }
    Ok(())
}

/// Rings at an instant of robot time.
struct Alarm {
    context: Arc<Call>,
    until_ns: u64,
    tape: Option<(Arc<Tape>, u64)>,
    /// It counts as one as long as it is there.
    _call: Slot,
}

#[async_trait]
impl Pollable for Alarm {
    async fn ready(&mut self) {
        let Self { context, until_ns, .. } = &*self;
        context.called();
        let (_, waited) = awaited(async {
            // Whoever only asks whether it rings polls this once and drops it. The control loop hears nothing of that.
            if !has_come(context, *until_ns) {
                pend_once().await;
            }
            // A robot whose time has ended wakes its sleepers.
            wait(context, *until_ns).await
        })
        .await;
        if let Some((tape, number)) = &self.tape {
            tape.rang(*number, waited);
        }
    }
}

/// Is pending for one poll, and asks for the next.
async fn pend_once() {
    let mut pended = false;
    poll_fn(|context| {
        if std::mem::replace(&mut pended, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Standard input: at its end.
struct Nothing;

#[async_trait]
impl Pollable for Nothing {
    async fn ready(&mut self) {}
}

#[async_trait]
impl InputStream for Nothing {
    fn read(&mut self, _: usize) -> Result<Bytes, StreamError> {
        Err(StreamError::Closed)
    }
}

/// Cuts what a run writes into lines, reports them, and keeps the last for the report of a crash.
#[derive(Clone)]
pub(crate) struct Log(Arc<Mutex<Lines>>);

struct Lines {
    said: Box<dyn Fn(String) + Send>,
    /// Bytes that may still be written.
    left: u64,
    unfinished: Vec<u8>,
    last: VecDeque<String>,
}

/// Lines that are kept for the report of a crash: a panic of Rust takes three.
const KEPT_LINES: usize = 3;

impl Log {
    fn new(left: u64, said: Box<dyn Fn(String) + Send>) -> Self {
        Self(Arc::new(Mutex::new(Lines { said, left, unfinished: Vec::new(), last: VecDeque::new() })))
    }

    /// The last lines that were written, finished or not, as one.
    pub fn last(&self) -> Option<String> {
        let mut lines = self.0.lock();
        if !lines.unfinished.is_empty() {
            lines.finish();
        }
        let last: Vec<_> = lines.last.iter().map(String::as_str).collect();
        (!last.is_empty()).then(|| last.join(" | "))
    }

    /// Takes so much of what may be written. False: there is not so much left.
    pub fn spend(&self, bytes: u64) -> bool {
        let mut lines = self.0.lock();
        let left = lines.left.checked_sub(bytes);
        lines.left = left.unwrap_or(lines.left);
        left.is_some()
    }
}

impl Lines {
    fn write(&mut self, bytes: &[u8]) {
        if self.left == 0 {
            return;
        }
        let taken = (bytes.len() as u64).min(self.left);
        self.left -= taken;
        for &byte in &bytes[..taken as usize] {
            if byte != b'\n' {
                self.unfinished.push(byte);
            }
            if byte == b'\n' || self.unfinished.len() >= LONGEST_LINE {
                self.finish();
            }
        }
        if self.left == 0 {
            self.unfinished.extend(b"(the skill's log is full; it is not kept any further)");
            self.finish();
        }
    }

    fn finish(&mut self) {
        let line = String::from_utf8_lossy(&self.unfinished).into_owned();
        self.unfinished.clear();
        if self.last.len() == KEPT_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line.clone());
        (self.said)(line);
    }
}

#[async_trait]
impl Pollable for Log {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for Log {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.0.lock().write(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(64 << 10)
    }
}
