//! A checkpoint folder, as LeRobot saves SmolVLA or as transformers saves SmolVLM: read, checked as a whole, and pinned by
//! one digest.

mod config;
mod error;
mod header;
mod locate;
mod processors;
mod prompt;
mod tokenizer;
mod vlm;
mod weights;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use error::{CheckpointError, Misshapen, TensorMismatch};
pub use prompt::{TextStream, VlmTokenizer};
pub use tokenizer::InstructionError;
pub use vlm::VlmCheckpoint;
pub use weights::{TokenEmbeddings, WeightSource};

pub(crate) use config::Features;
#[cfg(fuzzing)]
pub(crate) use header::Header;
pub(crate) use processors::{Normalization, Processors};
pub(crate) use tokenizer::Tokenizer;

use crate::architecture::{Architecture, Backbone};
use crate::plan::{Numbers, Weight};
use crate::tensors::{is_cut_off, tensors};
use weights::WeightFile;

/// Largest configuration, processor or tokenizer file that is read, bytes.
const LARGEST_SIDE_FILE: u64 = 64 << 20;

/// A model folder of either kind.
#[derive(Debug)]
pub enum AnyCheckpoint {
    /// LeRobot's SmolVLA: it acts.
    Policy(Box<Checkpoint>),
    /// transformers' SmolVLM2: it answers in words.
    Vlm(Box<VlmCheckpoint>),
}

impl AnyCheckpoint {
    /// Opens the folder, whose `config.json` says of which kind it is.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`] and [`VlmCheckpoint::open`].
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        #[derive(Deserialize)]
        struct Kind {
            model_type: Option<String>,
        }
        let path = folder.join("config.json");
        let kind: Kind =
            parse(&read(&path, "Give the folder of a model, as LeRobot or transformers saved it")?, &path)?;
        // A policy's configuration says `type`.
        match kind.model_type {
            Some(_) => VlmCheckpoint::open(folder).map(|vlm| Self::Vlm(Box::new(vlm))),
            None => Checkpoint::open(folder).map(|policy| Self::Policy(Box::new(policy))),
        }
    }
}

/// A checkpoint that was read and found whole: all files are there, agree with each other, and are supported.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    architecture: Architecture,
    features: Features,
    processors: Processors,
    tokenizer: Tokenizer,
    pinned: Pinned,
    card: Option<Card>,
    vlm_folder: PathBuf,
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
    /// What it was trained for besides what its files show: some of `act`, `answer`, `locate`, `embed`, `video` and
    /// `sensors`.
    #[serde(default)]
    pub abilities: Vec<String>,
}

impl Checkpoint {
    /// Opens the checkpoint in `folder`.
    ///
    /// Reads `config.json`, `model.safetensors`, both processors with their statistics, and the configuration and tokenizer
    /// of the VLM that they name (see the crate's documentation for where it is looked for). Of the weights only the list is
    /// read.
    ///
    /// # Errors
    /// If anything is missing, broken, out of bounds, contradictory or not supported.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        Self::open_with(folder, |architecture| {
            let weights = WeightFile::open(folder, "Save the checkpoint with LeRobot")?;
            weights.check(&tensors(architecture), |name| is_cut_off(name, architecture))?;
            Ok(weights)
        })
    }

    /// Opens a folder that holds everything of a checkpoint but its weights, which are to come from elsewhere: see
    /// [`Policy::with_weights`](crate::Policy::with_weights).
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_without_weights(folder: &Path) -> Result<Self, CheckpointError> {
        Self::open_with(folder, |_| Ok(WeightFile::none()))
    }

    fn open_with(
        folder: &Path,
        weights: impl FnOnce(&Architecture) -> Result<WeightFile, CheckpointError>,
    ) -> Result<Self, CheckpointError> {
        let config_path = folder.join("config.json");
        let config_bytes = read(&config_path, "Give the folder that LeRobot saved, often `pretrained_model`")?;
        let config: config::PolicyConfig = parse(&config_bytes, &config_path)?;
        let features = config::features(&config, &config_path)?;

        let vlm_folder = locate::find_folder(folder, &config.vlm_model_name, &config_path)?;
        let vlm_path = vlm_folder.join("config.json");
        let vlm_bytes = read(&vlm_path, "Put the VLM's configuration there")?;
        let vlm: config::VlmConfig = parse(&vlm_bytes, &vlm_path)?;
        let architecture = config::architecture(&config, &config_path, &vlm, &vlm_path)?;

        let mut processors = processors::read_processors(folder, &features, architecture.sensors.as_ref())?;
        let tokenization = &processors.tokenization;
        let preprocessor_path = folder.join("policy_preprocessor.json");
        let tokenizer_folder = locate::find_folder(folder, &tokenization.tokenizer_name, &preprocessor_path)?;
        let (tokenizer, tokenizer_bytes) =
            Tokenizer::open(&tokenizer_folder, tokenization, architecture.text.vocabulary)?;

        let weights = weights(&architecture)?;
        let mut files = vec![config_bytes];
        files.append(&mut processors.files);
        files.extend([tokenizer_bytes, vlm_bytes]);
        let pinned = Pinned::new(weights, files);
        let (card, folder) = (read_card(folder)?, folder.to_owned());
        Ok(Self { folder, architecture, features, processors, tokenizer, pinned, card, vlm_folder })
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
    ///
    /// The first call reads the whole file of weights, which takes the better part of a second for 1 GB.
    pub fn digest(&self) -> &str {
        self.pinned.digest()
    }

    /// The folder that `vlm_model_name` means, if it holds the VLM's own weights and not only its configuration: a
    /// [`VlmCheckpoint`] that can answer in words.
    pub fn vlm_folder(&self) -> Option<&Path> {
        Some(self.vlm_folder.as_path()).filter(|folder| weights::has_weights(folder))
    }

    /// The VLM in [`Checkpoint::vlm_folder`], if there is one.
    ///
    /// # Errors
    /// Those of [`VlmCheckpoint::open`].
    pub fn vlm(&self) -> Result<Option<VlmCheckpoint>, CheckpointError> {
        self.vlm_folder().map(VlmCheckpoint::open).transpose()
    }

    /// Its `waza.json`, if it has one.
    pub fn card(&self) -> Option<&Card> {
        self.card.as_ref()
    }

    /// Size of `model.safetensors`, bytes.
    pub fn weight_bytes(&self) -> usize {
        self.pinned.weights.len()
    }

    /// The language model's embedding table.
    pub fn token_embeddings(&self) -> TokenEmbeddings {
        let text = &self.architecture.text;
        let module = Backbone::SMOLVLA.embed_tokens();
        TokenEmbeddings::new(&self.pinned.weights, &module, (text.vocabulary, text.width))
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
}

impl WeightSource for Checkpoint {
    fn load(&self, weight: &Weight) -> Result<Numbers, CheckpointError> {
        self.pinned.weights.load(weight)
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
    const ABILITIES: [&str; 6] = ["act", "answer", "locate", "embed", "video", "sensors"];
    if let Some(ability) = card.abilities.iter().find(|ability| !ABILITIES.contains(&ability.as_str())) {
        let ability: String = ability.chars().take(200).collect();
        let problem = format!("`{ability}` is no ability, they are {}", ABILITIES.join(", "));
        return Err(CheckpointError::invalid(&path, problem, HINT));
    }
    Ok(Some(card))
}

/// Everything that the digest covers.
#[derive(Debug)]
struct Pinned {
    weights: Arc<WeightFile>,
    /// Content of all other files, in the order of the digest.
    files: Vec<Vec<u8>>,
    digest: OnceLock<String>,
}

impl Pinned {
    fn new(weights: WeightFile, files: Vec<Vec<u8>>) -> Self {
        Self { weights: Arc::new(weights), files, digest: OnceLock::new() }
    }

    fn digest(&self) -> &str {
        self.digest.get_or_init(|| {
            let mut hasher = Sha256::new();
            self.weights.digest(&mut hasher);
            for file in &self.files {
                hasher.update((file.len() as u64).to_le_bytes());
                hasher.update(file);
            }
            hex::encode(hasher.finalize())
        })
    }
}
