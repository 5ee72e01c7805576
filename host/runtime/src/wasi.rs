//! The little of WASI 0.2 that a skill gets: clocks, random numbers, standard output and error. No files, no sockets, no
//! arguments, no environment.
//!
//! The monotonic clock is robot time and random numbers come from the run's seed, so that a run repeats under lockstep.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceTable, ResourceType};
use wasmtime_wasi_io::bytes::Bytes;
use wasmtime_wasi_io::poll::{Pollable, subscribe};
use wasmtime_wasi_io::streams::{DynInputStream, DynOutputStream, InputStream, OutputStream, StreamError};
use wasmtime_wasi_io::{IoView, async_trait};

use crate::calls::{Context, Run};
use crate::event::Event;

/// Of the interfaces; the linker takes any 0.2 for it.
const VERSION: &str = "0.2.6";

/// The most random bytes in one call.
const MOST_RANDOM_BYTES: u64 = 1 << 20;

/// The longest line that is logged as one.
const LONGEST_LINE: usize = 4096;

/// What a run's WASI calls work on.
pub(crate) struct Wasi {
    log: Log,
    random: ChaCha8Rng,
}

impl Wasi {
    pub fn new(context: Arc<Context>) -> Self {
        Self { random: ChaCha8Rng::seed_from_u64(context.seed), log: Log::new(context) }
    }

    /// Where its standard output and error go.
    pub fn log(&self) -> Log {
        self.log.clone()
    }
}

impl IoView for Run {
    fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }
}

/// Terminals that no skill has.
struct Terminal;

/// Links everything that this module's description names.
pub(crate) fn link(linker: &mut Linker<Run>) -> wasmtime::Result<()> {
    wasmtime_wasi_io::add_to_linker_async(linker)?;
    link_random(linker, |run: &mut Run| &mut run.wasi.random)?;
    link_clocks(linker)?;
    link_cli(linker)
}

/// Links random numbers, which a toolchain's hash tables want even in a controller.
pub(crate) fn link_random<T: 'static>(
    linker: &mut Linker<T>,
    random: fn(&mut T) -> &mut ChaCha8Rng,
) -> wasmtime::Result<()> {
    let bytes = move |mut store: StoreContextMut<'_, T>, (count,): (u64,)| {
        if count > MOST_RANDOM_BYTES {
            return Err(wasmtime::Error::msg(format!("{count} random bytes are more than {MOST_RANDOM_BYTES}")));
        }
        let mut bytes = vec![0; count as usize];
        random(store.data_mut()).fill_bytes(&mut bytes);
        Ok((bytes,))
    };
    let number = move |mut store: StoreContextMut<'_, T>, (): ()| Ok((random(store.data_mut()).next_u64(),));
    let mut interface = linker.instance(&format!("wasi:random/random@{VERSION}"))?;
    interface.func_wrap("get-random-bytes", bytes)?;
    interface.func_wrap("get-random-u64", number)?;
    let mut interface = linker.instance(&format!("wasi:random/insecure@{VERSION}"))?;
    interface.func_wrap("get-insecure-random-bytes", bytes)?;
    interface.func_wrap("get-insecure-random-u64", number)?;
    let mut interface = linker.instance(&format!("wasi:random/insecure-seed@{VERSION}"))?;
    interface.func_wrap("insecure-seed", move |mut store: StoreContextMut<'_, T>, (): ()| {
        let random = random(store.data_mut());
        Ok(((random.next_u64(), random.next_u64()),))
    })
}

fn link_clocks(linker: &mut Linker<Run>) -> wasmtime::Result<()> {
    let now_ns = |run: &Run| {
        let robot = &run.context.site.robot;
        robot.tick_ns(robot.tick())
    };
    let subscribe_to = |run: &mut Run, until_ns: u64| {
        let alarm = run.push(Alarm { context: run.context.clone(), until_ns })?;
        Ok((subscribe(&mut run.table, alarm)?,))
    };
    let mut interface = linker.instance(&format!("wasi:clocks/monotonic-clock@{VERSION}"))?;
    interface.func_wrap("now", move |store: StoreContextMut<'_, Run>, (): ()| Ok((now_ns(store.data()),)))?;
    interface.func_wrap("resolution", |store: StoreContextMut<'_, Run>, (): ()| {
        Ok((store.data().context.site.robot.tick_ns(1),))
    })?;
    interface.func_wrap("subscribe-instant", move |mut store: StoreContextMut<'_, Run>, (until_ns,): (u64,)| {
        subscribe_to(store.data_mut(), until_ns)
    })?;
    interface.func_wrap("subscribe-duration", move |mut store: StoreContextMut<'_, Run>, (span_ns,): (u64,)| {
        let until_ns = now_ns(store.data()).saturating_add(span_ns);
        subscribe_to(store.data_mut(), until_ns)
    })?;
    let mut interface = linker.instance(&format!("wasi:clocks/wall-clock@{VERSION}"))?;
    interface.func_wrap("now", |_: StoreContextMut<'_, Run>, (): ()| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok((Datetime { seconds: now.as_secs(), nanoseconds: now.subsec_nanos() },))
    })?;
    interface
        .func_wrap("resolution", |_: StoreContextMut<'_, Run>, (): ()| Ok((Datetime { seconds: 0, nanoseconds: 1 },)))
}

#[derive(wasmtime::component::ComponentType, wasmtime::component::Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

fn link_cli(linker: &mut Linker<Run>) -> wasmtime::Result<()> {
    let mut interface = linker.instance(&format!("wasi:cli/environment@{VERSION}"))?;
    interface
        .func_wrap("get-environment", |_: StoreContextMut<'_, Run>, (): ()| Ok((Vec::<(String, String)>::new(),)))?;
    interface.func_wrap("get-arguments", |_: StoreContextMut<'_, Run>, (): ()| Ok((Vec::<String>::new(),)))?;
    interface.func_wrap("initial-cwd", |_: StoreContextMut<'_, Run>, (): ()| Ok((Option::<String>::None,)))?;
    let mut interface = linker.instance(&format!("wasi:cli/exit@{VERSION}"))?;
    interface.func_wrap("exit", |_: StoreContextMut<'_, Run>, (_,): (Result<(), ()>,)| -> wasmtime::Result<()> {
        Err(wasmtime::Error::msg("it called exit; a skill returns from `run` instead"))
    })?;
    let mut interface = linker.instance(&format!("wasi:cli/stdin@{VERSION}"))?;
    interface.func_wrap("get-stdin", |mut store: StoreContextMut<'_, Run>, (): ()| {
        let stream: DynInputStream = Box::new(Nothing);
        Ok((store.data_mut().push(stream)?,))
    })?;
    for (interface, function) in [("stdout", "get-stdout"), ("stderr", "get-stderr")] {
        let mut interface = linker.instance(&format!("wasi:cli/{interface}@{VERSION}"))?;
        interface.func_wrap(function, |mut store: StoreContextMut<'_, Run>, (): ()| {
            let stream: DynOutputStream = Box::new(store.data().wasi.log());
            Ok((store.data_mut().push(stream)?,))
        })?;
    }
    for direction in ["input", "output"] {
        let mut interface = linker.instance(&format!("wasi:cli/terminal-{direction}@{VERSION}"))?;
        interface.resource(&format!("terminal-{direction}"), ResourceType::host::<Terminal>(), |_, _| Ok(()))?;
    }
    for stream in ["stdin", "stdout", "stderr"] {
        let mut interface = linker.instance(&format!("wasi:cli/terminal-{stream}@{VERSION}"))?;
        let function = format!("get-terminal-{stream}");
        interface
            .func_wrap(&function, |_: StoreContextMut<'_, Run>, (): ()| Ok((Option::<Resource<Terminal>>::None,)))?;
    }
    Ok(())
}

/// Rings at an instant of robot time.
struct Alarm {
    context: Arc<Context>,
    until_ns: u64,
}

#[async_trait]
impl Pollable for Alarm {
    async fn ready(&mut self) {
        // A robot whose time has ended wakes its sleepers.
        let _ = crate::calls::wait(&self.context, self.until_ns).await;
    }
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
    context: Arc<Context>,
    /// Bytes that may still be written.
    left: u64,
    unfinished: Vec<u8>,
    last: VecDeque<String>,
}

/// Lines that are kept for the report of a crash: a panic of Rust takes three.
const KEPT_LINES: usize = 3;

impl Log {
    fn new(context: Arc<Context>) -> Self {
        let left = context.site.options.budgets.log_bytes;
        Self(Arc::new(Mutex::new(Lines { context, left, unfinished: Vec::new(), last: VecDeque::new() })))
    }

    /// The last lines that were written, finished or not, as one.
    pub fn last(&self) -> Option<String> {
        let mut lines = self.lock();
        if !lines.unfinished.is_empty() {
            lines.finish();
        }
        let last: Vec<_> = lines.last.iter().map(String::as_str).collect();
        (!last.is_empty()).then(|| last.join(" | "))
    }

    /// Takes so much of what may be written. False: there is not so much left.
    pub fn spend(&self, bytes: u64) -> bool {
        let mut lines = self.lock();
        let left = lines.left.checked_sub(bytes);
        lines.left = left.unwrap_or(lines.left);
        left.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        // A listener that panics ends the run; what is here then is only a line of log.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        tracing::info!(skill = %self.context.skill.manifest.id, "{line}");
        if self.last.len() == KEPT_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line.clone());
        (self.context.events)(Event::Log { line });
    }
}

#[async_trait]
impl Pollable for Log {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for Log {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.lock().write(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(64 << 10)
    }
}
