//! The two engines, the thread that counts their epochs, and the machine code that they run.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::Component;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::error::PackageError;
use crate::inspect::World;
use crate::size::MemoryLimits;

/// How often a guest is looked at. The control loop of a fast robot ticks once in this time.
pub const EPOCH: Duration = Duration::from_millis(1);

/// Runs that may be in flight at once, on average of one memory and few instances. A place costs address space, and
/// memory only while it is used.
const POOLED_RUNS: u32 = 1100;

/// One engine a world: an asynchronous import makes a whole store refuse synchronous calls.
#[derive(Clone)]
pub struct Engines {
    /// Deliberation: asynchronous, pooled.
    pub skill: Engine,
    /// The control loop: synchronous.
    pub controller: Engine,
    /// What a component may declare.
    pub limits: MemoryLimits,
    /// Ends the epoch thread with the last clone.
    _alive: Arc<()>,
}

impl Engines {
    /// For components that declare no more memory than that.
    ///
    /// # Errors
    /// [`PackageError::Engine`].
    pub fn new(limits: MemoryLimits) -> Result<Self, PackageError> {
        let wrong = |error: wasmtime::Error| PackageError::Engine(format!("{error:#}"));
        let skill = Engine::new(&skill_config(Some(limits.memory_bytes)))
            // A host whose address space is limited has no room for a pool; instances then take longer to make.
            .or_else(|error| {
                tracing::warn!("instances are not pooled: {error:#}");
                Engine::new(&skill_config(None))
            })
            .map_err(wrong)?;
        let controller = Engine::new(&controller_config()).map_err(wrong)?;
        let alive = Arc::new(());
        count_epochs(&skill, &controller, Arc::downgrade(&alive))?;
        Ok(Self { skill, controller, limits, _alive: alive })
    }

    /// That of a world.
    pub fn of(&self, world: World) -> &Engine {
        match world {
            World::Skill => &self.skill,
            World::Controller => &self.controller,
        }
    }

    /// Component instances that exist in the pool; 0 where there is none.
    pub fn instances(&self) -> u64 {
        self.skill.pooling_allocator_metrics().map_or(0, |pool| pool.component_instances())
    }
}

/// An engine that compiles for a world and runs nothing: pools and epochs are not part of the code.
///
/// # Errors
/// [`PackageError::Engine`].
pub fn compiling(world: World) -> Result<Engine, PackageError> {
    let config = match world {
        World::Skill => skill_config(None),
        World::Controller => controller_config(),
    };
    Engine::new(&config).map_err(|error| PackageError::Engine(format!("{error:#}")))
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

fn count_epochs(skill: &Engine, controller: &Engine, alive: std::sync::Weak<()>) -> Result<(), PackageError> {
    let engines = [skill.weak(), controller.weak()];
    let count = move || {
        while alive.strong_count() > 0 {
            std::thread::sleep(EPOCH);
            engines.iter().filter_map(|engine| engine.upgrade()).for_each(|engine| engine.increment_epoch());
        }
    };
    let spawned = std::thread::Builder::new().name("waza-epochs".into()).spawn(count);
    spawned.map(drop).map_err(|error| PackageError::Engine(error.to_string()))
}

/// A compiled component. Its code lies in a file, of which the system keeps in memory what it likes.
#[derive(Clone)]
pub struct Code(Component);

impl Code {
    /// Of a component that was mapped from a file.
    pub fn mapped(component: Component) -> Self {
        Self(component)
    }

    /// To be instantiated.
    pub fn component(&self) -> &Component {
        &self.0
    }

    /// Gives back the memory of the code until it runs again. Whoever runs it meanwhile finds it there: it comes from the
    /// file, or from what the system still has of it.
    pub fn rest(&self) {
        #[cfg(target_os = "linux")]
        {
            let range = self.0.image_range();
            let bytes = range.end.addr() - range.start.addr();
            // SAFETY: the range is that of a private mapping of a whole file, which the component keeps alive. wasmtime makes
            // it read-only before the first use and writes nothing into it, so every page reads back from the file as it
            // was. Where the system refuses, the memory stays taken.
            let _ =
                unsafe { rustix::mm::madvise(range.start.cast_mut().cast(), bytes, rustix::mm::Advice::LinuxDontNeed) };
        }
    }
}
