//! What runs a plan.

use crate::plan::{Layout, Plan, View};

/// Runs plans of one network, whose weights it owns. Implemented by [`crate::cpu::CpuExecutor`] and, with the feature
/// `gpu`, by the wgpu executor.
pub trait Executor: Send {
    /// What it runs on, for people: `cpu (2 threads)`, or the name of the adapter.
    fn device(&self) -> &str;

    /// Writes `inputs`, runs the ops of `plan` in order, reads `outputs`.
    ///
    /// The numbers of a view are dense, row by row (`rows * columns`). What an executor prepares for a plan it keeps by
    /// [`Plan::layout`], until [`Executor::forget`]. A device may still be at work when this returns, unless there is an
    /// output to the host.
    ///
    /// # Errors
    /// If the device fails or is lost.
    fn run(
        &mut self,
        plan: &Plan,
        inputs: &[(View, Source<'_>)],
        outputs: &mut [(View, Target<'_>)],
    ) -> Result<(), ExecutorError>;

    /// Returns once all that was run so far is done.
    ///
    /// # Errors
    /// As [`Executor::run`].
    fn wait(&mut self) -> Result<(), ExecutorError>;

    /// Frees what it keeps for the plans of a layout.
    fn forget(&mut self, layout: Layout);

    /// Whether a plan of several requests takes less time than one of each, one after the other.
    fn gains_in_batches(&self) -> bool {
        false
    }

    /// Loses the device, where that can happen. For tests.
    #[doc(hidden)]
    fn lose(&mut self) {}

    /// From now on gives the device no time at all, as if it hung, where that can happen. For tests.
    #[doc(hidden)]
    fn hang(&mut self) {}

    /// Bytes of weights and buffers that it holds; residents are not counted.
    fn bytes(&self) -> u64;

    /// Dispatches to the device that one run of `plan` takes, where there is such a thing.
    fn dispatches(&self, plan: &Plan) -> Option<usize> {
        let _ = plan;
        None
    }
}

/// Frees what is kept for a plan that had to make room, if one had to.
pub(crate) fn forget(executor: &mut dyn Executor, evicted: Option<Plan>) {
    if let Some(plan) = evicted {
        executor.forget(plan.layout);
    }
}

/// Where the numbers of an input come from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// From the host.
    Host(&'a [f32]),
    /// From an output of the same executor.
    Resident(&'a Resident),
}

/// Where the numbers of an output go.
#[derive(Debug)]
pub enum Target<'a> {
    /// To the host; this waits for the device.
    Host(&'a mut [f32]),
    /// To memory of the device; what is there already is overwritten.
    Resident(&'a mut Option<Resident>),
}

/// Numbers that an executor left on its device, for later runs of any of its plans. Dropping them frees the memory.
#[derive(Debug)]
pub struct Resident {
    pub(crate) numbers: usize,
    pub(crate) memory: Memory,
}

#[derive(Debug)]
pub(crate) enum Memory {
    Host(Vec<f32>),
    #[cfg(feature = "gpu")]
    Device(wgpu::Buffer),
}

impl Resident {
    /// Bytes of the device's memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        4 * self.numbers
    }
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
    /// The device is gone, with all that was on it: the driver was reset, say.
    #[error("{device} was lost: {cause}. It can be opened again")]
    Lost {
        /// The adapter.
        device: String,
        /// What it reported.
        cause: String,
    },
    /// The device does not answer. Whoever frees what is on it may wait for it.
    #[error(
        "{device} has not answered for {seconds} s. It can be opened again; if it hangs again, restart the machine"
    )]
    Hung {
        /// The adapter.
        device: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The device has too little memory.
    #[error("{device} has too little memory: {cause}")]
    Memory {
        /// The adapter.
        device: String,
        /// How much is needed, how much is there, and what would fit.
        cause: String,
    },
}
