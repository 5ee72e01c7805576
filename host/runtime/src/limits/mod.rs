//! What a run may use, and the parts that count it.

pub(crate) mod memory;
pub(crate) mod rate;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cpu_time::ThreadTime;
use memory::{HostMemory, Share};
use wasmtime::ResourceLimiter;
use waza_package::MemoryLimits;

/// What one run of a skill may use.
///
/// Rates are of robot time, which under lockstep stands still while a skill thinks. A budget ends the run with
/// [`SkillError::Exhausted`](crate::SkillError), but where "refused" is said: there the call that is one too many ends with
/// the contract's `exhausted`, which names the budget and its limit, and the run goes on.
///
/// What no budget bounds: clocks. A skill can read robot time, and the wall clock to the nanosecond, and so see how long
/// other work keeps the machine's cores, caches and model busy; two skills that agree on it can pass bits that way without
/// any permission. Withholding clocks would not end it, for a loop is a clock too. What it can carry stays bounded by
/// `cpu_time` and `model_requests_per_s`, and it ends in another skill, not outside: no skill has files or sockets.
#[derive(Debug, Clone, PartialEq)]
pub struct Budgets {
    /// CPU time of the skill between two moments at which it waits for the host. Time in which it waits, for the model
    /// or the robot, does not count, however long. 2 s.
    pub cpu_burst: Duration,
    /// CPU time of the skill from start to end: who waits a nanosecond between bursts cannot keep a core for ever. 60 s.
    pub cpu_time: Duration,
    /// Robot time from start to end. 600 s.
    pub run_time: Duration,
    /// All linear memories together, bytes. 256 MiB.
    pub memory_bytes: usize,
    /// Elements of all tables together. 1 Mi.
    pub table_elements: usize,
    /// Observations, chunks, leases and other handles of the host's that it holds at once. 1024. Of handles of all kinds,
    /// which streams, subtasks and resources of its own have too, it may hold four times as many.
    pub handles: usize,
    /// Memory of the host's that its observations and chunks keep, bytes. 256 MiB.
    pub held_bytes: usize,
    /// Calls that it waits for, alarms, streams, rollouts and engaged controllers, at once. 256; more are refused, and an
    /// alarm that is one too many ends the run.
    pub calls: usize,
    /// What one call hands to the host, and what a run returns, bytes. 2 MiB.
    pub call_bytes: usize,
    /// What calls hand to the host and what they answer, bytes a second. 256 MiB; more is refused until time has passed,
    /// and ends the run in a call that cannot be refused.
    pub bytes_per_s: u32,
    /// Requests to the model a second, those of rollouts included. 50; more are refused until time has passed.
    pub model_requests_per_s: u32,
    /// What it writes to standard output and error and reports as progress, bytes. 1 MiB; more is dropped.
    pub log_bytes: u64,
    /// Skills that invoke skills that invoke skills. 8; deeper is refused.
    pub invoke_depth: u32,
    /// Runs that it and everything it invoked wait for at once. 16; more are refused.
    pub invocations: usize,
}

impl Default for Budgets {
    fn default() -> Self {
        Self {
            cpu_burst: Duration::from_secs(2),
            cpu_time: Duration::from_secs(60),
            run_time: Duration::from_secs(600),
            memory_bytes: 256 << 20,
            table_elements: 1 << 20,
            handles: 1024,
            held_bytes: 256 << 20,
            calls: 256,
            call_bytes: 2 << 20,
            bytes_per_s: 256 << 20,
            model_requests_per_s: 50,
            log_bytes: 1 << 20,
            invoke_depth: 8,
            invocations: 16,
        }
    }
}

impl Budgets {
    /// What a component may declare.
    pub(crate) fn memory(&self) -> MemoryLimits {
        MemoryLimits { memory_bytes: self.memory_bytes, table_elements: self.table_elements }
    }
}

/// Which of the budgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// [`Budgets::cpu_burst`].
    CpuBurst,
    /// [`Budgets::cpu_time`].
    CpuTime,
    /// [`Budgets::run_time`].
    RunTime,
    /// [`Budgets::memory_bytes`].
    Memory,
    /// [`Budgets::table_elements`].
    Tables,
    /// [`Budgets::handles`].
    Handles,
    /// [`Budgets::held_bytes`].
    Held,
    /// [`Budgets::calls`].
    Calls,
    /// [`Budgets::call_bytes`].
    CallBytes,
    /// [`Budgets::bytes_per_s`].
    Bytes,
    /// [`Budgets::model_requests_per_s`].
    ModelRequests,
    /// [`Budgets::invoke_depth`].
    InvokeDepth,
    /// [`Budgets::invocations`].
    Invocations,
    /// [`HostOptions::memory_bytes`](crate::HostOptions::memory_bytes): all runs together.
    HostMemory,
    /// A controller's share of a control period.
    Tick,
}

impl fmt::Display for Budget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::CpuBurst => "the CPU time between two waits",
            Self::CpuTime => "the CPU time of a run",
            Self::RunTime => "the time for a run",
            Self::Memory => "the memory",
            Self::Tables => "the tables",
            Self::Handles => "the number of handles",
            Self::Held => "the host's memory behind handles",
            Self::Calls => "the number of calls and streams at once",
            Self::CallBytes => "the size of one call",
            Self::Bytes => "the traffic of calls",
            Self::ModelRequests => "the number of requests to the model",
            Self::InvokeDepth => "the depth of skills that invoke each other",
            Self::Invocations => "the number of invoked runs at once",
            Self::HostMemory => "the host's memory for runs",
            Self::Tick => "the time for one call of a controller",
        })
    }
}

/// A budget and its limit.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{budget} is used up (limit: {limit})")]
pub struct Exhausted {
    /// Which.
    pub budget: Budget,
    /// With its unit.
    pub limit: String,
}

impl Exhausted {
    pub(crate) fn time(budget: Budget, limit: Duration) -> Self {
        Self { budget, limit: format!("{limit:?}") }
    }
}

/// Handles of all kinds that a run may hold, for one of the host's.
pub(crate) const KINDS_OF_HANDLES: usize = 4;

/// The CPU time of a skill on its run's thread: since it last waited, and since it began. A thread's CPU clock stands still
/// while the thread waits, and other threads do not advance it.
#[derive(Clone)]
pub(crate) struct CpuClock(Arc<Since>);

struct Since {
    /// Of the thread's CPU time, ns: moved on by what does not count.
    waited: AtomicU64,
    began: AtomicU64,
    /// What had been used when the clock was paused, ns.
    used: AtomicU64,
}

/// Begins both times, on this thread.
impl Default for CpuClock {
    fn default() -> Self {
        let now = thread_ns();
        Self(Arc::new(Since { waited: AtomicU64::new(now), began: AtomicU64::new(now), used: AtomicU64::new(0) }))
    }
}

impl CpuClock {
    /// Begins both times anew, of this thread: the one on which the skill works from here on.
    pub fn start(&self) {
        let now = thread_ns();
        self.0.waited.store(now, Ordering::Relaxed);
        self.0.began.store(now, Ordering::Relaxed);
    }

    /// The skill has waited: its time between two waits begins anew. On the run's own thread.
    pub fn begin(&self) {
        self.0.waited.store(thread_ns(), Ordering::Relaxed);
    }

    /// What the thread does from here on is somebody else's. On the run's own thread.
    pub fn pause(&self) {
        let used = thread_ns().saturating_sub(self.0.began.load(Ordering::Relaxed));
        self.0.used.store(used, Ordering::Relaxed);
    }

    /// The skill goes on after [`CpuClock::pause`]. On the run's own thread.
    pub fn resume(&self) {
        let now = thread_ns();
        self.0.waited.store(now, Ordering::Relaxed);
        self.0.began.store(now.saturating_sub(self.0.used.load(Ordering::Relaxed)), Ordering::Relaxed);
    }

    /// On the run's own thread.
    pub fn check(&self, budgets: &Budgets) -> Result<(), Exhausted> {
        let now = thread_ns();
        let over = |since: &AtomicU64, limit: Duration| {
            u128::from(now.saturating_sub(since.load(Ordering::Relaxed))) > limit.as_nanos()
        };
        if over(&self.0.waited, budgets.cpu_burst) {
            return Err(Exhausted::time(Budget::CpuBurst, budgets.cpu_burst));
        }
        if over(&self.0.began, budgets.cpu_time) {
            return Err(Exhausted::time(Budget::CpuTime, budgets.cpu_time));
        }
        Ok(())
    }

    /// Does work of the host's on the run's thread, uncounted.
    pub fn uncounted<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = thread_ns();
        let done = work();
        let spent = thread_ns().saturating_sub(before);
        self.0.waited.fetch_add(spent, Ordering::Relaxed);
        self.0.began.fetch_add(spent, Ordering::Relaxed);
        done
    }
}

fn thread_ns() -> u64 {
    u64::try_from(ThreadTime::now().as_duration().as_nanos()).unwrap_or(u64::MAX)
}

/// Ends a run that grows its memories or tables, or what the host keeps for it, past its budget.
pub(crate) struct Growth {
    memory_bytes: usize,
    memory_limit: usize,
    table_elements: usize,
    table_limit: usize,
    held_bytes: usize,
    held_limit: usize,
    /// Of the memory that all runs have together.
    share: Share,
}

impl Growth {
    pub fn new(budgets: &Budgets, memory: &HostMemory) -> Self {
        Self {
            share: memory.share(),
            memory_bytes: 0,
            memory_limit: budgets.memory_bytes,
            table_elements: 0,
            table_limit: budgets.table_elements,
            held_bytes: 0,
            held_limit: budgets.held_bytes,
        }
    }

    /// The host keeps so much more for a handle of the run's.
    pub fn hold(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let held = self.held_bytes.saturating_add(bytes);
        if held > self.held_limit {
            return Err(Exhausted { budget: Budget::Held, limit: mebibytes(self.held_limit) });
        }
        self.take(bytes)?;
        self.held_bytes = held;
        Ok(())
    }

    /// What was held is given up.
    pub fn release(&mut self, bytes: usize) {
        let bytes = bytes.min(self.held_bytes);
        self.held_bytes -= bytes;
        self.share.shrink(bytes);
    }

    fn take(&mut self, bytes: usize) -> Result<(), Exhausted> {
        if self.share.grow(bytes) {
            return Ok(());
        }
        Err(Exhausted { budget: Budget::HostMemory, limit: self.share.limit() })
    }
}

pub(crate) fn mebibytes(bytes: usize) -> String {
    format!("{} MiB", bytes >> 20)
}

impl ResourceLimiter for Growth {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.memory_bytes = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        if self.memory_bytes > self.memory_limit {
            let limit = mebibytes(self.memory_limit);
            return Err(wasmtime::Error::new(Exhausted { budget: Budget::Memory, limit }));
        }
        self.take(desired.saturating_sub(current)).map_err(wasmtime::Error::new)?;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.table_elements = self.table_elements.saturating_add(desired.saturating_sub(current));
        if self.table_elements > self.table_limit {
            let limit = format!("{} elements", self.table_limit);
            return Err(wasmtime::Error::new(Exhausted { budget: Budget::Tables, limit }));
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(clock: &CpuClock, cpu_burst_ms: u64, cpu_time_ms: u64) -> Option<(Budget, String)> {
        let [cpu_burst, cpu_time] = [cpu_burst_ms, cpu_time_ms].map(Duration::from_millis);
        let checked = clock.check(&Budgets { cpu_burst, cpu_time, ..Budgets::default() });
        checked.err().map(|over| (over.budget, over.limit))
    }

    #[test]
    fn waiting_and_the_hosts_own_work_do_not_count_as_a_burst() {
        let clock = CpuClock::default();
        std::thread::sleep(Duration::from_millis(60));
        clock.uncounted(|| spin(Duration::from_millis(60)));
        assert_eq!(over(&clock, 40, 40), None);
        spin(Duration::from_millis(60));
        assert_eq!(over(&clock, 40, 40), Some((Budget::CpuBurst, "40ms".into())));
    }

    #[test]
    fn many_short_bursts_use_up_the_time_of_the_run() {
        let clock = CpuClock::default();
        for _ in 0..3 {
            clock.begin();
            spin(Duration::from_millis(20));
        }
        assert_eq!(over(&clock, 40, 50), Some((Budget::CpuTime, "50ms".into())));
        assert_eq!(over(&clock, 40, 500), None);
    }

    #[test]
    fn what_another_does_on_the_thread_while_the_clock_is_paused_does_not_count() {
        let clock = CpuClock::default();
        spin(Duration::from_millis(20));
        clock.pause();
        spin(Duration::from_millis(60));
        clock.resume();
        assert_eq!(over(&clock, 40, 50), None);
        spin(Duration::from_millis(35));
        assert_eq!(over(&clock, 40, 50), Some((Budget::CpuTime, "50ms".into())));
    }

    #[test]
    fn a_clock_that_was_made_on_another_thread_counts_from_its_start_on_this_one() {
        spin(Duration::from_millis(60));
        let clock = std::thread::spawn(CpuClock::default).join().unwrap();
        assert!(over(&clock, 40, 40).is_some(), "the clocks of two threads have nothing to do with each other");
        clock.start();
        assert_eq!(over(&clock, 40, 40), None);
    }

    #[test]
    fn what_the_host_keeps_is_bounded_and_given_back() {
        let mut growth = Growth::new(&Budgets { held_bytes: 2 << 20, ..Budgets::default() }, &HostMemory::of_one());
        assert_eq!(growth.hold(2 << 20), Ok(()));
        let error = growth.hold(1).unwrap_err();
        assert_eq!((error.budget, error.limit.as_str()), (Budget::Held, "2 MiB"));
        growth.release(1 << 20);
        assert_eq!(growth.hold(1 << 20), Ok(()));
    }

    fn spin(cpu: Duration) {
        let end = ThreadTime::now();
        while end.elapsed() < cpu {}
    }

    #[test]
    fn several_memories_share_one_budget_and_several_tables_another() {
        let mut growth = Growth::new(&Budgets { memory_bytes: 2 << 20, ..Budgets::default() }, &HostMemory::of_one());
        assert!(growth.memory_growing(0, 1 << 20, None).unwrap());
        assert!(growth.memory_growing(0, 1 << 20, None).unwrap());
        let error = growth.memory_growing(0, 1, None).unwrap_err();
        assert_eq!(error.downcast_ref::<Exhausted>().unwrap().budget, Budget::Memory);
        let mut growth = Growth::new(&Budgets { table_elements: 200, ..Budgets::default() }, &HostMemory::of_one());
        assert!(growth.table_growing(0, 100, None).unwrap() && growth.table_growing(100, 200, None).unwrap());
        let error = growth.table_growing(0, 1, None).unwrap_err();
        assert_eq!(error.downcast_ref::<Exhausted>().unwrap().budget, Budget::Tables);
    }
}
