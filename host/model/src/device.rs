//! Which device runs a model.

use std::fmt;
use std::str::FromStr;

use crate::checkpoint::WeightSource;
use crate::cpu::CpuExecutor;
use crate::error::ModelError;
use crate::executor::Executor;
use crate::plan::Weight;

/// A choice of device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// A real GPU if there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The best adapter that wgpu finds, a software one included.
    Gpu,
}

/// A word that names no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no device. Say auto, cpu or gpu")]
pub struct UnknownDevice(String);

impl FromStr for Device {
    type Err = UnknownDevice;

    fn from_str(word: &str) -> Result<Self, UnknownDevice> {
        match word {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "gpu" => Ok(Self::Gpu),
            other => Err(UnknownDevice(other.to_owned())),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
        })
    }
}

/// Opens `device` and loads weights onto it.
pub(crate) fn open(
    device: Device,
    weights: &[Weight],
    source: &(dyn WeightSource + Sync),
) -> Result<Box<dyn Executor>, ModelError> {
    match device {
        Device::Cpu => cpu(weights, source),
        Device::Gpu => gpu(weights, source, false),
        Device::Auto => match gpu(weights, source, true) {
            Err(ModelError::Executor(_)) => cpu(weights, source),
            opened => opened,
        },
    }
}

fn cpu(weights: &[Weight], source: &(dyn WeightSource + Sync)) -> Result<Box<dyn Executor>, ModelError> {
    Ok(Box::new(CpuExecutor::new(weights, source, crate::cpu::default_threads())?))
}

#[cfg(feature = "gpu")]
fn gpu(weights: &[Weight], source: &(dyn WeightSource + Sync), real: bool) -> Result<Box<dyn Executor>, ModelError> {
    use crate::wgpu::{Adapters, Gpu, WgpuExecutor};

    let gpu = Gpu::open(if real { Adapters::Hardware } else { Adapters::Any })?;
    Ok(Box::new(WgpuExecutor::new(gpu, weights, source)?))
}

#[cfg(not(feature = "gpu"))]
fn gpu(_: &[Weight], _: &(dyn WeightSource + Sync), _: bool) -> Result<Box<dyn Executor>, ModelError> {
    let cause = "this build has no GPU support (feature `gpu`)".to_owned();
    Err(crate::executor::ExecutorError::Unavailable { device: "gpu", cause }.into())
}
