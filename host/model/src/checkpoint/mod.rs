//! A checkpoint folder, as LeRobot saves SmolVLA or as transformers saves SmolVLM: read, checked as a whole, and pinned by
//! one digest.

mod adapter;
mod config;
mod error;
mod fit;
mod header;
mod locate;
mod processors;
mod prompt;
mod tokenizer;
mod vlm;
mod weights;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use error::{CheckpointError, Misshapen, TensorMismatch};
pub use prompt::{TextStream, VlmTokenizer};
pub use tokenizer::InstructionError;
pub use vlm::VlmCheckpoint;
pub use weights::{TokenEmbeddings, WeightSource};

pub(crate) use config::{Features, Outline};
pub(crate) use fit::Fit;
#[cfg(fuzzing)]
pub(crate) use header::Header;
pub(crate) use processors::{Normalization, Processors};
pub(crate) use tokenizer::Tokenizer;

use crate::architecture::{Architecture, Backbone};
use crate::plan::{Numbers, Weight};
use crate::setup::{Setup, Units, is_rate};
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
        match Kind::of(folder)? {
            Kind::Vlm => VlmCheckpoint::open(folder).map(|vlm| Self::Vlm(Box::new(vlm))),
            Kind::Policy(_) => Checkpoint::open(folder).map(|policy| Self::Policy(Box::new(policy))),
        }
    }
}

/// What a folder's `config.json` says that it is.
#[derive(Debug)]
pub(crate) enum Kind {
    /// transformers says `model_type`.
    Vlm,
    /// LeRobot says `type`: `smolvla`, `act`, `diffusion`, ...
    Policy(String),
}

impl Kind {
    pub fn of(folder: &Path) -> Result<Self, CheckpointError> {
        #[derive(Deserialize)]
        struct Config {
            model_type: Option<String>,
            r#type: Option<String>,
        }
        if let Some(adapter) = adapter::find(folder)? {
            return Err(adapter);
        }
        let path = folder.join("config.json");
        let config: Config =
            parse(&read(&path, "Give the folder of a model, as LeRobot or transformers saved it")?, &path)?;
        match (config.r#type, config.model_type) {
            (None, Some(_)) => Ok(Self::Vlm),
            (Some(kind), _) => Ok(Self::Policy(kind)),
            (None, None) => {
                let problem =
                    "it says no `type`, as LeRobot's policies do, and no `model_type`, as transformers' models do";
                Err(CheckpointError::invalid(
                    &path,
                    problem,
                    "Give the folder that LeRobot saved, often `pretrained_model`",
                ))
            }
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
    fit: Fit,
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
    /// What its states and actions are in; the embodiment's if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units: Option<Units>,
    /// From what it calls a camera to what the robot calls it.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub cameras: IndexMap<String, String>,
    /// Which data set's statistics it normalises by, where its files have those of several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics: Option<String>,
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
        Self::open_for(folder, &Setup::default())
    }

    /// Opens the checkpoint in `folder` for a robot, and with what is said of it besides its files.
    ///
    /// That it opens does not mean that it fits the robot: see [`About::obstacles`](crate::About::obstacles).
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_for(folder: &Path, setup: &Setup) -> Result<Self, CheckpointError> {
        Parts::read(folder, setup, true).whole()
    }

    /// Opens a folder that holds everything of a checkpoint but its weights, which are to come from elsewhere: see
    /// [`Policy::with_weights`](crate::Policy::with_weights).
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_without_weights(folder: &Path) -> Result<Self, CheckpointError> {
        Parts::read(folder, &Setup::default(), false).whole()
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
    /// configuration, each preceded by its length: equal digests mean equal behaviour, where equal things are said of units,
    /// rate and cameras.
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

    pub(crate) fn fit(&self) -> &Fit {
        &self.fit
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

/// A policy's folder, as far as it can be read: whole, it is a [`Checkpoint`].
#[derive(Debug)]
pub(crate) struct Parts {
    folder: PathBuf,
    pub features: Option<Features>,
    pub architecture: Option<Architecture>,
    processors: Option<Processors>,
    tokenizer: Option<(Tokenizer, Vec<u8>)>,
    weights: Option<WeightFile>,
    card: Option<Card>,
    fit: Option<Fit>,
    vlm: Option<(PathBuf, Vec<u8>)>,
    config_bytes: Vec<u8>,
    /// All that is wrong with it, in the order in which the files build on each other.
    pub problems: Vec<CheckpointError>,
}

impl Parts {
    /// Reads what can be read. What fails for want of another part is not tried.
    pub fn read(folder: &Path, setup: &Setup, with_weights: bool) -> Self {
        let mut parts = Self {
            folder: folder.to_owned(),
            features: None,
            architecture: None,
            processors: None,
            tokenizer: None,
            weights: None,
            card: None,
            fit: None,
            vlm: None,
            config_bytes: Vec::new(),
            problems: Vec::new(),
        };
        if let Err(problem) = parts.fill(folder, setup, with_weights) {
            parts.problems.push(problem);
        }
        parts
    }

    /// Fails where nothing more can be read.
    fn fill(&mut self, folder: &Path, setup: &Setup, with_weights: bool) -> Result<(), CheckpointError> {
        let config_path = folder.join("config.json");
        match Kind::of(folder)? {
            Kind::Policy(kind) if kind == "smolvla" => {}
            Kind::Policy(kind) => {
                let kind: String = kind.chars().take(100).collect();
                let what = format!("policy type `{kind}`");
                return Err(CheckpointError::unsupported(&config_path, what, "Waza loads smolvla"));
            }
            Kind::Vlm => {
                let what = "a model that answers in words where a policy is needed";
                return Err(CheckpointError::unsupported(&config_path, what, "Give it with `--vlm`, beside a policy"));
            }
        }
        self.config_bytes = read(&config_path, "Give the folder that LeRobot saved, often `pretrained_model`")?;
        let config: config::PolicyConfig = parse(&self.config_bytes, &config_path)?;
        self.features = self.keep(config::features(&config, &config_path));
        self.vlm = self.keep(find_vlm(folder, &config.vlm_model_name, &config_path));
        if let Some((folder, bytes)) = &self.vlm {
            let vlm_path = folder.join("config.json");
            let architecture = parse(bytes, &vlm_path)
                .and_then(|vlm: config::VlmConfig| config::architecture(&config, &config_path, &vlm, &vlm_path));
            self.architecture = self.keep(architecture);
        }
        // Old checkpoints keep statistics there; what is wrong with the file is told where its turn is.
        let mut unread = None;
        if !with_weights {
            self.weights = Some(WeightFile::none());
        } else {
            match WeightFile::open(folder, "Save the checkpoint with LeRobot") {
                Ok(weights) => self.weights = Some(weights),
                Err(problem) => unread = Some(problem),
            }
        }
        self.card = self.keep(read_card(folder)).flatten();
        if let Some(features) = &self.features {
            let chosen = self.card.as_ref().and_then(|card| card.statistics.as_deref());
            let processors = processors::read_processors(&processors::Reading {
                folder,
                config: &config,
                features,
                sensors: self.architecture.as_ref().and_then(|architecture| architecture.sensors.as_ref()),
                weights: self.weights.as_ref(),
                group: setup.said.statistics.as_deref().or(chosen),
            });
            self.processors = self.keep(processors);
        }
        if let (Some(processors), Some(architecture)) = (&self.processors, &self.architecture) {
            let tokenization = &processors.tokenization;
            let named_in = folder.join("policy_preprocessor.json");
            let tokenizer = locate::find_folder(folder, &tokenization.tokenizer_name, "tokenizer.json", &named_in)
                .and_then(|folder| Tokenizer::open(&folder, tokenization, architecture.text.vocabulary));
            self.tokenizer = self.keep(tokenizer);
        }
        self.problems.extend(unread);
        if let (true, Some(weights), Some(a)) = (with_weights, &self.weights, &self.architecture) {
            let checked = weights.check(&tensors(a), |name| is_cut_off(name, a));
            self.keep(checked);
        }
        if let (Some(features), Some(processors)) = (&self.features, &self.processors) {
            self.fit = Some(Fit::new(folder, setup, self.card.as_ref(), features, processors));
        }
        Ok(())
    }

    fn keep<T>(&mut self, part: Result<T, CheckpointError>) -> Option<T> {
        part.map_err(|problem| self.problems.push(problem)).ok()
    }

    /// The checkpoint, or the first of the problems.
    pub fn whole(mut self) -> Result<Checkpoint, CheckpointError> {
        if !self.problems.is_empty() {
            return Err(self.problems.swap_remove(0));
        }
        let folder = self.folder.clone();
        self.join().ok_or_else(|| CheckpointError::invalid(&folder, "a part was not read", "This is a defect of waza"))
    }

    fn join(self) -> Option<Checkpoint> {
        let (mut processors, (tokenizer, tokenizer_bytes)) = (self.processors?, self.tokenizer?);
        let (vlm_folder, vlm_bytes) = self.vlm?;
        let mut files = vec![self.config_bytes];
        files.append(&mut processors.files);
        files.extend([tokenizer_bytes, vlm_bytes]);
        Some(Checkpoint {
            folder: self.folder,
            architecture: self.architecture?,
            features: self.features?,
            processors,
            tokenizer,
            pinned: Pinned::new(self.weights?, files),
            card: self.card,
            fit: self.fit?,
            vlm_folder,
        })
    }
}

/// The folder of the VLM that a policy names, and its configuration.
fn find_vlm(folder: &Path, name: &str, named_in: &Path) -> Result<(PathBuf, Vec<u8>), CheckpointError> {
    let folder = locate::find_folder(folder, name, "config.json", named_in)?;
    let bytes = read(&folder.join("config.json"), "Put the VLM's configuration there")?;
    Ok((folder, bytes))
}

/// A side file, which must be small.
fn read(path: &Path, hint: &'static str) -> Result<Vec<u8>, CheckpointError> {
    let fail = |cause| CheckpointError::Read { path: path.to_owned(), cause, hint };
    let size = std::fs::metadata(path).map_err(fail)?.len();
    if size > LARGEST_SIDE_FILE {
        let problem = format!("{size} bytes, and at most {LARGEST_SIDE_FILE} are read");
        return Err(CheckpointError::invalid(path, problem, hint));
    }
    let bytes = std::fs::read(path).map_err(fail)?;
    if is_pointer(&bytes) {
        return Err(CheckpointError::Pointer { path: path.to_owned() });
    }
    Ok(bytes)
}

/// What Git LFS keeps where it has not got the file: <https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>.
fn is_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(b"version https://git-lfs.github.com/spec/")
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
    if let Some(rate) = card.action_rate_hz.filter(|rate| !is_rate(*rate)) {
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
