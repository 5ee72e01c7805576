//! A SmolVLM's own folder, as transformers saves `SmolVLMForConditionalGeneration`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::config::{VlmConfig, vlm_architecture};
use super::prompt::{VlmTokenization, VlmTokenizer};
use super::weights::{TokenEmbeddings, WeightFile, WeightSource};
use super::{Card, CheckpointError, Pinned, parse, read, read_card};
use crate::architecture::{Backbone, VlmArchitecture};
use crate::plan::{Numbers, Weight};
use crate::tensors::vlm_tensors;

const RESAVE: &str = "Take all files of the model from one place";

/// Most tokens that may end an answer.
const MOST_END_TOKENS: usize = 64;

/// A vision-language model that was read and found whole, and can answer in words.
#[derive(Debug)]
pub struct VlmCheckpoint {
    folder: PathBuf,
    architecture: VlmArchitecture,
    tokenizer: VlmTokenizer,
    pinned: Pinned,
    card: Option<Card>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct GenerationConfig {
    eos_token_id: Option<Ids>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl VlmCheckpoint {
    /// Opens the model in `folder`.
    ///
    /// Reads `config.json`, `tokenizer.json`, `generation_config.json` and `waza.json` if they are there, and the list of
    /// tensors of `model.safetensors` or of the shards that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// If anything is missing, broken, out of bounds, contradictory or not supported.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let config_path = folder.join("config.json");
        let config_bytes = read(&config_path, "Give the folder of a SmolVLM2")?;
        let config: VlmConfig = parse(&config_bytes, &config_path)?;
        let weights = WeightFile::open(folder, RESAVE)?;
        let has_head = weights.contains(&format!("{}.weight", Backbone::SMOLVLM.lm_head()));
        let architecture = vlm_architecture(&config, &config_path, has_head)?;
        weights.check(&vlm_tensors(&architecture), |_| false)?;

        let mut files = vec![config_bytes];
        let end_tokens = read_end_tokens(folder, architecture.text.vocabulary, &mut files)?;
        let tokenizer_path = folder.join("tokenizer.json");
        let tokenizer_bytes = read(&tokenizer_path, RESAVE)?;
        let tokenization = VlmTokenization {
            vocabulary: architecture.text.vocabulary,
            image_tokens: architecture.vision.tokens(),
            context: architecture.context,
            image_token: config.image_token_id,
            end_tokens: &end_tokens,
        };
        let tokenizer = VlmTokenizer::parse(&tokenizer_bytes, &tokenizer_path, &tokenization)?;
        files.push(tokenizer_bytes);
        let pinned = Pinned::new(weights, files);
        Ok(Self { folder: folder.to_owned(), architecture, tokenizer, pinned, card: read_card(folder)? })
    }

    /// Where it was opened.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The network's dimensions.
    pub fn architecture(&self) -> &VlmArchitecture {
        &self.architecture
    }

    /// Questions to tokens, and tokens to answers.
    pub fn tokenizer(&self) -> &VlmTokenizer {
        &self.tokenizer
    }

    /// SHA-256, in hexadecimal, of weights, configurations and tokenizer, each preceded by its length; read as
    /// [`crate::Checkpoint::digest`] is.
    pub fn digest(&self) -> &str {
        self.pinned.digest()
    }

    /// Its `waza.json`, if it has one.
    pub fn card(&self) -> Option<&Card> {
        self.card.as_ref()
    }

    /// Size of its weights, bytes.
    pub fn weight_bytes(&self) -> usize {
        self.pinned.weights.len()
    }

    /// The words of a closed vocabulary, sorted; empty if questions may use any words.
    pub fn words(&self) -> Vec<String> {
        self.tokenizer.words()
    }

    /// The language model's embedding table.
    pub fn token_embeddings(&self) -> TokenEmbeddings {
        let VlmArchitecture { text, backbone, .. } = &self.architecture;
        TokenEmbeddings::new(&self.pinned.weights, &backbone.embed_tokens(), (text.vocabulary, text.width))
    }
}

impl WeightSource for VlmCheckpoint {
    fn load(&self, weight: &Weight) -> Result<Numbers, CheckpointError> {
        self.pinned.weights.load(weight)
    }
}

/// The tokens with which answers end, and the bytes of the file that says so.
fn read_end_tokens(folder: &Path, vocabulary: usize, files: &mut Vec<Vec<u8>>) -> Result<Vec<u32>, CheckpointError> {
    let path = folder.join("generation_config.json");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let bytes = read(&path, RESAVE)?;
    let config: GenerationConfig = parse(&bytes, &path)?;
    let ids = match config.eos_token_id {
        None => Vec::new(),
        Some(Ids::One(id)) => vec![id],
        Some(Ids::Many(ids)) => ids,
    };
    if ids.len() > MOST_END_TOKENS || ids.iter().any(|&id| id as usize >= vocabulary) {
        let problem = format!("`eos_token_id` must be up to {MOST_END_TOKENS} numbers below {vocabulary}");
        return Err(CheckpointError::invalid(&path, problem, RESAVE));
    }
    files.push(bytes);
    Ok(ids)
}
