//! `waza model`: what a checkpoint is, and whether it computes what the reference implementation does.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use indexmap::IndexMap;
use serde::Serialize;
use serde_json::Value;
use waza_model::verify::{TOLERANCE, VerifyError, verify};
use waza_model::{AnyCheckpoint, Device, Info};

use super::ask::Ask;
use crate::fault::{BadInput, OrBadInput, model_fault};

#[derive(Debug, Subcommand)]
pub enum Model {
    /// Run the worked example in a folder and compare every tensor with the reference's.
    #[command(after_help = "Example:\n  waza model verify examples/smolvla-a --device cpu --json")]
    Verify(Verify),
    /// Say what a checkpoint is, needs and can do.
    #[command(after_help = "Example:\n  waza model info host/model/checkpoints/tabletop")]
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
        let info = Info::new(&AnyCheckpoint::open(&self.folder).or_bad_input()?);
        let object = serde_json::to_string(&info)?;
        if self.json {
            say!("{object}")?;
            return Ok(());
        }
        let fields: IndexMap<String, Value> = serde_json::from_str(&object)?;
        for (name, value) in fields {
            say!("{:<16} {}", name.replace('_', " "), shown(&value))?;
        }
        Ok(())
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
