//! Loads a foundation model checkpoint and runs it, on wgpu or on the CPU.

pub mod architecture;
pub mod bench;
pub mod broker;
mod checkpoint;
pub mod cpu;
mod device;
pub mod executor;
mod image;
mod info;
mod noise;
pub mod plan;
mod policy;
mod tensors;
pub mod verify;
#[cfg(feature = "gpu")]
pub mod wgpu;

pub use broker::{Broker, ModelHandle};
pub use checkpoint::{Card, Checkpoint, CheckpointError, InstructionError, Misshapen, TensorMismatch};
pub use device::{Device, UnknownDevice};
pub use image::{Image, ImageError};
pub use info::Info;
pub use policy::{Ability, About, Actions, ModelError, Noise, Policy, Query};
