//! The two engines and the thread that counts their epochs.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::error::RuntimeError;
use crate::limits::Budgets;

/// How often a guest is looked at. The control loop of a fast robot ticks once in this time.
pub(crate) const EPOCH: Duration = Duration::from_millis(1);

/// Runs that may be in flight at once, on average of one memory and few instances. A place costs address space, and
/// memory only while it is used.
const POOLED_RUNS: u32 = 1100;

/// One engine a world: an asynchronous import makes a whole store refuse synchronous calls.
#[derive(Clone)]
pub(crate) struct Engines {
    /// Deliberation: asynchronous, pooled.
    pub skill: Engine,
    /// The control loop: synchronous.
    pub controller: Engine,
    /// The most that a component may declare of one memory.
    pub memory_bytes: usize,
    /// The most that it may declare of one table.
    pub table_elements: usize,
    /// Ends the epoch thread with the last clone.
    _alive: Arc<()>,
}

impl Engines {
    pub fn new(budgets: &Budgets) -> Result<Self, RuntimeError> {
        let Budgets { memory_bytes, table_elements, .. } = *budgets;
        let wrong = |error: wasmtime::Error| RuntimeError::Engine(format!("{error:#}"));
        let skill = Engine::new(&skill_config(Some(memory_bytes)))
            // A host whose address space is limited has no room for a pool; instances then take longer to make.
            .or_else(|error| {
                tracing::warn!("instances are not pooled: {error:#}");
                Engine::new(&skill_config(None))
            })
            .map_err(wrong)?;
        let controller = Engine::new(&controller_config()).map_err(wrong)?;
        let alive = Arc::new(());
        count_epochs(&skill, &controller, Arc::downgrade(&alive))?;
        Ok(Self { skill, controller, memory_bytes, table_elements, _alive: alive })
    }
}

fn common() -> Config {
    let mut config = Config::new();
    config.wasm_component_model(true).epoch_interruption(true).memory_init_cow(true);
    // It is for debuggers and profilers from outside, and takes 7 % of the compiled code.
    config.native_unwind_info(false);
    config
}

fn skill_config(pooled_memory_bytes: Option<usize>) -> Config {
    let mut config = common();
    config.wasm_component_model_async(true);
    if let Some(bytes) = pooled_memory_bytes {
        let mut pool = PoolingAllocationConfig::default();
        pool.total_component_instances(POOLED_RUNS)
            .total_core_instances(POOLED_RUNS * 8)
            .total_memories(POOLED_RUNS + POOLED_RUNS / 8)
            .total_tables(POOLED_RUNS * 3)
            .total_stacks(POOLED_RUNS * 2)
            // One component must not take the places of many.
            .max_core_instances_per_component(64)
            .max_memories_per_component(8)
            .max_tables_per_component(16)
            .max_memory_size(bytes)
            .table_elements(20_000)
            .linear_memory_keep_resident(256 << 10)
            .table_keep_resident(16 << 10);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    config
}

fn controller_config() -> Config {
    let mut config = common();
    config.concurrency_support(false);
    config
}

fn count_epochs(skill: &Engine, controller: &Engine, alive: std::sync::Weak<()>) -> Result<(), RuntimeError> {
    let engines = [skill.weak(), controller.weak()];
    let count = move || {
        while alive.strong_count() > 0 {
            std::thread::sleep(EPOCH);
            engines.iter().filter_map(|engine| engine.upgrade()).for_each(|engine| engine.increment_epoch());
        }
    };
    let spawned = std::thread::Builder::new().name("waza-epochs".into()).spawn(count);
    spawned.map(drop).map_err(|error| RuntimeError::Engine(error.to_string()))
}
