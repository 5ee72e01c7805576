//! A checkpoint folder as LeRobot saves SmolVLA: read, checked as a whole, and pinned by one digest.

mod config;
mod error;
mod locate;
mod processors;
mod tokenizer;
mod weights;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use error::{CheckpointError, Misshapen, TensorMismatch};
pub use tokenizer::InstructionError;

pub(crate) use config::Features;
pub(crate) use processors::{Normalization, Processors};
pub(crate) use tokenizer::Tokenizer;

use crate::architecture::Architecture;
use crate::plan::{Numbers, Weight, WeightSource};
use weights::WeightFile;

/// Largest configuration, processor or tokenizer file that is read, bytes.
const LARGEST_SIDE_FILE: u64 = 64 << 20;

/// A checkpoint that was read and found whole: all files are there, agree with each other, and are supported.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    architecture: Architecture,
    features: Features,
    processors: Processors,
    tokenizer: Tokenizer,
    weights: WeightFile,
    card: Option<Card>,
    digest: String,
}

/// The machine-readable part of a model card, `waza.json`. A stock checkpoint has none.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct Card {
    /// What people call the model.
    pub name: String,
    /// Version of the model.
    pub version: String,
    /// The embodiment whose joints its states and actions are in.
    #[serde(default)]
    pub embodiment: Option<String>,
    /// Actions of a chunk per second.
    #[serde(default)]
    pub action_rate_hz: Option<f32>,
}

impl Checkpoint {
    /// Opens the checkpoint in `folder`.
    ///
    /// Reads `config.json`, `model.safetensors`, both processors with their statistics, and the configuration and tokenizer
    /// of the VLM that they name (see the crate's documentation for where it is looked for).
    ///
    /// # Errors
    /// If anything is missing, broken, out of bounds, contradictory or not supported.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let config_path = folder.join("config.json");
        let config_bytes = read(&config_path, "Give the folder that LeRobot saved, often `pretrained_model`")?;
        let config: config::PolicyConfig = parse(&config_bytes, &config_path)?;
        let features = config::features(&config, &config_path)?;

        let vlm_folder = locate::find_folder(folder, &config.vlm_model_name, &config_path)?;
        let vlm_path = vlm_folder.join("config.json");
        let vlm_bytes = read(&vlm_path, "Put the VLM's configuration there")?;
        let vlm: config::VlmConfig = parse(&vlm_bytes, &vlm_path)?;
        let architecture = config::architecture(&config, &config_path, &vlm, &vlm_path)?;

        let processors = processors::read_processors(folder, &features)?;
        let tokenization = &processors.tokenization;
        let preprocessor_path = folder.join("policy_preprocessor.json");
        let tokenizer_folder = locate::find_folder(folder, &tokenization.tokenizer_name, &preprocessor_path)?;
        let (tokenizer, tokenizer_bytes) =
            Tokenizer::open(&tokenizer_folder, tokenization, architecture.text.vocabulary)?;

        let weights = WeightFile::open(&folder.join("model.safetensors"), &architecture)?;
        let side_files = processors.files.iter().map(Vec::as_slice);
        let parts = [weights.bytes(), config_bytes.as_slice()]
            .into_iter()
            .chain(side_files)
            .chain([tokenizer_bytes.as_slice(), vlm_bytes.as_slice()]);
        let digest = digest(parts);
        let card = read_card(folder)?;
        Ok(Self { folder: folder.to_owned(), architecture, features, processors, tokenizer, weights, card, digest })
    }

    /// Where it was opened.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The network's dimensions.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// SHA-256, in hexadecimal, of weights, configuration, processors with their statistics, tokenizer and VLM
    /// configuration, each preceded by its length: equal digests mean equal behaviour.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Its `waza.json`, if it has one.
    pub fn card(&self) -> Option<&Card> {
        self.card.as_ref()
    }

    /// Size of `model.safetensors`, bytes.
    pub fn weight_bytes(&self) -> usize {
        self.weights.bytes().len()
    }

    /// The words of a closed vocabulary, sorted; empty if instructions may use any words.
    pub fn words(&self) -> Vec<String> {
        self.tokenizer.words()
    }

    pub(crate) fn features(&self) -> &Features {
        &self.features
    }

    pub(crate) fn processors(&self) -> &Processors {
        &self.processors
    }

    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The number of a token that the network wants around images.
    pub(crate) fn special_token(&self, token: &str) -> Result<u32, CheckpointError> {
        self.tokenizer.special(token).ok_or_else(|| {
            let problem = format!("`add_image_special_tokens` is set, and the tokenizer has no `{token}`");
            CheckpointError::invalid(
                &self.folder.join("config.json"),
                problem,
                "Take the tokenizer it was trained with",
            )
        })
    }

    /// Rows of the language model's embedding table, one for each token.
    pub(crate) fn embeddings(&self, tokens: &[u32]) -> Result<Vec<f32>, CheckpointError> {
        let table = self.weights.tensor(&format!("{}.weight", crate::tensors::Backbone::SMOLVLA.embed_tokens()))?;
        let width = self.architecture.text.width;
        Ok(tokens.iter().flat_map(|&t| table[t as usize * width..][..width].to_vec()).collect())
    }
}

impl WeightSource for Checkpoint {
    fn load(&self, weight: &Weight) -> Result<Numbers, CheckpointError> {
        self.weights.load(weight)
    }
}

/// A side file, which must be small.
fn read(path: &Path, hint: &'static str) -> Result<Vec<u8>, CheckpointError> {
    let fail = |cause| CheckpointError::Read { path: path.to_owned(), cause, hint };
    let size = std::fs::metadata(path).map_err(fail)?.len();
    if size > LARGEST_SIDE_FILE {
        let problem = format!("{size} bytes, and at most {LARGEST_SIDE_FILE} are read");
        return Err(CheckpointError::invalid(path, problem, hint));
    }
    std::fs::read(path).map_err(fail)
}

fn parse<T: for<'de> Deserialize<'de>>(bytes: &[u8], path: &Path) -> Result<T, CheckpointError> {
    serde_json::from_slice(bytes).map_err(|cause| CheckpointError::json(path, &cause))
}

fn read_card(folder: &Path) -> Result<Option<Card>, CheckpointError> {
    const HINT: &str = "Correct waza.json, or remove it to serve the checkpoint as a stock one";
    let path = folder.join("waza.json");
    if !path.exists() {
        return Ok(None);
    }
    let card: Card = serde_json::from_slice(&read(&path, HINT)?)
        .map_err(|cause| CheckpointError::invalid(&path, cause.to_string(), HINT))?;
    if let Some(rate) = card.action_rate_hz.filter(|rate| !(rate.is_finite() && (0.1..=1000.0).contains(rate))) {
        let problem = format!("`action_rate_hz` is {rate}, must be 0.1 to 1000");
        return Err(CheckpointError::invalid(&path, problem, HINT));
    }
    Ok(Some(card))
}

fn digest<'a>(parts: impl Iterator<Item = &'a [u8]>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
