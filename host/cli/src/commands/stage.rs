//! What the verbs that run skills share: their options, the built skills, the loaded model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use waza_model::{Broker, Checkpoint, Device, Model, ModelHandle, Policy, Vlm, VlmCheckpoint};
use waza_robot::{Embodiment, Guard, Pace};
use waza_toolchain::{Build, ToolchainError};

use crate::assets::Checkout;
use crate::episode::Stage;
use crate::fault::{BadInput, model_fault};
use crate::lines::plain;
use crate::progress;

use super::said::SaidOptions;

/// Which model answers, and on what.
#[derive(Debug, Args)]
pub struct ModelOptions {
    /// What runs the model: auto (a real GPU if there is one, else the CPU), cpu or gpu.
    #[arg(long, default_value_t)]
    device: Device,
    /// A checkpoint folder; the bundled one if left out.
    #[arg(long)]
    model: Option<PathBuf>,
    /// A folder of a SmolVLM2, for skills that ask questions; none if left out.
    #[arg(long)]
    vlm: Option<PathBuf>,
    #[command(flatten)]
    said: SaidOptions,
}

#[derive(Debug, Args)]
pub struct StageOptions {
    #[command(flatten)]
    model: ModelOptions,
    /// Let robot time pass as the wall clock does, not as fast as the machine can. Episodes then do not repeat exactly.
    #[arg(long)]
    realtime: bool,
}

impl StageOptions {
    /// Loads the model.
    pub fn open(&self) -> Result<Stage> {
        let model = self.model.open(None)?;
        let pace = if self.realtime { Pace::RealTime } else { Pace::Lockstep };
        Ok(Stage { embodiment: Arc::new(Embodiment::so101()), model, pace, guard: Guard::On })
    }
}

impl ModelOptions {
    /// Loads the model, with what the site's file says of it. Whoever names one needs no checkout.
    pub fn open(&self, site: Option<&Path>) -> Result<ModelHandle> {
        let setup = self.said.setup(site)?;
        let spinner = progress::spinner("loading the model");
        let folder = self.model.clone().map_or_else(|| Ok(Checkout::find()?.checkpoint()), anyhow::Ok)?;
        let (vlm, device) = (self.vlm.clone(), self.device);
        // On the model's own thread, and once more if its device is ever lost.
        let load = move || {
            let policy = Policy::new(&Checkpoint::open_for(&folder, &setup)?, device)?;
            Ok(match &vlm {
                Some(folder) => Model::new(policy, Vlm::new(&VlmCheckpoint::open(folder)?, device)?),
                None => policy.into(),
            })
        };
        let model = Broker::start(load).map_err(model_fault)?;
        spinner.finish_with_message(format!("model on {}", model.about().device));
        // What keeps it from moving the robot is an error of its own.
        for warning in model.about().warnings.iter().filter(|_| model.about().obstacles.is_empty()) {
            eprintln!("warning: {}", plain(&format!("{}: {warning}", model.about().name)));
        }
        Ok(model)
    }
}

/// Builds packages of a workspace of skills where their `skill.toml` expects them.
pub fn build(workspace: &Path, packages: &[&str]) -> Result<()> {
    let spinner = progress::spinner("building the skills");
    waza_toolchain::build(workspace, Build::Packages(packages), |said| {
        spinner.set_message(format!("building the skills: {said}"));
    })
    .map_err(|error| match error {
        ToolchainError::NoCargo | ToolchainError::NoTarget { .. } => BadInput::caused_by(error),
        ToolchainError::Start(_) | ToolchainError::Build { .. } => error.into(),
    })?;
    spinner.finish_with_message("skills are built");
    Ok(())
}
