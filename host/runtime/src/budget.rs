//! What a run may use, and the parts that count it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cpu_time::ThreadTime;
use wasmtime::ResourceLimiter;

use crate::error::Exhausted;

/// What one run of a skill may use.
#[derive(Debug, Clone, PartialEq)]
pub struct Budgets {
    /// CPU time of the skill between two moments at which it waits for the host. Time in which it waits, for the model
    /// or the robot, does not count, however long.
    pub cpu_burst: Duration,
    /// Robot time from start to end.
    pub run_time: Duration,
    /// All linear memories together, bytes.
    pub memory_bytes: usize,
    /// Elements of all tables together.
    pub table_elements: usize,
    /// Observations, chunks, leases and other handles that it holds at once.
    pub handles: usize,
    /// What it writes to standard output and error, bytes; more is dropped.
    pub log_bytes: u64,
    /// Skills that invoke skills that invoke skills.
    pub invoke_depth: u32,
}

impl Default for Budgets {
    fn default() -> Self {
        Self {
            cpu_burst: Duration::from_secs(2),
            run_time: Duration::from_secs(600),
            memory_bytes: 256 << 20,
            table_elements: 1 << 20,
            handles: 1024,
            log_bytes: 1 << 20,
            invoke_depth: 8,
        }
    }
}

/// Which of the budgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// [`Budgets::cpu_burst`].
    CpuBurst,
    /// [`Budgets::run_time`].
    RunTime,
    /// [`Budgets::memory_bytes`].
    Memory,
    /// [`Budgets::table_elements`].
    Tables,
    /// [`Budgets::handles`].
    Handles,
    /// A controller's share of a control period.
    Tick,
}

impl fmt::Display for Budget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::CpuBurst => "the CPU time between two waits",
            Self::RunTime => "the time for a run",
            Self::Memory => "the memory",
            Self::Tables => "the tables",
            Self::Handles => "the number of handles",
            Self::Tick => "the time for one call of a controller",
        })
    }
}

/// The CPU time of a run's thread since it last waited. A thread's CPU clock stands still while the thread waits, and
/// other threads do not advance it.
#[derive(Clone, Default)]
pub(crate) struct Burst(Arc<AtomicU64>);

impl Burst {
    /// The skill has waited: its time begins anew. On the run's own thread.
    pub fn begin(&self) {
        self.0.store(thread_ns(), Ordering::Relaxed);
    }

    /// On the run's own thread.
    pub fn check(&self, limit: Duration) -> Result<(), Exhausted> {
        let used = thread_ns().saturating_sub(self.0.load(Ordering::Relaxed));
        if u128::from(used) <= limit.as_nanos() { Ok(()) } else { Err(Exhausted::time(Budget::CpuBurst, limit)) }
    }

    /// Does work of the host's on the run's thread, uncounted.
    pub fn uncounted<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = thread_ns();
        let done = work();
        self.0.fetch_add(thread_ns().saturating_sub(before), Ordering::Relaxed);
        done
    }
}

fn thread_ns() -> u64 {
    u64::try_from(ThreadTime::now().as_duration().as_nanos()).unwrap_or(u64::MAX)
}

/// Ends a run that grows its memories or tables past its budget.
pub(crate) struct Growth {
    memory_bytes: usize,
    memory_limit: usize,
    table_elements: usize,
    table_limit: usize,
}

impl Growth {
    pub fn new(budgets: &Budgets) -> Self {
        Self {
            memory_bytes: 0,
            memory_limit: budgets.memory_bytes,
            table_elements: 0,
            table_limit: budgets.table_elements,
        }
    }
}

impl ResourceLimiter for Growth {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.memory_bytes = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        if self.memory_bytes > self.memory_limit {
            let limit = format!("{} MiB", self.memory_limit >> 20);
            return Err(wasmtime::Error::new(Exhausted { budget: Budget::Memory, limit }));
        }
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

    #[test]
    fn waiting_and_the_hosts_own_work_do_not_count_as_a_burst() {
        let burst = Burst::default();
        burst.begin();
        std::thread::sleep(Duration::from_millis(60));
        burst.uncounted(|| spin(Duration::from_millis(60)));
        assert_eq!(burst.check(Duration::from_millis(40)), Ok(()));
        spin(Duration::from_millis(60));
        let over = burst.check(Duration::from_millis(40)).unwrap_err();
        assert_eq!((over.budget, over.limit.as_str()), (Budget::CpuBurst, "40ms"));
    }

    fn spin(cpu: Duration) {
        let end = ThreadTime::now();
        while end.elapsed() < cpu {}
    }

    #[test]
    fn several_memories_share_one_budget() {
        let mut growth = Growth::new(&Budgets { memory_bytes: 2 << 20, ..Budgets::default() });
        assert!(growth.memory_growing(0, 1 << 20, None).unwrap());
        assert!(growth.memory_growing(0, 1 << 20, None).unwrap());
        let error = growth.memory_growing(0, 1, None).unwrap_err();
        assert_eq!(error.downcast_ref::<Exhausted>().unwrap().budget, Budget::Memory);
    }
}
