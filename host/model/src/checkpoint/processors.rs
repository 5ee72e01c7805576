//! `policy_preprocessor.json` and `policy_postprocessor.json`: how raw states become the network's numbers and back. Of a
//! checkpoint before LeRobot 0.4, which has neither, what it kept of that among its weights.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use safetensors::Dtype;
use serde::Deserialize;

use super::config::{ACTION_KEY, Features, PolicyConfig, SENSORS_KEY, STATE_KEY};
use super::header::Header;
use super::weights::WeightFile;
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

/// What deviates by less was the same in all of the training data, but for rounding: in any unit this is far below what a
/// sensor resolves.
const SMALLEST_DEVIATION: f32 = 1e-6;

impl Normalization {
    /// Raw units to the network's. What was the same in all of the training data tells the network nothing, and is 0: a
    /// division by its deviation would make a huge number of every difference.
    pub fn normalize(&self, values: &mut [f32]) {
        if let Self::MeanStd { mean, std, epsilon } = self {
            for ((value, mean), std) in values.iter_mut().zip(mean).zip(std) {
                *value = if std.abs() < SMALLEST_DEVIATION { 0.0 } else { (*value - mean) / (std + epsilon) };
            }
        }
    }

    /// Means and deviations in raw units, number by number; none if nothing is known of them.
    pub fn spreads(&self) -> impl Iterator<Item = (f32, f32)> + '_ {
        let (mean, std) = match self {
            Self::Identity => (&[][..], &[][..]),
            Self::MeanStd { mean, std, .. } => (mean.as_slice(), std.as_slice()),
        };
        mean.iter().copied().zip(std.iter().copied())
    }

    /// Which numbers were the same in all of the training data.
    pub fn constant(&self) -> impl Iterator<Item = usize> + '_ {
        self.spreads().enumerate().filter(|(_, (_, std))| std.abs() < SMALLEST_DEVIATION).map(|(index, _)| index)
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
    /// New names of observations: from what the robot calls them to what the policy calls them, sorted.
    pub renames: BTreeMap<String, String>,
    /// The files were trained to normalise the state, and have no statistics of it.
    pub state_lacks_statistics: bool,
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
    rename_map: BTreeMap<String, String>,
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

/// What the processors of a folder are read with.
pub(crate) struct Reading<'a> {
    pub folder: &'a Path,
    pub config: &'a PolicyConfig,
    pub features: &'a Features,
    pub sensors: Option<&'a Sensors>,
    pub weights: Option<&'a WeightFile>,
    /// The data set that was chosen of several.
    pub group: Option<&'a str>,
}

/// Reads both processors, or what stands in for them.
pub(crate) fn read_processors(reading: &Reading) -> Result<Processors, CheckpointError> {
    let &Reading { folder, features, sensors, weights, group, .. } = reading;
    if let Some(weights) = weights.filter(|weights| weights.has_statistics() && !folder.join(PREPROCESSOR).exists()) {
        return from_weights(reading, weights);
    }
    let (path, mut files) = (folder.join(PREPROCESSOR), Vec::new());
    let (mut renames, mut newline, mut state_lacks_statistics) = (BTreeMap::new(), false, false);
    let (mut tokenizer, mut state, mut sensed) = (None, None, None);
    for step in read_pipeline(&path, &mut files)?.steps {
        match step.name() {
            "rename_observations_processor" => renames = step.config::<RenameConfig>(&path)?.rename_map,
            "smolvla_new_line_processor" => newline = true,
            "tokenizer_processor" => tokenizer = Some(step.config::<TokenizerConfig>(&path)?),
            "normalizer_processor" => {
                let wanted = Wanted { key: STATE_KEY, kind: "STATE", size: features.state_size, group };
                let found = normalization(&step, &path, &wanted, &mut files)?;
                state_lacks_statistics = found.is_none();
                state = Some(found.unwrap_or(Normalization::Identity));
                if let Some(Sensors { channels, .. }) = sensors {
                    let wanted = Wanted { key: SENSORS_KEY, kind: "ENV", size: *channels, group };
                    sensed = normalization(&step, &path, &wanted, &mut files)?;
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
                let wanted = Wanted { key: ACTION_KEY, kind: "ACTION", size: features.action_size, group };
                action = normalization(&step, &path, &wanted, &mut files)?;
            }
            "device_processor" => {}
            other => return Err(CheckpointError::unsupported(&path, format!("step `{other}`"), SERVE_ELSEWHERE)),
        }
    }
    let action = action.ok_or_else(|| CheckpointError::invalid(&path, "no step `unnormalizer_processor`", RESAVE))?;
    let tokenization =
        Tokenization { tokenizer_name: tokenizer.tokenizer_name, max_length: tokenizer.max_length, newline };
    Ok(Processors { state, action, sensors: sensed, renames, state_lacks_statistics, tokenization, files })
}

/// What LeRobot did before 0.4, when policies normalised by themselves: by buffers among the weights.
fn from_weights(reading: &Reading, weights: &WeightFile) -> Result<Processors, CheckpointError> {
    let &Reading { folder, config, features, sensors, .. } = reading;
    let path = folder.join("config.json");
    let mode = |kind: &str| match &config.normalization_mapping {
        Some(map) => map.get(kind).map_or("IDENTITY", String::as_str),
        // SmolVLA's own.
        None if kind == "VISUAL" => "IDENTITY",
        None => "MEAN_STD",
    };
    check_images(mode("VISUAL"), &path)?;
    if sensors.is_some() {
        return Err(CheckpointError::invalid(&folder.join(PREPROCESSOR), "is not there", RESAVE));
    }
    let read = |key: &str, kind: &str, size: usize, modules: &[&str]| -> Result<Normalization, CheckpointError> {
        if !is_mean_std(mode(kind), key, &path)? {
            return Ok(Normalization::Identity);
        }
        let buffer = format!("buffer_{}", key.replace('.', "_"));
        for module in modules {
            let vector = |what: &str| weights.statistic(&format!("{module}.{buffer}.{what}"), size);
            if let (Some(mean), Some(std)) = (vector("mean")?, vector("std")?) {
                return Ok(Normalization::MeanStd { mean, std, epsilon: OLD_EPSILON });
            }
        }
        let problem = format!("no statistics of `{key}`, neither here nor among the weights");
        Err(CheckpointError::invalid(&folder.join(PREPROCESSOR), problem, RESAVE))
    };
    let max_length = config.tokenizer_max_length;
    if !(1..=4096).contains(&max_length) {
        let problem = format!("`tokenizer_max_length` is {max_length}, must be 1 to 4096");
        return Err(CheckpointError::invalid(&path, problem, RESAVE));
    }
    Ok(Processors {
        state: read(STATE_KEY, "STATE", features.state_size, &["normalize_inputs"])?,
        action: read(ACTION_KEY, "ACTION", features.action_size, &["unnormalize_outputs", "normalize_targets"])?,
        sensors: None,
        renames: BTreeMap::new(),
        state_lacks_statistics: false,
        tokenization: Tokenization { tokenizer_name: config.vlm_model_name.clone(), max_length, newline: true },
        // The digest has the weights already.
        files: Vec::new(),
    })
}

/// LeRobot's, of all its normalisers before 0.4.
const OLD_EPSILON: f32 = 1e-8;

const SERVE_ELSEWHERE: &str = "Serve this checkpoint with LeRobot, or save it with the standard SmolVLA processors";

fn read_pipeline(path: &Path, files: &mut Vec<Vec<u8>>) -> Result<Pipeline, CheckpointError> {
    let bytes = read(path, MIGRATE)?;
    let pipeline = serde_json::from_slice(&bytes).map_err(|cause| CheckpointError::json(path, &cause))?;
    files.push(bytes);
    Ok(pipeline)
}

/// Which statistics.
struct Wanted<'a> {
    key: &'static str,
    /// LeRobot's type of the feature.
    kind: &'static str,
    size: usize,
    group: Option<&'a str>,
}

/// None: the chosen data set has no statistics of this.
fn normalization(
    step: &Step,
    path: &Path,
    wanted: &Wanted,
    files: &mut Vec<Vec<u8>>,
) -> Result<Option<Normalization>, CheckpointError> {
    let config: NormalizerConfig = step.config(path)?;
    if !(config.eps.is_finite() && config.eps >= 0.0) {
        return Err(CheckpointError::invalid(path, format!("`eps` is {}", config.eps), RESAVE));
    }
    let mode = |kind: &str| config.norm_map.get(kind).map_or("IDENTITY", String::as_str);
    check_images(mode("VISUAL"), path)?;
    if !is_mean_std(mode(wanted.kind), wanted.key, path)? {
        return Ok(Some(Normalization::Identity));
    }
    let Some(file) = step.state_file.as_deref().filter(|f| !f.contains(['/', '\\']) && *f != "..") else {
        return Err(CheckpointError::invalid(path, format!("step `{}` names no state_file", step.name()), RESAVE));
    };
    let path = path.with_file_name(file);
    let bytes = read(&path, RESAVE)?;
    let normalization = parse_statistics(&bytes, &path, wanted, config.eps)?;
    files.push(bytes);
    Ok(normalization)
}

fn check_images(mode: &str, path: &Path) -> Result<(), CheckpointError> {
    if mode == "IDENTITY" {
        return Ok(());
    }
    Err(CheckpointError::unsupported(path, format!("normalisation {mode} of images"), SERVE_ELSEWHERE))
}

fn is_mean_std(mode: &str, key: &str, path: &Path) -> Result<bool, CheckpointError> {
    match mode {
        "IDENTITY" => Ok(false),
        "MEAN_STD" => Ok(true),
        other => {
            let what = format!("normalisation {other} of `{key}`");
            Err(CheckpointError::unsupported(path, what, "Train with MEAN_STD, SmolVLA's default"))
        }
    }
}

fn parse_statistics(
    bytes: &[u8],
    path: &Path,
    wanted: &Wanted,
    epsilon: f32,
) -> Result<Option<Normalization>, CheckpointError> {
    let invalid = |problem: String| CheckpointError::invalid(path, problem, RESAVE);
    let header = Header::parse(bytes).map_err(invalid)?;
    let &Wanted { key, size, group, .. } = wanted;
    // What was trained on several data sets has the statistics of each: `GROUP.buffer.action.mean`.
    let groups: BTreeSet<&str> =
        header.tensors.keys().filter_map(|name| Some(name.split_once(".buffer.")?.0)).collect();
    let prefix = match group {
        Some(group) if groups.contains(group) => format!("{group}.buffer."),
        _ if groups.is_empty() || header.tensors.contains_key(&format!("{key}.mean")) => match group {
            None => String::new(),
            Some(group) => {
                let problem =
                    format!("the statistics of `{group}` were chosen, and the file has those of one data set");
                return Err(CheckpointError::invalid(path, problem, "Leave the choice of statistics out"));
            }
        },
        _ => {
            let groups = groups.into_iter().map(|group| group.chars().take(100).collect()).collect();
            return Err(CheckpointError::Grouped { path: path.to_owned(), key: key.to_owned(), groups });
        }
    };
    if !prefix.is_empty() && key == STATE_KEY && !header.tensors.contains_key(&format!("{prefix}{key}.mean")) {
        return Ok(None);
    }
    let vector = |what: &str| -> Result<Vec<f32>, CheckpointError> {
        let name = format!("{prefix}{key}.{what}");
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
    Ok(Some(Normalization::MeanStd { mean: vector("mean")?, std: vector("std")?, epsilon }))
}
