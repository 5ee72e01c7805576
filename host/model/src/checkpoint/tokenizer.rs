//! Instructions to tokens.

use std::path::Path;

use tokenizers::models::ModelWrapper;
use tokenizers::{PostProcessor, TruncationDirection, TruncationParams, TruncationStrategy};

use super::error::list;
use super::processors::Tokenization;
use super::{CheckpointError, read};

const RESAVE: &str = "Take the tokenizer that the checkpoint was trained with";

/// Longest instruction that is looked at, bytes; far above what any tokenizer's `max_length` keeps.
const LONGEST_INSTRUCTION: usize = 16 * 1024;

/// The checkpoint's tokenizer.
#[derive(Clone, Debug)]
pub(crate) struct Tokenizer {
    inner: tokenizers::Tokenizer,
    newline: bool,
    /// Of a word-level model: the token that stands for every unknown word.
    unknown: Option<u32>,
}

/// An instruction that cannot be put into tokens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstructionError {
    /// The model was trained on a closed vocabulary, and these words are not in it.
    #[error("the model does not know {}. It knows: {}", list(.unknown.iter().map(|w| format!("`{w}`"))), .known.join(", "))]
    UnknownWords {
        /// The unknown words, in order.
        unknown: Vec<String>,
        /// All words that it knows, sorted.
        known: Vec<String>,
    },
    /// There is nothing to do in it.
    #[error("the instruction is empty. Say what to do, for example `touch the red block`")]
    Empty,
    /// It is longer than any tokenizer keeps.
    #[error("the instruction is {bytes} bytes long, at most {LONGEST_INSTRUCTION} are read. Say it shorter")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The tokenizer gave up.
    #[error("the tokenizer cannot read the instruction: {cause}. Say it in other words")]
    Tokenizer {
        /// What it said.
        cause: String,
    },
}

impl Tokenizer {
    /// Reads `tokenizer.json` of `folder`; also gives its bytes, for the digest.
    pub fn open(
        folder: &Path,
        tokenization: &Tokenization,
        vocabulary: usize,
    ) -> Result<(Self, Vec<u8>), CheckpointError> {
        let path = folder.join("tokenizer.json");
        let bytes = read(&path, RESAVE)?;
        let tokenizer = Self::parse(&bytes, tokenization, vocabulary, &path)?;
        Ok((tokenizer, bytes))
    }

    fn parse(
        bytes: &[u8],
        tokenization: &Tokenization,
        vocabulary: usize,
        path: &Path,
    ) -> Result<Self, CheckpointError> {
        let invalid = |problem: String| CheckpointError::invalid(path, problem, RESAVE);
        let mut inner =
            tokenizers::Tokenizer::from_bytes(bytes).map_err(|cause| invalid(format!("no tokenizer: {cause}")))?;
        let largest = inner.get_vocab(true).into_iter().max_by_key(|(_, id)| *id);
        if let Some((token, id)) = largest.filter(|(_, id)| *id as usize >= vocabulary) {
            let problem = format!("token `{token}` has number {id}, but the model embeds only {vocabulary} tokens");
            return Err(invalid(problem));
        }
        let added = inner.get_post_processor().map_or(0, |p| p.added_tokens(false));
        if added >= tokenization.max_length {
            let problem = format!("it adds {added} tokens, and `max_length` is {}", tokenization.max_length);
            return Err(invalid(problem));
        }
        let truncation = TruncationParams {
            max_length: tokenization.max_length,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
            direction: TruncationDirection::Right,
        };
        inner.with_truncation(Some(truncation)).map_err(|cause| invalid(cause.to_string()))?;
        // What is padded is masked out again, and the plan has no place for it.
        inner.with_padding(None);
        let unknown = match inner.get_model() {
            ModelWrapper::WordLevel(model) => inner.token_to_id(&model.unk_token),
            _ => None,
        };
        Ok(Self { inner, newline: tokenization.newline, unknown })
    }

    /// The tokens of an instruction, at least one.
    pub fn encode(&self, instruction: &str) -> Result<Vec<u32>, InstructionError> {
        if instruction.trim().is_empty() {
            return Err(InstructionError::Empty);
        }
        if instruction.len() > LONGEST_INSTRUCTION {
            return Err(InstructionError::TooLong { bytes: instruction.len() });
        }
        let text = match self.newline && !instruction.ends_with('\n') {
            true => format!("{instruction}\n"),
            false => instruction.to_owned(),
        };
        let encoding = self
            .inner
            .encode(text.as_str(), true)
            .map_err(|cause| InstructionError::Tokenizer { cause: cause.to_string() })?;
        let unknown: Vec<String> = std::iter::zip(encoding.get_ids(), encoding.get_offsets())
            .filter(|(id, _)| Some(**id) == self.unknown)
            .filter_map(|(_, &(from, to))| text.get(from..to))
            .filter(|word| !word.trim().is_empty())
            .map(str::to_owned)
            .collect();
        if !unknown.is_empty() {
            return Err(InstructionError::UnknownWords { unknown, known: self.words() });
        }
        if encoding.is_empty() {
            return Err(InstructionError::Empty);
        }
        Ok(encoding.get_ids().to_vec())
    }

    /// The words of a closed vocabulary, sorted; empty if the vocabulary is open.
    pub fn words(&self) -> Vec<String> {
        if self.unknown.is_none() {
            return Vec::new();
        }
        let special = |id: &u32| {
            let added = self.inner.get_added_vocabulary();
            self.inner.id_to_token(*id).is_none_or(|token| added.is_special_token(&token))
        };
        let is_word =
            |word: &str, id: &u32| word.chars().any(char::is_alphanumeric) && Some(*id) != self.unknown && !special(id);
        let mut words: Vec<String> = self
            .inner
            .get_vocab(false)
            .into_iter()
            .filter(|(word, id)| is_word(word, id))
            .map(|(word, _)| word)
            .collect();
        words.sort();
        words
    }

    /// The number of a special token.
    pub fn special(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }
}
