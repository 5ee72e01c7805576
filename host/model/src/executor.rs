//! What runs a plan.

use std::time::Duration;

use crate::plan::{Plan, View};

/// Runs plans of one network, whose weights it owns. Implemented by [`crate::cpu::CpuExecutor`] and, with the feature
/// `gpu`, by the wgpu executor.
pub trait Executor: Send {
    /// What it runs on, for people: `cpu (2 threads)`, or the name of the adapter.
    fn device(&self) -> &str;

    /// Writes `inputs`, runs all sections of `plan` in order, reads `outputs`.
    ///
    /// The numbers of a view are dense, row by row (`rows * columns`). What an executor prepares for a plan it keeps by
    /// [`Plan::shape`], because all plans it is given belong to its own network.
    ///
    /// # Errors
    /// If the device fails or is lost.
    fn run(
        &mut self,
        plan: &Plan,
        inputs: &[(View, &[f32])],
        outputs: &mut [(View, &mut [f32])],
    ) -> Result<Timing, ExecutorError>;
}

/// How long the parts of one run took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// From before the inputs are written until the outputs are read.
    pub total: Duration,
    /// Each section, where the executor can tell them apart.
    pub sections: Option<Sections>,
}

/// How long each section of a plan took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sections {
    /// [`Plan::vision`].
    pub vision: Duration,
    /// [`Plan::prefix`] and [`Plan::invariant`].
    pub prefix: Duration,
    /// [`Plan::steps`].
    pub denoise: Duration,
}

/// A device that could not be opened or did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// There is no such device here.
    #[error("no usable {device}: {cause}. Use `--device cpu`, which is always there")]
    Unavailable {
        /// What was asked for.
        device: &'static str,
        /// Why it cannot be had.
        cause: String,
    },
    /// The device took part of the work and then failed.
    #[error("{device} failed: {cause}. Try again, or use `--device cpu`")]
    Failed {
        /// The adapter.
        device: String,
        /// What it reported.
        cause: String,
    },
}
