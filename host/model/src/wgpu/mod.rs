//! The executor for GPUs: hand-written WGSL over wgpu.
//!
//! [`Gpu::open`] picks an adapter; [`WgpuExecutor`] loads weights onto it and runs plans. Inside, each op of a plan is
//! lowered to one dispatch (`lower.rs`), small ones together with the next (`fuse.rs`), of a specialised kernel (`kernels.rs`,
//! `shaders/`), which is compiled once (`pipelines.rs`); all dispatches of a plan are bound once (`executor.rs`), and a run is
//! one compute pass.

mod device;
mod executor;
mod fuse;
mod kernels;
mod lower;
mod pipelines;

pub use device::{Adapters, Gpu};
pub use executor::{WeightsError, WgpuExecutor};

#[cfg(test)]
mod tests;
