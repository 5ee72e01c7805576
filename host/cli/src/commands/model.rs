//! `waza model`: what a checkpoint is, and whether it computes what the reference implementation does.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use indexmap::IndexMap;
use serde::Serialize;
use serde_json::Value;
use waza_model::verify::{TOLERANCE, VerifyError, verify};
use waza_model::{Device, Info};
use waza_robot::Embodiment;
use waza_runtime::model::misfits;

use super::ask::Ask;
use super::said::SaidOptions;
use crate::fault::{BadInput, OrBadInput, model_fault};
use crate::lines::plain;

#[derive(Debug, Subcommand)]
pub enum Model {
    /// Run the worked example in a folder and compare every tensor with the reference's.
    #[command(after_help = "Example:\n  waza model verify examples/smolvla-a --device cpu --json")]
    Verify(Verify),
    /// Say what a checkpoint is, needs and can do, and what keeps it from running here.
    #[command(after_help = "Examples:\n  waza model info host/model/checkpoints/tabletop\n  \
                            waza model info outputs/train/last/pretrained_model --units degrees --camera camera1=front")]
    Info(Describe),
    /// Ask about pictures in words.
    #[command(
        after_help = "Example:\n  waza model ask SmolVLM2-500M-Video-Instruct \"is the bowl empty?\" --image front.png"
    )]
    Ask(Ask),
}

#[derive(Debug, Args)]
pub struct Verify {
    /// Holds checkpoint/, case.json and case.safetensors.
    folder: PathBuf,
    /// What runs the model: auto, cpu or gpu.
    #[arg(long, default_value_t)]
    device: Device,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct Describe {
    /// What LeRobot saved, or the folder of a SmolVLM2.
    folder: PathBuf,
    /// The site's file, as `waza serve` has it.
    #[arg(long)]
    site: Option<PathBuf>,
    #[command(flatten)]
    said: SaidOptions,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Model {
    pub fn run(self) -> Result<()> {
        match self {
            Self::Verify(command) => command.run(),
            Self::Info(command) => command.run(),
            Self::Ask(command) => command.run(),
        }
    }
}

/// A verification for programs.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    device: &'a str,
    passed: bool,
    /// The largest error that still counts as agreement.
    tolerance: f32,
    /// By tensor, in the order of the computation.
    max_abs_error: IndexMap<&'a str, f32>,
}

impl Verify {
    fn run(self) -> Result<()> {
        let result = verify(&self.folder, self.device).map_err(|error| match error {
            VerifyError::Model(error) => model_fault(error),
            error => BadInput::caused_by(error),
        })?;
        if self.json {
            let errors = result.tensors.iter().map(|it| (it.tensor.as_str(), it.max_abs_error)).collect();
            let passed = result.passed();
            let shown = Shown { device: &result.device, passed, tolerance: TOLERANCE, max_abs_error: errors };
            say!("{}", serde_json::to_string(&shown)?)?;
        } else {
            say!("{}", result.device)?;
            for tensor in &result.tensors {
                let verdict = if tensor.passed() { "ok" } else { "FAILED" };
                say!(
                    "{:<28} {:>9.2e}  of {:<9.2e} {verdict}",
                    tensor.tensor,
                    tensor.max_abs_error,
                    tensor.max_abs_reference
                )?;
            }
        }
        if !result.passed() {
            let far: Vec<_> = result.tensors.iter().filter(|it| !it.passed()).map(|it| it.tensor.as_str()).collect();
            bail!("further than the tolerance from the reference: {}: {}", self.folder.display(), far.join(", "));
        }
        Ok(())
    }
}

impl Describe {
    fn run(self) -> Result<()> {
        let mut info = Info::examine(&self.folder, &self.said.setup(self.site.as_deref())?).or_bad_input()?;
        if let Some(about) = &info.about {
            info.obstacles = misfits(about, &Embodiment::so101());
        }
        let object = serde_json::to_string(&info)?;
        if self.json {
            say!("{object}")?;
            return Ok(());
        }
        let fields: IndexMap<String, Value> = serde_json::from_str(&object)?;
        for (name, value) in fields.iter().filter(|(name, _)| !["obstacles", "warnings"].contains(&name.as_str())) {
            say!("{:<16} {}", name.replace('_', " "), plain(&shown(value)))?;
        }
        for warning in &info.warnings {
            say!("{:<16} {}", "note", plain(warning))?;
        }
        say!("{:<16} {}", "runs here", if info.obstacles.is_empty() { "yes" } else { "no:" })?;
        info.obstacles.iter().try_for_each(|obstacle| say!("  - {}", plain(obstacle)))
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "not said".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "any".into(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}
