//! Shapes of known models, without their weights: all that a measurement of speed needs.

use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;
use tempfile::TempDir;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// The checkpoint that comes with Waza.
    Bundled,
    /// `lerobot/smolvla_base`, with random weights.
    #[value(name = "smolvla-450m")]
    Smolvla450m,
}

impl Shape {
    /// As it is said on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bundled => "bundled",
            Self::Smolvla450m => "smolvla-450m",
        }
    }
}

macro_rules! smolvla_450m {
    ($($file:literal),* $(,)?) => {
        [$(($file, include_bytes!(concat!("../../model/training/shapes/smolvla-450m/", $file)))),*]
    };
}

/// What `host/model/training/make_shape.py` wrote.
const SMOLVLA_450M: [(&str, &[u8]); 12] = smolvla_450m![
    "config.json",
    "policy_preprocessor.json",
    "policy_preprocessor_step_5_normalizer_processor.safetensors",
    "policy_postprocessor.json",
    "policy_postprocessor_step_0_unnormalizer_processor.safetensors",
    "vlm/config.json",
    "vlm/preprocessor_config.json",
    "vlm/processor_config.json",
    "vlm/special_tokens_map.json",
    "vlm/tokenizer.json",
    "vlm/tokenizer_config.json",
    "vlm/video_preprocessor_config.json",
];

/// A folder with all of the checkpoint but its weights, for as long as the value lives.
pub fn unpack_smolvla_450m() -> Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("smolvla-450m-").tempdir()?;
    std::fs::create_dir(folder.path().join("vlm"))?;
    for (name, bytes) in SMOLVLA_450M {
        std::fs::write(folder.path().join(Path::new(name)), bytes)?;
    }
    Ok(folder)
}
