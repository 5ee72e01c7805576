//! Questions about frames to the tokens of a SmolVLM, and its tokens to text.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use tokenizers::AddedToken;

use super::CheckpointError;
use super::tokenizer::{InstructionError, Token, Vocabulary, added_tokens, check_length, read_tokenizer};

const RESAVE: &str = "Take the tokenizer that the model was trained with";

const START: &str = "<|im_start|>";
const FAKE_IMAGE: &str = "<fake_token_around_image>";
const GLOBAL_IMAGE: &str = "<global-img>";
const IMAGE: &str = "<image>";
const END_OF_UTTERANCE: &str = "<end_of_utterance>";
const USER: &str = "User:";
const ASSISTANT: &str = "\nAssistant:";

/// The tokenizer of a SmolVLM. Clones share it.
///
/// The marks of its prompts are set by [`VlmTokenizer::prompt`] alone: where they stand in a question, they are letters.
#[derive(Clone, Debug)]
pub struct VlmTokenizer {
    vocabulary: Vocabulary,
    marks: Marks,
    user: Arc<[u32]>,
    assistant: Arc<[u32]>,
    end_tokens: Arc<[u32]>,
    image_tokens: usize,
    context: usize,
}

#[derive(Clone, Copy, Debug)]
struct Marks {
    start: u32,
    fake_image: u32,
    global_image: u32,
    image: u32,
    end_of_utterance: u32,
}

/// What the model's other files say about tokens.
pub(super) struct VlmTokenization<'a> {
    /// Tokens that the model embeds.
    pub vocabulary: usize,
    /// Tokens of one image.
    pub image_tokens: usize,
    /// Tokens of question and answer.
    pub context: usize,
    /// Where the model expects images, if its configuration says so.
    pub image_token: Option<u32>,
    /// Tokens that end an answer.
    pub end_tokens: &'a [u32],
}

impl VlmTokenizer {
    /// Reads the content of a `tokenizer.json`. `path` is for errors.
    pub(super) fn parse(bytes: &[u8], path: &Path, with: &VlmTokenization) -> Result<Self, CheckpointError> {
        let invalid = |problem: String| CheckpointError::invalid(path, problem, RESAVE);
        let mut inner = read_tokenizer(bytes, with.vocabulary, path)?;
        if added_tokens(&inner) > 0 {
            let what = "a post_processor that adds tokens";
            return Err(CheckpointError::unsupported(path, what, RESAVE));
        }
        let added: HashMap<u32, AddedToken> =
            inner.get_added_tokens_decoder().iter().map(|(id, token)| (*id, token.clone())).collect();
        let mark = |name: &str| {
            let token = inner.token_to_id(name).and_then(|id| added.get(&id).map(|token| (id, token)));
            let Some((id, token)) = token else {
                return Err(invalid(format!("`{name}` is not among its `added_tokens`")));
            };
            // Such marks swallow what stands beside them, and then a prompt is more than its parts.
            if token.lstrip || token.rstrip || token.single_word {
                let what = format!("`{name}` with `lstrip`, `rstrip` or `single_word`");
                return Err(CheckpointError::unsupported(path, what, RESAVE));
            }
            Ok(id)
        };
        let marks = Marks {
            start: mark(START)?,
            fake_image: mark(FAKE_IMAGE)?,
            global_image: mark(GLOBAL_IMAGE)?,
            image: mark(IMAGE)?,
            end_of_utterance: mark(END_OF_UTTERANCE)?,
        };
        if let Some(image) = with.image_token.filter(|image| *image != marks.image) {
            let problem = format!("`{IMAGE}` has number {}, and config.json has `image_token_id` {image}", marks.image);
            return Err(invalid(problem));
        }
        let is_mark = |id: u32, token: &AddedToken| {
            token.special
                || with.end_tokens.contains(&id)
                || token.content.starts_with('<') && token.content.ends_with('>')
        };
        // Tokenizers forget to call some of their marks special, and then find them in every text.
        let marked = added.iter().filter(|(id, token)| is_mark(**id, token));
        let marked: Vec<AddedToken> = marked.map(|(_, token)| AddedToken { special: true, ..token.clone() }).collect();
        inner.add_special_tokens(marked).map_err(|cause| invalid(cause.to_string()))?;
        // From here on special tokens in a text are spelled like any other word.
        inner.set_encode_special_tokens(true);
        let vocabulary = Vocabulary::new(inner);
        let fixed = |text: &str| -> Result<Arc<[u32]>, CheckpointError> {
            let tokens = vocabulary.encode(text, false).map_err(|cause| invalid(cause.to_string()))?;
            Ok(tokens.iter().map(|token| token.id).collect())
        };
        let (user, assistant) = (fixed(USER)?, fixed(ASSISTANT)?);
        let mut end_tokens = [with.end_tokens, &[marks.end_of_utterance]].concat();
        end_tokens.sort_unstable();
        end_tokens.dedup();
        let end_tokens = Arc::from(end_tokens);
        let VlmTokenization { image_tokens, context, .. } = *with;
        Ok(Self { vocabulary, marks, user, assistant, end_tokens, image_tokens, context })
    }

    /// The token that stands where a row of an image's embeddings goes.
    pub fn image_token(&self) -> u32 {
        self.marks.image
    }

    /// Tokens that end an answer, in rising order.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    /// The words of a closed vocabulary, sorted; empty if questions may use any words.
    pub fn words(&self) -> Vec<String> {
        self.vocabulary.words()
    }

    /// A question about `frames` frames, as SmolVLM's chat template puts it:
    /// `<|im_start|>User:`, the frames, the question, `<end_of_utterance>`, a newline and `Assistant:`. A frame is
    /// `<fake_token_around_image><global-img>`, as many `<image>` as it has tokens, and `<fake_token_around_image>`. Without
    /// frames a space stands before the question.
    ///
    /// # Errors
    /// If the question is empty, holds words that the model does not know, or leaves no room for an answer.
    pub fn prompt(&self, question: &str, frames: usize) -> Result<Vec<u32>, InstructionError> {
        if question.trim().is_empty() {
            return Err(InstructionError::NoQuestion);
        }
        check_length(question)?;
        let marks = &self.marks;
        let beginning = match frames {
            0 => self.said(&format!("{USER} {question}"), USER.len())?,
            _ => self.user.to_vec(),
        };
        let ending = if frames == 0 { Vec::new() } else { self.said(question, 0)? };
        let fixed = [beginning.len(), ending.len(), self.assistant.len(), 2].iter().sum::<usize>();
        let tokens = frames.saturating_mul(self.image_tokens.saturating_add(3)).saturating_add(fixed);
        if tokens >= self.context {
            return Err(InstructionError::Context { frames, tokens, context: self.context });
        }
        let mut prompt = Vec::with_capacity(tokens);
        prompt.push(marks.start);
        prompt.extend(beginning);
        for _ in 0..frames {
            prompt.extend([marks.fake_image, marks.global_image]);
            prompt.extend(std::iter::repeat_n(marks.image, self.image_tokens));
            prompt.push(marks.fake_image);
        }
        prompt.extend(ending);
        prompt.push(marks.end_of_utterance);
        prompt.extend_from_slice(&self.assistant);
        Ok(prompt)
    }

    /// The tokens of a text whose bytes beyond `foreign` come from outside.
    fn said(&self, text: &str, foreign: usize) -> Result<Vec<u32>, InstructionError> {
        let tokens = self.vocabulary.encode(text, false)?;
        let from_outside = |token: &&Token| token.to > foreign;
        // A vocabulary may hold a special token as a word of its own, and then nothing spells it.
        let special = |token: &&Token| self.vocabulary.is_special(token.id);
        let closed = self.vocabulary.is_closed();
        let unknown = |token: &&Token| self.vocabulary.is_unknown(token.id) || (closed && special(token));
        self.vocabulary.refuse(tokens.iter().filter(from_outside).filter(unknown).map(|t| t.word(text)).collect())?;
        if let Some(token) = tokens.iter().find(special) {
            let token = self.vocabulary.token(token.id).unwrap_or_default();
            return Err(InstructionError::Reserved { token });
        }
        Ok(tokens.into_iter().map(|token| token.id).collect())
    }

    /// The text of tokens, without special ones; what is no UTF-8 becomes U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        self.vocabulary.decode(tokens)
    }

    /// Text from tokens that come one by one.
    pub fn stream(&self) -> TextStream {
        TextStream { vocabulary: self.vocabulary.clone(), tokens: Vec::new(), told: 0 }
    }
}

/// Makes text of tokens as they come, in whole characters. All pieces together are what [`VlmTokenizer::decode`] makes of
/// all tokens.
#[derive(Clone, Debug)]
pub struct TextStream {
    vocabulary: Vocabulary,
    /// Those of the last piece, because some decoders look back, and those since.
    tokens: Vec<u32>,
    /// How many of them are told.
    told: usize,
}

impl TextStream {
    /// What `token` adds to the text: nothing while a character is not whole.
    pub fn push(&mut self, token: u32) -> String {
        self.tokens.push(token);
        let (piece, whole) = self.rest();
        if !whole || piece.is_empty() {
            return String::new();
        }
        self.tokens.drain(..self.told);
        self.told = self.tokens.len();
        piece
    }

    /// What is left when no more tokens come: the replacement characters of a broken one, mostly nothing.
    pub fn finish(self) -> String {
        self.rest().0
    }

    /// What is not told, and whether it ends with a whole character.
    fn rest(&self) -> (String, bool) {
        let told = self.vocabulary.decode(&self.tokens[..self.told]);
        let all = self.vocabulary.decode(&self.tokens);
        let whole = !all.ends_with(char::REPLACEMENT_CHARACTER);
        (all.get(told.len()..).unwrap_or_default().to_owned(), whole)
    }
}
