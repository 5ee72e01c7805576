//! A SmolVLM2 on a device: from images and a question to words, boxes and vectors.
//!
//! A question is read by one plan, and each word of the answer by another, whose keys and values last from word to word. So
//! an answer is made step by step, and whoever owns the model may do other work in between.

mod decoding;
mod detection;

pub use decoding::{Decoding, Sampling};
pub use detection::{Detection, boxes, locating};

use crate::about::About;
use crate::architecture::VlmArchitecture;
use crate::checkpoint::{TextStream, TokenEmbeddings, VlmCheckpoint, VlmTokenizer};
use crate::device::{self, Device};
use crate::error::ModelError;
use crate::executor::{Executor, Resident, Source, Target, forget};
use crate::image::{Image, patches_from_pixels, stretched_patches};
use crate::plan::{DecodePlan, EncodePlan, PromptPlan, TextNetwork, View};
use crate::recent::Recent;
use decoding::Next;

/// Images that are encoded together at most.
const IMAGES_AT_ONCE: usize = 8;
/// Encoded images that are kept.
const IMAGES_KEPT: usize = 16;
/// Plans of each kind that are kept.
const PLANS_KEPT: usize = 4;
/// Plans that write are made for multiples of so many tokens, so that there are few of them.
const CAPACITY_STEP: usize = 256;
/// Most images of one question.
pub const MOST_IMAGES: usize = 64;

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// In words.
    pub text: String,
    /// What it is about, oldest first; none for a question about nothing seen.
    pub images: Vec<Image>,
}

/// What a step of an answer brought.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// More text, in whole characters; may be empty.
    Text(String),
    /// The answer is whole.
    Done(Answer),
}

/// An answer in words.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// All of its text.
    pub text: String,
    /// Geometric mean of its tokens' probabilities, in [0, 1].
    pub confidence: f32,
    /// Tokens that it took, the one that ended it included.
    pub tokens: usize,
    /// It ended by itself, not at [`Decoding::most_tokens`].
    pub ended: bool,
}

/// An answer in the making. Its keys and values lie in the model, which has room for those of one answer: beginning another
/// one ends it.
#[derive(Debug)]
pub struct Generation {
    number: u64,
    capacity: usize,
    /// Tokens that were read.
    position: usize,
    most_tokens: usize,
    /// Keys and values of the prompt, until the first token is read after it.
    prompt: Vec<Resident>,
    logits: Vec<f32>,
    next: Next,
    tokens: Vec<u32>,
    log_probability: f64,
    text: String,
    stream: TextStream,
}

/// A vision-language model, loaded and ready.
pub struct Vlm {
    about: About,
    network: TextNetwork,
    executor: Box<dyn Executor>,
    embeddings: TokenEmbeddings,
    tokenizer: VlmTokenizer,
    encoders: Recent<usize, EncodePlan>,
    prompts: Recent<usize, PromptPlan>,
    decoders: Recent<usize, DecodePlan>,
    encoded: Recent<Image, Resident>,
    images_encoded: usize,
    /// The answer whose keys and values the model holds.
    current: u64,
}

/// What a prompt left behind.
struct Prompted {
    caches: Vec<Resident>,
    logits: Vec<f32>,
    hidden: Vec<f32>,
}

impl Vlm {
    /// Loads `checkpoint` onto `device`.
    ///
    /// # Errors
    /// If the weights cannot be read or the device cannot be had.
    pub fn new(checkpoint: &VlmCheckpoint, device: Device) -> Result<Self, ModelError> {
        let network = TextNetwork::new(checkpoint.architecture().clone());
        let executor = device::open(device, network.weights(), checkpoint)?;
        Ok(Self {
            about: checkpoint.about(executor.device()),
            embeddings: checkpoint.token_embeddings(),
            tokenizer: checkpoint.tokenizer().clone(),
            network,
            executor,
            encoders: Recent::new(PLANS_KEPT),
            prompts: Recent::new(PLANS_KEPT),
            decoders: Recent::new(PLANS_KEPT),
            encoded: Recent::new(IMAGES_KEPT),
            images_encoded: 0,
            current: 0,
        })
    }

    /// What it is and can do.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// The network's dimensions.
    pub fn architecture(&self) -> &VlmArchitecture {
        self.network.architecture()
    }

    /// Images encoded so far.
    pub fn images_encoded(&self) -> usize {
        self.images_encoded
    }

    /// Bytes that it holds on its device.
    pub fn device_bytes(&self) -> u64 {
        self.executor.bytes() + self.encoded.values().map(Resident::bytes).sum::<usize>() as u64
    }

    /// Loses the device, as if its driver had been reset, where there is one that can be lost. For tests.
    #[doc(hidden)]
    pub fn lose_device(&mut self) {
        self.executor.lose();
    }

    /// Reads a question; [`Vlm::step`] then answers it.
    ///
    /// # Errors
    /// If the question is empty, too long, or holds words that the model does not know, or if the device fails.
    pub fn begin(&mut self, question: &Question, decoding: &Decoding) -> Result<Generation, ModelError> {
        decoding.check()?;
        let tokens = self.prompt(question)?;
        let most = self.network.architecture().context;
        if tokens.len() + decoding.most_tokens > most {
            return Err(ModelError::Prompt { tokens: tokens.len(), answer: decoding.most_tokens, most });
        }
        self.encode(&question.images)?;
        let read = self.read(&tokens, &question.images, false)?;
        self.start(tokens.len(), read, decoding)
    }

    /// The whole answer to a question.
    ///
    /// # Errors
    /// As [`Vlm::begin`].
    pub fn ask(&mut self, question: &Question, decoding: &Decoding) -> Result<Answer, ModelError> {
        let mut generation = self.begin(question, decoding)?;
        loop {
            if let Step::Done(answer) = self.step(&mut generation)? {
                return Ok(answer);
            }
        }
    }

    /// One more token of an answer. After [`Step::Done`] it says so again.
    ///
    /// # Errors
    /// If the device fails, or if another answer was begun meanwhile.
    pub fn step(&mut self, generation: &mut Generation) -> Result<Step, ModelError> {
        if generation.number != self.current {
            return Err(ModelError::Superseded);
        }
        if generation.over(&self.tokenizer) {
            return Ok(Step::Done(generation.answer(&self.tokenizer)));
        }
        if let Some(&token) = generation.tokens.last() {
            self.feed(generation, token)?;
        }
        let (token, log_probability) = generation.next.choose(&generation.logits)?;
        generation.tokens.push(token);
        generation.log_probability += log_probability;
        if self.tokenizer.end_tokens().contains(&token) {
            return Ok(Step::Done(generation.answer(&self.tokenizer)));
        }
        let piece = generation.stream.push(token);
        generation.text.push_str(&piece);
        Ok(Step::Text(piece))
    }

    /// A vector of length 1 for comparing: the mean of the last layer's output over all tokens of the prompt, `width`
    /// numbers.
    ///
    /// # Errors
    /// As [`Vlm::begin`].
    pub fn embed(&mut self, text: &str, images: &[Image]) -> Result<Vec<f32>, ModelError> {
        let question = Question { text: text.to_owned(), images: images.to_vec() };
        let tokens = self.prompt(&question)?;
        self.encode(images)?;
        let read = self.read(&tokens, images, true)?;
        let width = self.network.architecture().text.width;
        let mut sum = vec![0.0f64; width];
        for row in read.hidden.chunks(width) {
            sum.iter_mut().zip(row).for_each(|(sum, number)| *sum += f64::from(*number));
        }
        let norm = sum.iter().map(|x| x * x).sum::<f64>().sqrt();
        if !(norm.is_finite() && norm > 0.0) {
            return Err(ModelError::NotFinite { what: "embedding", hint: CHECK });
        }
        Ok(sum.into_iter().map(|x| (x / norm) as f32).collect())
    }

    /// Asks a model that was trained for it where `what` is in `image`, best first. See [`boxes`] for the form of the
    /// answer.
    ///
    /// # Errors
    /// As [`Vlm::begin`].
    pub fn locate(&mut self, what: &str, image: &Image) -> Result<Vec<Detection>, ModelError> {
        let answer = self.ask(&locating(what, image), &Decoding::default())?;
        Ok(boxes(&answer))
    }

    fn prompt(&self, question: &Question) -> Result<Vec<u32>, ModelError> {
        if question.images.len() > MOST_IMAGES {
            return Err(ModelError::Images { found: question.images.len(), most: MOST_IMAGES });
        }
        Ok(self.tokenizer.prompt(&question.text, question.images.len())?)
    }

    /// Encodes images that were not encoded yet.
    fn encode(&mut self, images: &[Image]) -> Result<(), ModelError> {
        let mut fresh: Vec<&Image> = Vec::new();
        for image in images {
            if self.encoded.touch(image).is_none() && !fresh.contains(&image) {
                fresh.push(image);
            }
        }
        let vision = self.network.architecture().vision.clone();
        let numbers = vision.patches() * vision.patch_numbers();
        // A question about more images than are kept would evict its own.
        self.encoded.make_room(images.len());
        for images in fresh.chunks(IMAGES_AT_ONCE) {
            let mut patches = vec![0.0; images.len() * numbers];
            for (image, patches) in images.iter().zip(patches.chunks_mut(numbers)) {
                stretched_patches(image, &vision, patches);
            }
            for (image, tokens) in images.iter().zip(self.encode_patches(images.len(), &patches)?) {
                self.encoded.add((*image).clone(), tokens);
            }
        }
        Ok(())
    }

    fn encode_patches(&mut self, images: usize, patches: &[f32]) -> Result<Vec<Resident>, ModelError> {
        if self.encoders.touch(&images).is_none() {
            let plan = self.network.encode(images)?;
            forget(self.executor.as_mut(), self.encoders.add(images, plan).map(|plan| plan.plan));
        }
        let Some(plan) = self.encoders.get(&images) else { return Ok(Vec::new()) };
        let mut tokens: Vec<Option<Resident>> = (0..images).map(|_| None).collect();
        let mut outputs: Vec<(View, Target)> =
            plan.embeddings.iter().copied().zip(tokens.iter_mut().map(Target::Resident)).collect();
        self.executor.run(&plan.plan, &[(plan.patches, Source::Host(patches))], &mut outputs)?;
        drop(outputs);
        self.images_encoded += images;
        Ok(tokens.into_iter().flatten().collect())
    }

    /// Runs the language model over a prompt whose images are encoded.
    fn read(&mut self, tokens: &[u32], images: &[Image], hidden: bool) -> Result<Prompted, ModelError> {
        let residents: Vec<&Resident> = images.iter().filter_map(|image| self.encoded.get(image)).collect();
        let rows = tokens.len();
        if self.prompts.touch(&rows).is_none() {
            let plan = self.network.prompt(rows)?;
            forget(self.executor.as_mut(), self.prompts.add(rows, plan).map(|plan| plan.plan));
        }
        let Some(plan) = self.prompts.get(&rows) else { return Err(ModelError::Stopped) };
        run_prompt(self.executor.as_mut(), plan, &self.embeddings, &self.tokenizer, tokens, &residents, hidden)
    }

    /// Makes room for an answer behind a prompt of `rows` tokens.
    fn start(&mut self, rows: usize, read: Prompted, decoding: &Decoding) -> Result<Generation, ModelError> {
        let capacity = (rows + decoding.most_tokens).next_multiple_of(CAPACITY_STEP);
        if self.decoders.touch(&capacity).is_none() {
            let plan = self.network.decode(capacity)?;
            forget(self.executor.as_mut(), self.decoders.add(capacity, plan).map(|plan| plan.plan));
        }
        self.current += 1;
        Ok(Generation {
            number: self.current,
            capacity,
            position: rows,
            most_tokens: decoding.most_tokens,
            prompt: read.caches,
            logits: read.logits,
            next: Next::new(decoding),
            tokens: Vec::new(),
            log_probability: 0.0,
            text: String::new(),
            stream: self.tokenizer.stream(),
        })
    }

    /// Reads one more token.
    fn feed(&mut self, generation: &mut Generation, token: u32) -> Result<(), ModelError> {
        let Some(plan) = self.decoders.touch(&generation.capacity) else { return Err(ModelError::Superseded) };
        self.network.decode_at(plan, generation.position)?;
        let embedding = self.embeddings.rows(&[token])?;
        let caches = plan.caches.iter().map(|cache| cache.rows(0..generation.position));
        let mut inputs: Vec<(View, Source)> = caches.zip(generation.prompt.iter().map(Source::Resident)).collect();
        inputs.push((plan.embedding, Source::Host(&embedding)));
        self.executor.run(&plan.plan, &inputs, &mut [(plan.logits, Target::Host(&mut generation.logits))])?;
        generation.prompt.clear();
        generation.position += 1;
        Ok(())
    }

    /// The last logits of a prompt of given tokens and pixels (`channels * height * width` numbers in -1..=1 an image), and
    /// `count` greedy tokens after it, whatever they are.
    pub(crate) fn trace(
        &mut self,
        tokens: &[u32],
        pixels: &[Vec<f32>],
        count: usize,
    ) -> Result<(Vec<f32>, Vec<u32>), ModelError> {
        let vision = self.network.architecture().vision.clone();
        let mut patches = vec![0.0; pixels.len() * vision.patches() * vision.patch_numbers()];
        for (pixels, patches) in pixels.iter().zip(patches.chunks_mut(vision.patches() * vision.patch_numbers())) {
            patches_from_pixels(pixels, &vision, patches);
        }
        let images = if pixels.is_empty() { Vec::new() } else { self.encode_patches(pixels.len(), &patches)? };
        let plan = self.network.prompt(tokens.len())?;
        let residents: Vec<&Resident> = images.iter().collect();
        let (executor, tokenizer) = (self.executor.as_mut(), &self.tokenizer);
        let read = run_prompt(executor, &plan, &self.embeddings, tokenizer, tokens, &residents, false)?;
        self.executor.forget(plan.plan.layout);
        let logits = read.logits.clone();
        let mut generation = self.start(tokens.len(), read, &Decoding { most_tokens: count, sampling: None })?;
        let mut made: Vec<u32> = Vec::with_capacity(count);
        while made.len() < count {
            if let Some(&token) = made.last() {
                self.feed(&mut generation, token)?;
            }
            made.push(generation.next.choose(&generation.logits)?.0);
        }
        Ok((logits, made))
    }
}

fn run_prompt(
    executor: &mut dyn Executor,
    plan: &PromptPlan,
    embeddings: &TokenEmbeddings,
    tokenizer: &VlmTokenizer,
    tokens: &[u32],
    images: &[&Resident],
    hidden: bool,
) -> Result<Prompted, ModelError> {
    let words = embeddings.rows(tokens)?;
    let mut inputs: Vec<(View, Source)> = vec![(plan.embeddings, Source::Host(&words))];
    // Over the rows of image tokens go those of the images, in order.
    let mut row = 0;
    let mut images = images.iter();
    for run in tokens.chunk_by(|a, b| (*a == tokenizer.image_token()) == (*b == tokenizer.image_token())) {
        if run.first() == Some(&tokenizer.image_token())
            && let Some(image) = images.next()
        {
            inputs.push((plan.embeddings.rows(row..row + run.len()), Source::Resident(image)));
        }
        row += run.len();
    }
    let mut caches: Vec<Option<Resident>> = plan.caches.iter().map(|_| None).collect();
    let mut logits = vec![0.0; plan.logits.columns];
    let mut rows = vec![0.0; if hidden { plan.hidden.rows * plan.hidden.columns } else { 0 }];
    let mut outputs: Vec<(View, Target)> =
        plan.caches.iter().copied().zip(caches.iter_mut().map(Target::Resident)).collect();
    outputs.push((plan.logits, Target::Host(&mut logits)));
    if hidden {
        outputs.push((plan.hidden, Target::Host(&mut rows)));
    }
    executor.run(&plan.plan, &inputs, &mut outputs)?;
    drop(outputs);
    Ok(Prompted { caches: caches.into_iter().flatten().collect(), logits, hidden: rows })
}

const CHECK: &str = "Check the model with `waza model verify`";

impl Generation {
    fn over(&self, tokenizer: &VlmTokenizer) -> bool {
        let ended = self.tokens.last().is_some_and(|token| tokenizer.end_tokens().contains(token));
        ended || self.tokens.len() >= self.most_tokens
    }

    fn answer(&mut self, tokenizer: &VlmTokenizer) -> Answer {
        let rest = std::mem::replace(&mut self.stream, tokenizer.stream()).finish();
        self.text.push_str(&rest);
        let tokens = self.tokens.len();
        Answer {
            text: self.text.trim().to_owned(),
            confidence: (self.log_probability / tokens.max(1) as f64).exp() as f32,
            tokens,
            ended: self.tokens.last().is_some_and(|token| tokenizer.end_tokens().contains(token)),
        }
    }
}
