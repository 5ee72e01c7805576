//! Components to machine code, in this process or in one of its own.
//!
//! Whatever a stranger's bytes do to the parser or the compiler (a stack that overflows, memory and time without end, a fault
//! in the compiler itself) they do to a process that has nothing: no files, no network, a bound on everything. A host that
//! takes packages from others compiles there.

mod confine;
mod process;
mod worker;

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wasmtime::Engine;

pub use worker::work;

use crate::engines::compiling;
use crate::error::{Flaw, PackageError};
use crate::inspect::World;
use crate::size::{self, MemoryLimits};
use crate::source::Source;

/// Memory that compiling one component may take, MiB: more than twice what a Python interpreter takes.
const MEMORY_MIB: u64 = 1024;

/// Machine code of one component, MiB.
const CODE_MIB: u64 = 512;

/// Where components are compiled.
#[derive(Debug, Clone, Default)]
pub enum Compiler {
    /// In this process: for packages of one's own, which bring down what they bring down.
    #[default]
    Here,
    /// In a process of its own for each.
    Process {
        /// A program that calls [`work`].
        program: PathBuf,
        /// What it is started with, before its order.
        arguments: Vec<OsString>,
    },
}

/// How much CPU time compiling may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Patience {
    /// What nearly every component needs, so that those which need more keep nobody waiting.
    Short,
    /// Several times what any useful one needs on a slow machine.
    Long,
}

impl Patience {
    /// For a component of so many bytes.
    fn cpu_time(self, bytes: u64) -> Duration {
        let (base, per_mib) = match self {
            Self::Short => (Duration::from_millis(300), Duration::from_secs(2)),
            Self::Long => (Duration::from_secs(5), Duration::from_secs(5)),
        };
        base + per_mib.mul_f64(bytes as f64 / f64::from(1 << 20))
    }
}

impl Compiler {
    /// Checks and compiles a component into a file, and says for which world. Time is bounded in a process of its own only.
    ///
    /// # Errors
    /// [`PackageError::Component`], with [`Flaw::Costly`] where patience was too short; [`PackageError::Compiler`].
    pub fn compile(
        &self,
        source: &Source,
        limits: MemoryLimits,
        patience: Patience,
        into: &mut File,
    ) -> Result<World, PackageError> {
        let failed =
            |error: std::io::Error| PackageError::Compiler { path: source.path.clone(), what: error.to_string() };
        match self {
            Self::Here => {
                let (world, code) =
                    compile(&source.to_vec()?, limits, compiling)?.map_err(|flaw| flaw.of(&source.path))?;
                into.write_all(&code).map_err(failed)?;
                Ok(world)
            }
            Self::Process { program, arguments } => {
                let bounds = Bounds {
                    cpu_ms: patience.cpu_time(source.bytes()).as_millis() as u64,
                    memory_mib: MEMORY_MIB,
                    code_mib: CODE_MIB,
                };
                let order = Order { limits, bounds };
                let report = process::run(program, arguments, &order, source, into).map_err(failed)?;
                report.map_err(|flaw| flaw.of(&source.path))
            }
        }
    }
}

/// Checks and compiles a component, with the engine of its world.
fn compile<E>(
    bytes: &[u8],
    limits: MemoryLimits,
    engine: impl FnOnce(World) -> Result<Engine, E>,
) -> Result<Result<(World, Vec<u8>), Flaw>, E> {
    let world = match size::check(bytes, limits) {
        Ok(world) => world,
        Err(flaw) => return Ok(Err(flaw)),
    };
    let code = engine(world)?.precompile_component(bytes);
    Ok(code.map(|code| (world, code)).map_err(|error| unusable(&error)))
}

/// What an engine does not take.
pub fn unusable(error: &wasmtime::Error) -> Flaw {
    let cause = format!("{error:#}").replace('\n', " ");
    Flaw::NotAComponent(format!("it is damaged, or more than this host takes ({cause}); build or copy it again"))
}

/// What the compiler's process is told, as its last argument.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Order {
    limits: MemoryLimits,
    bounds: Bounds,
}

/// What it may use up.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Bounds {
    cpu_ms: u64,
    memory_mib: u64,
    code_mib: u64,
}

/// What it says at its end.
type Report = Result<World, Flaw>;

/// How it ends when its time is used up.
const OUT_OF_TIME: u8 = 75;
