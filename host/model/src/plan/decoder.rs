//! Layers of Llama's kind, which the language model and the action expert are both made of.

use super::collect::{Buffers, Collector, add_matmul, matmul, rms_norm};
use super::{KeyValue, Mask, Op, View, WeightId};
use crate::architecture::Text;

/// What differs from one decoder to another; the geometry of heads does not.
#[derive(Clone, Debug)]
pub(super) struct Decoder {
    pub width: usize,
    pub feed_forward: usize,
    pub epsilon: f32,
    pub query_width: usize,
    pub heads: Heads,
    pub theta: f32,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    pub query: usize,
    pub key: usize,
    pub dim: usize,
}

/// Everything of a layer but how it makes queries, keys and values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest {
    pub out: WeightId,
    pub norm: WeightId,
    pub gate_up: WeightId,
    pub down: WeightId,
}

/// Where and how often a sequence stands: `batch` blocks of equal length, from the position `first` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub batch: usize,
    pub first: usize,
    /// Positions of all plans of the layout are below it.
    pub positions: usize,
}

/// Buffers that all layers of one decoder take turns in.
#[derive(Clone, Copy)]
pub(super) struct Scratch {
    pub normed: View,
    pub mixed: View,
    pub gate_up: View,
    pub inner: View,
}

impl Decoder {
    pub fn new(text: &Text, width: usize, feed_forward: usize, theta: f32) -> Self {
        let heads = Heads { query: text.heads, key: text.kv_heads, dim: text.head_dim };
        Self { width, feed_forward, epsilon: text.epsilon, query_width: text.query_width(), heads, theta }
    }

    pub fn rest(&self, c: &mut Collector, module: &str) -> Rest {
        let (d, f) = (self.width, self.feed_forward);
        let name = |part: &str| format!("{module}.{part}.weight");
        Rest {
            out: c.matrix(name("self_attn.o_proj"), d, self.query_width),
            norm: c.vector(name("post_attention_layernorm"), d),
            gate_up: c.stack(vec![name("mlp.gate_proj"), name("mlp.up_proj")], 2 * f, d),
            down: c.matrix(name("mlp.down_proj"), d, f),
        }
    }

    pub fn scratch(&self, b: &mut Buffers, rows: usize) -> Scratch {
        Scratch {
            normed: b.add("normed", rows, self.width),
            mixed: b.add("mixed", rows, self.query_width),
            gate_up: b.add("gate and up", rows, 2 * self.feed_forward),
            inner: b.add("inner", rows, self.feed_forward),
        }
    }

    pub fn norm(&self, input: View, weight: WeightId, output: View) -> Op {
        rms_norm(input, weight, self.epsilon, output)
    }

    pub fn rope(&self, view: View, place: Place) -> Op {
        let Place { batch, first: first_position, positions } = place;
        Op::Rope { view, batch, head_dim: self.heads.dim, first_position, positions, theta: self.theta }
    }

    pub fn attention(
        &self,
        batch: usize,
        mask: Mask,
        query: View,
        past: Option<KeyValue>,
        own: KeyValue,
        output: View,
    ) -> Op {
        let Heads { query: heads, key: kv_heads, dim: head_dim } = self.heads;
        Op::Attention { batch, frames: 1, heads, kv_heads, head_dim, mask, query, past, own, output }
    }

    /// From the attention's output, in `scratch.mixed`, to the end of the layer.
    pub fn finish(&self, rest: Rest, scratch: &Scratch, stream: View, hidden: View) -> [Op; 5] {
        [
            add_matmul(scratch.mixed, rest.out, stream, hidden),
            self.norm(hidden, rest.norm, scratch.normed),
            matmul(scratch.normed, rest.gate_up, scratch.gate_up),
            Op::SwiGlu { input: scratch.gate_up, output: scratch.inner },
            add_matmul(scratch.inner, rest.down, hidden, hidden),
        ]
    }
}

/// A layer of the language model, whose keys and values others want to keep.
#[derive(Clone, Copy, Debug)]
pub(super) struct TextLayer {
    pub norm: WeightId,
    pub key_value: WeightId,
    pub query: WeightId,
    pub rest: Rest,
}

impl TextLayer {
    pub fn new(c: &mut Collector, module: &str, decoder: &Decoder) -> Self {
        let (norm, key_value) = Self::keys_and_values(c, module, decoder);
        let query = c.matrix(format!("{module}.self_attn.q_proj.weight"), decoder.query_width, decoder.width);
        Self { norm, key_value, query, rest: decoder.rest(c, module) }
    }

    /// The first half of a layer, for the last one that anybody attends to: its norm, and what makes keys and values.
    pub fn keys_and_values(c: &mut Collector, module: &str, decoder: &Decoder) -> (WeightId, WeightId) {
        let name = |part: &str| format!("{module}.{part}.weight");
        let tensors = vec![name("self_attn.k_proj"), name("self_attn.v_proj")];
        let kv = 2 * decoder.heads.key * decoder.heads.dim;
        (c.vector(name("input_layernorm"), decoder.width), c.stack(tensors, kv, decoder.width))
    }
}

impl Decoder {
    /// The norm of `stream` into `scratch.normed`, and keys and values of it, roped, into `output`.
    pub fn keys_values(
        &self,
        (norm, key_value): (WeightId, WeightId),
        scratch: &Scratch,
        stream: View,
        output: View,
        place: Place,
    ) -> [Op; 3] {
        [
            self.norm(stream, norm, scratch.normed),
            matmul(scratch.normed, key_value, output),
            self.rope(KeyValue::halves(output).key, place),
        ]
    }

    /// One layer of the language model: from `stream` to `hidden`. Its keys and values go to `written`; it attends to
    /// `cache`, of which that is a part.
    #[allow(clippy::too_many_arguments)] // each is another thing, and there are two callers
    pub fn text_layer(
        &self,
        layer: &TextLayer,
        scratch: &Scratch,
        query: View,
        (stream, hidden): (View, View),
        (written, cache): (View, View),
        mask: Mask,
        place: Place,
    ) -> Vec<Op> {
        let mut ops = Vec::with_capacity(11);
        ops.extend(self.keys_values((layer.norm, layer.key_value), scratch, stream, written, place));
        ops.push(matmul(scratch.normed, layer.query, query));
        ops.push(self.rope(query, place));
        ops.push(self.attention(place.batch, mask, query, None, KeyValue::halves(cache), scratch.mixed));
        ops.extend(self.finish(layer.rest, scratch, stream, hidden));
        ops
    }
}
