//! `policy_preprocessor.json` and `policy_postprocessor.json`: how raw states become the network's numbers and back.

use std::collections::HashMap;
use std::path::Path;

use safetensors::Dtype;
use serde::Deserialize;

use super::config::{ACTION_KEY, Features, SENSORS_KEY, STATE_KEY};
use super::header::Header;
use super::{CheckpointError, read};
use crate::architecture::Sensors;

const PREPROCESSOR: &str = "policy_preprocessor.json";
const POSTPROCESSOR: &str = "policy_postprocessor.json";
const MIGRATE: &str =
    "Checkpoints of LeRobot before 0.4 lack it: run its `lerobot.processor.migrate_policy_normalization` on the folder";
const RESAVE: &str = "Take all files from the same training run";

/// How to normalise one vector.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Normalization {
    Identity,
    MeanStd { mean: Vec<f32>, std: Vec<f32>, epsilon: f32 },
}

impl Normalization {
    /// Raw units to the network's.
    pub fn normalize(&self, values: &mut [f32]) {
        if let Self::MeanStd { mean, std, epsilon } = self {
            for ((value, mean), std) in values.iter_mut().zip(mean).zip(std) {
                *value = (*value - mean) / (std + epsilon);
            }
        }
    }

    /// The network's units to raw ones.
    pub fn denormalize(&self, values: &mut [f32]) {
        if let Self::MeanStd { mean, std, .. } = self {
            for ((value, mean), std) in values.iter_mut().zip(mean).zip(std) {
                *value = *value * std + mean;
            }
        }
    }
}

/// What both processors do, reduced to what serving needs.
#[derive(Clone, Debug)]
pub(crate) struct Processors {
    pub state: Normalization,
    pub action: Normalization,
    /// Of each sample, if the network takes sensors.
    pub sensors: Option<Normalization>,
    /// New names of observations: from what the robot calls them to what the policy calls them.
    pub renames: HashMap<String, String>,
    pub tokenization: Tokenization,
    /// All files read, for the digest.
    pub files: Vec<Vec<u8>>,
}

/// How instructions become tokens.
#[derive(Clone, Debug)]
pub(crate) struct Tokenization {
    pub tokenizer_name: String,
    pub max_length: usize,
    /// Instructions are made to end with a newline.
    pub newline: bool,
}

#[derive(Deserialize)]
struct Pipeline {
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    #[serde(default)]
    registry_name: Option<String>,
    #[serde(default)]
    class: Option<String>,
    #[serde(default)]
    config: serde_json::Value,
    #[serde(default)]
    state_file: Option<String>,
}

impl Step {
    fn name(&self) -> &str {
        self.registry_name.as_deref().or(self.class.as_deref()).unwrap_or("without a name")
    }

    fn config<T: for<'de> Deserialize<'de>>(&self, path: &Path) -> Result<T, CheckpointError> {
        T::deserialize(&self.config).map_err(|cause| CheckpointError::json(path, &cause))
    }
}

#[derive(Deserialize)]
struct RenameConfig {
    #[serde(default)]
    rename_map: HashMap<String, String>,
}

#[derive(Deserialize)]
struct TokenizerConfig {
    max_length: usize,
    padding_side: String,
    truncation: bool,
    tokenizer_name: String,
}

#[derive(Deserialize)]
struct NormalizerConfig {
    eps: f32,
    norm_map: HashMap<String, String>,
}

/// Reads both processors of `folder`.
pub(crate) fn read_processors(
    folder: &Path,
    features: &Features,
    sensors: Option<&Sensors>,
) -> Result<Processors, CheckpointError> {
    let (path, mut files) = (folder.join(PREPROCESSOR), Vec::new());
    let (mut renames, mut newline) = (HashMap::new(), false);
    let (mut tokenizer, mut state, mut sensed) = (None, None, None);
    for step in read_pipeline(&path, &mut files)?.steps {
        match step.name() {
            "rename_observations_processor" => renames = step.config::<RenameConfig>(&path)?.rename_map,
            "smolvla_new_line_processor" => newline = true,
            "tokenizer_processor" => tokenizer = Some(step.config::<TokenizerConfig>(&path)?),
            "normalizer_processor" => {
                state = Some(normalization(&step, &path, STATE_KEY, "STATE", features.state_size, &mut files)?);
                if let Some(Sensors { channels, .. }) = sensors {
                    sensed = Some(normalization(&step, &path, SENSORS_KEY, "ENV", *channels, &mut files)?);
                }
            }
            "to_batch_processor" | "device_processor" => {}
            other => return Err(CheckpointError::unsupported(&path, format!("step `{other}`"), SERVE_ELSEWHERE)),
        }
    }
    let Some(tokenizer) = tokenizer else {
        return Err(CheckpointError::invalid(&path, "no step `tokenizer_processor`", RESAVE));
    };
    let side = &tokenizer.padding_side;
    if side != "right" || !tokenizer.truncation {
        let what = format!("padding on the {side} with truncation {}", tokenizer.truncation);
        return Err(CheckpointError::unsupported(&path, what, SERVE_ELSEWHERE));
    }
    if !(1..=4096).contains(&tokenizer.max_length) {
        let problem = format!("`max_length` is {}, must be 1 to 4096", tokenizer.max_length);
        return Err(CheckpointError::invalid(&path, problem, RESAVE));
    }
    let state = state.ok_or_else(|| CheckpointError::invalid(&path, "no step `normalizer_processor`", RESAVE))?;

    let path = folder.join(POSTPROCESSOR);
    let mut action = None;
    for step in read_pipeline(&path, &mut files)?.steps {
        match step.name() {
            "unnormalizer_processor" => {
                action = Some(normalization(&step, &path, ACTION_KEY, "ACTION", features.action_size, &mut files)?);
            }
            "device_processor" => {}
            other => return Err(CheckpointError::unsupported(&path, format!("step `{other}`"), SERVE_ELSEWHERE)),
        }
    }
    let action = action.ok_or_else(|| CheckpointError::invalid(&path, "no step `unnormalizer_processor`", RESAVE))?;
    let tokenization =
        Tokenization { tokenizer_name: tokenizer.tokenizer_name, max_length: tokenizer.max_length, newline };
    Ok(Processors { state, action, sensors: sensed, renames, tokenization, files })
}

const SERVE_ELSEWHERE: &str = "Serve this checkpoint with LeRobot, or save it with the standard SmolVLA processors";

fn read_pipeline(path: &Path, files: &mut Vec<Vec<u8>>) -> Result<Pipeline, CheckpointError> {
    let bytes = read(path, MIGRATE)?;
    let pipeline = serde_json::from_slice(&bytes).map_err(|cause| CheckpointError::json(path, &cause))?;
    files.push(bytes);
    Ok(pipeline)
}

fn normalization(
    step: &Step,
    path: &Path,
    key: &str,
    kind: &str,
    size: usize,
    files: &mut Vec<Vec<u8>>,
) -> Result<Normalization, CheckpointError> {
    let config: NormalizerConfig = step.config(path)?;
    if !(config.eps.is_finite() && config.eps >= 0.0) {
        return Err(CheckpointError::invalid(path, format!("`eps` is {}", config.eps), RESAVE));
    }
    let mode = |kind: &str| config.norm_map.get(kind).map_or("IDENTITY", String::as_str);
    if mode("VISUAL") != "IDENTITY" {
        let what = format!("normalisation {} of images", mode("VISUAL"));
        return Err(CheckpointError::unsupported(path, what, SERVE_ELSEWHERE));
    }
    match mode(kind) {
        "IDENTITY" => return Ok(Normalization::Identity),
        "MEAN_STD" => {}
        other => {
            let what = format!("normalisation {other} of `{key}`");
            return Err(CheckpointError::unsupported(path, what, "Train with MEAN_STD, SmolVLA's default"));
        }
    }
    let Some(file) = step.state_file.as_deref().filter(|f| !f.contains(['/', '\\']) && *f != "..") else {
        return Err(CheckpointError::invalid(path, format!("step `{}` names no state_file", step.name()), RESAVE));
    };
    let path = path.with_file_name(file);
    let bytes = read(&path, RESAVE)?;
    let normalization = parse_statistics(&bytes, &path, key, size, config.eps)?;
    files.push(bytes);
    Ok(normalization)
}

fn parse_statistics(
    bytes: &[u8],
    path: &Path,
    key: &str,
    size: usize,
    epsilon: f32,
) -> Result<Normalization, CheckpointError> {
    let header = Header::parse(bytes).map_err(|problem| CheckpointError::invalid(path, problem, RESAVE))?;
    let vector = |what: &str| -> Result<Vec<f32>, CheckpointError> {
        let name = format!("{key}.{what}");
        let invalid = |problem: String| CheckpointError::invalid(path, problem, RESAVE);
        let tensor = header.tensors.get(&name).ok_or_else(|| invalid(format!("no statistics `{name}`")))?;
        if tensor.shape != [size] {
            return Err(invalid(format!("`{name}` is {:?} wide, the checkpoint's {key} is {size}", tensor.shape)));
        }
        let data = &bytes[tensor.bytes.clone()];
        let values: Vec<f32> = match tensor.dtype {
            Dtype::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F64 => data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            other => return Err(invalid(format!("`{name}` is of type {other:?}, must be F32 or F64"))),
        };
        if let Some(value) = values.iter().find(|v| !v.is_finite()) {
            return Err(invalid(format!("`{name}` holds {value}")));
        }
        Ok(values)
    };
    Ok(Normalization::MeanStd { mean: vector("mean")?, std: vector("std")?, epsilon })
}
