//! What is measured on: the bundled model on the CPU, a robot in real time, and the runtime's own test skills.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use waza_model::{Broker, Checkpoint, Device, ModelHandle, Policy};
use waza_robot::sim::arm;
use waza_robot::{Embodiment, Guard, Link, Pace, Robot, RobotOptions};
use waza_runtime::{Host, HostOptions, Layout};
use waza_toolchain::Build;

/// What hosts are made of.
pub struct Stage {
    pub embodiment: Arc<Embodiment>,
    pub model: ModelHandle,
}

impl Stage {
    /// Loads the model.
    pub fn open() -> Result<Self> {
        doing("loading the model");
        let model = Broker::start(|| Ok(Policy::new(&Checkpoint::open(&checkpoint())?, Device::Cpu)?.into()))?;
        Ok(Self { embodiment: Arc::new(Embodiment::so101()), model })
    }

    /// A host for a fresh robot behind this link.
    pub fn host(&self, link: impl Link + 'static, host: HostOptions) -> Result<Host> {
        let options = RobotOptions { pace: Pace::RealTime, kinematics: Box::new(arm::tool_position), guard: Guard::On };
        let robot = Robot::start(self.embodiment.clone(), Box::new(link), options).context("starting the robot")?;
        // The guests lie where their build has left them.
        let host = HostOptions { layout: Layout::BuildTree, ..host };
        Ok(Host::new(robot, self.model.clone(), host)?)
    }
}

/// Says on stderr what takes its time.
pub fn doing(what: &str) {
    eprintln!("{what}");
}

fn host() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// The bundled checkpoint.
pub fn checkpoint() -> PathBuf {
    host().join("model/checkpoints/tabletop")
}

/// The workspace of the runtime's own test skills.
pub fn guests() -> PathBuf {
    host().join("runtime/tests/guests")
}

/// The component of one of them that was built.
pub fn component(guest: &str) -> PathBuf {
    guests().join("target").join(waza_toolchain::TARGET).join("release").join(guest).with_extension("wasm")
}

/// Builds some of them.
pub fn build_guests(what: Build<'_>) -> Result<()> {
    doing("building the skills");
    waza_toolchain::build(&guests(), what, |_| ())?;
    Ok(())
}
