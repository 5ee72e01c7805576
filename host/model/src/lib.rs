//! Loads a foundation model checkpoint and runs it, on wgpu or on the CPU.

pub mod architecture;
pub mod checkpoint;
pub mod executor;
pub mod plan;
mod tensors;
#[cfg(feature = "gpu")]
pub mod wgpu;

pub use checkpoint::CheckpointError;
