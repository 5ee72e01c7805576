//! Words to tokens and back.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tokenizers::models::ModelWrapper;
use tokenizers::{PostProcessor, TruncationDirection, TruncationParams, TruncationStrategy};

use super::error::list;
use super::processors::Tokenization;
use super::{CheckpointError, read};

const RESAVE: &str = "Take the tokenizer that the checkpoint was trained with";

/// Longest instruction that is looked at, bytes; far above what any tokenizer's `max_length` keeps.
const LONGEST_INSTRUCTION: usize = 16 * 1024;

/// The tokenizer of a policy.
#[derive(Clone, Debug)]
pub(crate) struct Tokenizer {
    vocabulary: Vocabulary,
    newline: bool,
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
        let invalid = |problem: String| CheckpointError::invalid(&path, problem, RESAVE);
        let mut inner = read_tokenizer(&bytes, vocabulary, &path)?;
        let added = added_tokens(&inner);
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
        Ok((Self { vocabulary: Vocabulary::new(inner), newline: tokenization.newline }, bytes))
    }

    /// The tokens of an instruction, at least one.
    pub fn encode(&self, instruction: &str) -> Result<Vec<u32>, InstructionError> {
        if instruction.trim().is_empty() {
            return Err(InstructionError::Empty);
        }
        check_length(instruction)?;
        let text = match self.newline && !instruction.ends_with('\n') {
            true => format!("{instruction}\n"),
            false => instruction.to_owned(),
        };
        let encoding = self.vocabulary.encode(&text, true)?;
        let unknown: Vec<String> = encoding
            .iter()
            .filter(|token| self.vocabulary.is_unknown(token.id))
            .map(|token| token.word(&text))
            .collect();
        self.vocabulary.refuse(unknown)?;
        if encoding.is_empty() {
            return Err(InstructionError::Empty);
        }
        Ok(encoding.into_iter().map(|token| token.id).collect())
    }

    /// The words of a closed vocabulary, sorted; empty if the vocabulary is open.
    pub fn words(&self) -> Vec<String> {
        self.vocabulary.words()
    }

    /// The number of a special token.
    pub fn special(&self, token: &str) -> Option<u32> {
        self.vocabulary.id(token)
    }
}

/// An instruction or a question that cannot be put into tokens.
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
    /// There is nothing asked in it.
    #[error("the question is empty. Ask something, for example `is the bowl empty?`")]
    NoQuestion,
    /// Together with what is shown it is longer than the model reads.
    #[error(
        "the question and {frames} frames take {tokens} tokens, the model reads {context}. Ask shorter or show fewer"
    )]
    Context {
        /// Frames that are shown.
        frames: usize,
        /// Tokens of everything.
        tokens: usize,
        /// Tokens that the model reads, and one must be left for the answer.
        context: usize,
    },
    /// It holds a token that only the host may set, in a tokenizer that cannot spell it.
    #[error("the question holds `{token}`, which is no word but a mark of the model's own. Leave it out")]
    Reserved {
        /// The token.
        token: String,
    },
    /// It is longer than any tokenizer keeps.
    #[error(
        "the instruction or question is {bytes} bytes long, at most {LONGEST_INSTRUCTION} are read. Say it shorter"
    )]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The tokenizer gave up.
    #[error("the tokenizer cannot read the words: {cause}. Say it in other words")]
    Tokenizer {
        /// What it said.
        cause: String,
    },
}

/// A tokenizer, and which of its tokens stands for every unknown word. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Vocabulary {
    inner: Arc<tokenizers::Tokenizer>,
    /// Only word-level models have it.
    unknown: Option<u32>,
}

/// A token, and the bytes of the text that it stands for.
pub(super) struct Token {
    pub id: u32,
    pub from: usize,
    pub to: usize,
}

impl Token {
    pub fn word(&self, text: &str) -> String {
        text.get(self.from..self.to).unwrap_or_default().to_owned()
    }
}

impl Vocabulary {
    pub fn new(inner: tokenizers::Tokenizer) -> Self {
        let unknown = match inner.get_model() {
            ModelWrapper::WordLevel(model) => inner.token_to_id(&model.unk_token),
            _ => None,
        };
        Self { inner: Arc::new(inner), unknown }
    }

    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// With `complete`, the tokens that the tokenizer adds of itself are there, too.
    pub fn encode(&self, text: &str, complete: bool) -> Result<Vec<Token>, InstructionError> {
        let encoding = self
            .inner
            .encode(text, complete)
            .map_err(|cause| InstructionError::Tokenizer { cause: cause.to_string() })?;
        let tokens = std::iter::zip(encoding.get_ids(), encoding.get_offsets());
        Ok(tokens.map(|(&id, &(from, to))| Token { id, from, to }).collect())
    }

    /// The text of tokens, without special ones.
    pub fn decode(&self, tokens: &[u32]) -> String {
        // Unknown numbers are left out; only decoders that a checkpoint defines by faulty patterns can fail.
        self.inner.decode(tokens, true).unwrap_or_default()
    }

    pub fn is_closed(&self) -> bool {
        self.unknown.is_some()
    }

    pub fn is_unknown(&self, id: u32) -> bool {
        Some(id) == self.unknown
    }

    pub fn is_special(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        self.inner.id_to_token(id).is_some_and(|token| added.is_special_token(&token))
    }

    /// Fails if there are such words.
    pub fn refuse(&self, mut unknown: Vec<String>) -> Result<(), InstructionError> {
        unknown.retain(|word| !word.trim().is_empty());
        if unknown.is_empty() {
            return Ok(());
        }
        Err(InstructionError::UnknownWords { unknown, known: self.words() })
    }

    /// The words of a closed vocabulary, sorted; empty if the vocabulary is open.
    pub fn words(&self) -> Vec<String> {
        if !self.is_closed() {
            return Vec::new();
        }
        let is_word = |word: &str, id: u32| {
            word.chars().any(char::is_alphanumeric) && !self.is_unknown(id) && !self.is_special(id)
        };
        let vocabulary = self.inner.get_vocab(false).into_iter();
        let mut words: Vec<String> = vocabulary.filter(|(word, id)| is_word(word, *id)).map(|(word, _)| word).collect();
        words.sort();
        words
    }
}

/// What is too long is not even looked at.
pub(super) fn check_length(said: &str) -> Result<(), InstructionError> {
    match said.len() {
        0..=LONGEST_INSTRUCTION => Ok(()),
        bytes => Err(InstructionError::TooLong { bytes }),
    }
}

/// A tokenizer that neither pads nor truncates; `vocabulary` is how many tokens the model embeds.
pub(super) fn read_tokenizer(
    bytes: &[u8],
    vocabulary: usize,
    path: &Path,
) -> Result<tokenizers::Tokenizer, CheckpointError> {
    let invalid = |problem: String| CheckpointError::invalid(path, problem, RESAVE);
    // The crate panics where it meets broken JSON in the middle (0.23, `DecoderWrapper::deserialize`).
    serde_json::from_slice::<Value>(bytes).map_err(|cause| invalid(format!("no tokenizer: {cause}")))?;
    let mut inner =
        tokenizers::Tokenizer::from_bytes(bytes).map_err(|cause| invalid(format!("no tokenizer: {cause}")))?;
    let largest = inner.get_vocab(true).into_iter().max_by_key(|(_, id)| *id);
    if let Some((token, id)) = largest.filter(|(_, id)| *id as usize >= vocabulary) {
        let problem = format!("token `{token}` has number {id}, but the model embeds only {vocabulary} tokens");
        return Err(invalid(problem));
    }
    // What is padded is masked out again, and the plan has no place for it.
    inner.with_padding(None);
    inner.with_truncation(None).map_err(|cause| invalid(cause.to_string()))?;
    Ok(inner)
}

/// Tokens that the tokenizer adds to every text.
pub(super) fn added_tokens(inner: &tokenizers::Tokenizer) -> usize {
    inner.get_post_processor().map_or(0, |processor| processor.added_tokens(false))
}
