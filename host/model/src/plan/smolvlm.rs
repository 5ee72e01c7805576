//! SmolVLM2 as plans: images and words in, words out.
//!
//! What transformers 4.57 computes (`modeling_smolvlm.py`): causal attention over the whole prompt, RoPE with the
//! configuration's own base, embeddings as they are.

use super::collect::{Buffers, Collector, matmul};
use super::decoder::{Decoder, Place, Scratch, TextLayer};
use super::vision::{EncodePlan, Encoder};
use super::{Mask, Op, Plan, PlanError, View, Weight, WeightId};
use crate::architecture::VlmArchitecture;

/// Bytes of the largest slice of the language head, which as a whole is more than some adapters bind (lavapipe: 128 MiB).
const HEAD_SLICE_BYTES: usize = 64 << 20;

/// A SmolVLM2 network's weights, and its plans.
#[derive(Clone, Debug)]
pub struct TextNetwork {
    architecture: VlmArchitecture,
    weights: Vec<Weight>,
    encoder: Encoder,
    decoder: Decoder,
    layers: Vec<TextLayer>,
    norm: WeightId,
    /// Slices of the head, one under the other.
    head: Vec<WeightId>,
}

/// Reads a prompt.
#[derive(Clone, Debug)]
pub struct PromptPlan {
    /// What it does.
    pub plan: Plan,
    /// `[rows, width]`: the tokens of images, as [`EncodePlan::embeddings`] are, and embeddings of words.
    pub embeddings: View,
    /// `[rows, 2 * kv width]` each: keys and values of every layer.
    pub caches: Vec<View>,
    /// `[rows, width]`: the last layer's output, normed.
    pub hidden: View,
    /// `[1, vocabulary]`: what may follow.
    pub logits: View,
}

/// Reads one more token.
#[derive(Clone, Debug)]
pub struct DecodePlan {
    /// What it does.
    pub plan: Plan,
    /// `[1, width]`
    pub embedding: View,
    /// `[capacity, 2 * kv width]` each; they last from token to token.
    pub caches: Vec<View>,
    /// `[1, vocabulary]`
    pub logits: View,
    capacity: usize,
    position: usize,
    parts: DecodeParts,
}

/// What the ops of every position are made of.
#[derive(Clone, Copy)]
struct DecodeParts {
    hidden: View,
    query: View,
    scratch: Scratch,
}

impl std::fmt::Debug for DecodeParts {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("DecodeParts").finish_non_exhaustive()
    }
}

impl TextNetwork {
    /// The network of an architecture.
    #[must_use]
    pub fn new(architecture: VlmArchitecture) -> Self {
        let (a, text) = (&architecture, &architecture.text);
        let mut c = Collector::default();
        let encoder = Encoder::new(&mut c, &a.vision, None, text.width, &a.backbone);
        let decoder = Decoder::new(text, text.width, text.feed_forward, a.rope_theta);
        let layers = (0..text.layers).map(|i| TextLayer::new(&mut c, &a.backbone.text_layer(i), &decoder)).collect();
        let norm = c.vector(format!("{}.weight", a.backbone.text_norm()), text.width);
        let head = if a.tied { a.backbone.embed_tokens() } else { a.backbone.lm_head() };
        let slice = (HEAD_SLICE_BYTES / (4 * text.width)).max(1);
        let head = (0..text.vocabulary)
            .step_by(slice)
            .map(|from| from..text.vocabulary.min(from + slice))
            .map(|rows| c.part(format!("{head}.weight"), rows, 0..text.width))
            .collect();
        Self { weights: c.0, encoder, decoder, layers, norm, head, architecture }
    }

    /// The dimensions that it was made of.
    pub fn architecture(&self) -> &VlmArchitecture {
        &self.architecture
    }

    /// All weights that its plans use, in the order of their [`WeightId`]s.
    pub fn weights(&self) -> &[Weight] {
        &self.weights
    }

    /// The plan that encodes `images` images.
    ///
    /// # Errors
    /// If the plan breaks a rule that executors rely on, which is a defect of this crate.
    pub fn encode(&self, images: usize) -> Result<EncodePlan, PlanError> {
        self.encoder.plan(images, 1, 1.0, &self.weights)
    }

    /// The plan that reads a prompt of `rows` tokens.
    ///
    /// # Errors
    /// As [`TextNetwork::encode`].
    pub fn prompt(&self, rows: usize) -> Result<PromptPlan, PlanError> {
        let text = &self.architecture.text;
        let mut b = Buffers::default();
        let embeddings = b.add("prompt embeddings", rows, text.width);
        let stream = b.add("prompt hidden", rows, text.width);
        let hidden = b.add("prompt normed", rows, text.width);
        let query = b.add("prompt queries", rows, text.query_width());
        let scratch = self.decoder.scratch(&mut b, rows);
        let logits = b.add("logits", 1, text.vocabulary);
        let caches: Vec<View> =
            self.layers.iter().map(|_| b.add("keys and values", rows, 2 * text.kv_width())).collect();

        let mut ops = Vec::new();
        let (mask, place) = (Mask { open: 0, offset: 0 }, Place { batch: 1, first: 0, positions: rows });
        let mut from = embeddings;
        for (layer, &cache) in self.layers.iter().zip(&caches) {
            ops.extend(self.decoder.text_layer(layer, &scratch, query, (from, stream), (cache, cache), mask, place));
            from = stream;
        }
        ops.push(self.decoder.norm(from, self.norm, hidden));
        ops.extend(self.head(hidden.rows(rows - 1..rows), logits));
        Ok(PromptPlan { plan: b.plan("prompt", ops, &self.weights)?, embeddings, caches, hidden, logits })
    }

    /// The plan that reads one token at position 0 of at most `capacity`; [`TextNetwork::decode_at`] moves it.
    ///
    /// # Errors
    /// As [`TextNetwork::encode`].
    pub fn decode(&self, capacity: usize) -> Result<DecodePlan, PlanError> {
        let text = &self.architecture.text;
        let mut b = Buffers::default();
        let embedding = b.add("token embedding", 1, text.width);
        let parts = DecodeParts {
            hidden: b.add("token hidden", 1, text.width),
            query: b.add("token query", 1, text.query_width()),
            scratch: self.decoder.scratch(&mut b, 1),
        };
        let logits = b.add("logits", 1, text.vocabulary);
        let caches: Vec<View> =
            self.layers.iter().map(|_| b.kept("keys and values", capacity, 2 * text.kv_width())).collect();
        let ops = self.decode_ops(embedding, &parts, &caches, logits, capacity, 0);
        let plan = b.plan("decode", ops, &self.weights)?;
        Ok(DecodePlan { plan, embedding, caches, logits, capacity, position: 0, parts })
    }

    /// Moves a plan to another position, below its capacity.
    ///
    /// # Errors
    /// As [`TextNetwork::encode`].
    pub fn decode_at(&self, plan: &mut DecodePlan, position: usize) -> Result<(), PlanError> {
        let DecodePlan { embedding, parts, caches, logits, capacity, .. } = plan;
        if plan.position != position {
            plan.plan.ops = self.decode_ops(*embedding, parts, caches, *logits, *capacity, position);
            plan.plan.check(&self.weights)?;
            (plan.position, plan.plan.variant) = (position, position);
        }
        Ok(())
    }

    fn decode_ops(
        &self,
        embedding: View,
        parts: &DecodeParts,
        caches: &[View],
        logits: View,
        capacity: usize,
        position: usize,
    ) -> Vec<Op> {
        let place = Place { batch: 1, first: position, positions: capacity };
        let (mask, DecodeParts { hidden, query, scratch }) = (Mask { open: 0, offset: position }, *parts);
        let mut ops = Vec::new();
        let mut from = embedding;
        for (layer, cache) in self.layers.iter().zip(caches) {
            // A view beyond the cache is what `Plan::check` is for.
            let (written, seen) = (cache.rows(position..position + 1), cache.rows(0..position + 1));
            ops.extend(self.decoder.text_layer(layer, &scratch, query, (from, hidden), (written, seen), mask, place));
            from = hidden;
        }
        ops.push(self.decoder.norm(from, self.norm, scratch.normed));
        ops.extend(self.head(scratch.normed, logits));
        ops
    }

    fn head(&self, normed: View, logits: View) -> Vec<Op> {
        let mut column = 0;
        let slice = |&weight: &WeightId| {
            let rows = self.weights[weight.0].rows;
            column += rows;
            matmul(normed, weight, logits.columns(column - rows..column))
        };
        self.head.iter().map(slice).collect()
    }
}
