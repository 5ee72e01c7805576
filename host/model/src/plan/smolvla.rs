//! SmolVLA as a plan.
//!
//! Layer for layer what LeRobot 0.4 computes (`modeling_smolvla.py`, `smolvlm_with_expert.py`) for one request, less what
//! cannot reach the actions: padding, cameras that are masked out, the language model's layers after the last one that
//! the expert attends to, and everything in that one but its keys and values.

use std::sync::Arc;

use super::{
    Activation, Buffer, BufferId, Inputs, Mask, Op, Operand, Outputs, Pick, Plan, PlanError, Shape, SpecialToken, View,
    Weight, WeightId,
};
use crate::architecture::{Architecture, ExpertAttention};
use crate::tensors::{self as names, Backbone};

const BACKBONE: Backbone = Backbone::SMOLVLA;

/// RoPE's base in the action path, whatever the VLM's configuration says (`apply_rope` in `smolvlm_with_expert.py`).
const ROPE_THETA: f32 = 10_000.0;

/// A network's weights, and its plans.
#[derive(Clone, Debug)]
pub struct Network {
    architecture: Architecture,
    weights: Vec<Weight>,
    ids: Ids,
}

/// Where each layer's weights stand in [`Network::weights`].
#[derive(Clone, Debug)]
struct Ids {
    patch: Linear,
    positions: WeightId,
    vision: Vec<VisionLayer>,
    post_norm: Norm,
    connector: WeightId,
    state: Linear,
    text: Vec<DecoderLayer>,
    expert: Vec<DecoderLayer>,
    expert_norm: WeightId,
    action_in: Linear,
    mix_action: WeightId,
    mix_time: WeightId,
    mix_bias: WeightId,
    mix_out: Linear,
    action_out: Linear,
}

#[derive(Clone, Copy, Debug)]
struct Linear {
    weight: WeightId,
    bias: WeightId,
}

#[derive(Clone, Copy, Debug)]
struct Norm {
    weight: WeightId,
    bias: WeightId,
}

#[derive(Clone, Copy, Debug)]
struct VisionLayer {
    norm1: Norm,
    qkv: Linear,
    out: Linear,
    norm2: Norm,
    fc1: Linear,
    fc2: Linear,
}

#[derive(Clone, Copy, Debug)]
struct DecoderLayer {
    norm1: WeightId,
    key_value: KeyValue,
    /// Everything else; of the last language layer only keys and values are wanted.
    rest: Option<DecoderRest>,
}

/// Keys and values come of one input, or each of its own.
#[derive(Clone, Copy, Debug)]
enum KeyValue {
    Joint(WeightId),
    Cross { key: WeightId, value: WeightId },
}

#[derive(Clone, Copy, Debug)]
struct DecoderRest {
    query: WeightId,
    out: WeightId,
    norm2: WeightId,
    gate_up: WeightId,
    down: WeightId,
}

impl Network {
    /// The network of an architecture.
    #[must_use]
    pub fn new(architecture: Architecture) -> Self {
        let a = &architecture;
        let mut c = Collector::default();
        let (vision, text, expert, flow) = (&a.vision, &a.text, &a.expert, &a.flow);
        let last = a.last_text_layer();
        let action_time = |c: &mut Collector, take: std::ops::Range<usize>| {
            let tensors = vec![format!("{}.weight", names::ACTION_TIME_IN)];
            c.add(Weight { rows: expert.width, columns: expert.width, tensors, take, pick: Pick::All })
        };
        let ids = Ids {
            patch: c.linear(&BACKBONE.patch_embedding(), vision.width, vision.patch_numbers()),
            positions: c.add(Weight {
                rows: vision.patches(),
                columns: vision.width,
                tensors: vec![format!("{}.weight", BACKBONE.position_embedding())],
                take: 0..vision.width,
                pick: Pick::Gather(vision.position_ids()),
            }),
            vision: (0..vision.layers).map(|i| c.vision_layer(i, a)).collect(),
            post_norm: c.norm(&BACKBONE.post_layernorm(), vision.width),
            connector: c.matrix(
                format!("{}.weight", BACKBONE.connector()),
                text.width,
                vision.width * vision.shuffle_factor * vision.shuffle_factor,
            ),
            state: c.linear(names::STATE, text.width, flow.max_state),
            text: (0..=last)
                .map(|i| {
                    let attention = ExpertAttention::Joint;
                    let dims = Decoder { width: text.width, feed_forward: text.feed_forward, attention };
                    c.decoder_layer(&BACKBONE.text_layer(i), a, dims, i < last)
                })
                .collect(),
            expert: expert
                .layers
                .iter()
                .enumerate()
                .map(|(i, layer)| {
                    let attention = layer.attention;
                    let dims = Decoder { width: expert.width, feed_forward: expert.feed_forward, attention };
                    c.decoder_layer(&names::expert_layer(i), a, dims, true)
                })
                .collect(),
            expert_norm: c.vector(format!("{}.weight", names::EXPERT_NORM), expert.width),
            action_in: c.linear(names::ACTION_IN, expert.width, flow.max_action),
            mix_action: action_time(&mut c, 0..expert.width),
            mix_time: action_time(&mut c, expert.width..2 * expert.width),
            mix_bias: c.vector(format!("{}.bias", names::ACTION_TIME_IN), expert.width),
            mix_out: c.linear(names::ACTION_TIME_OUT, expert.width, expert.width),
            action_out: c.linear(names::ACTION_OUT, flow.max_action, expert.width),
        };
        Self { weights: c.0, ids, architecture }
    }

    /// The dimensions that it was made of.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// All weights that its plans use, in the order of their [`WeightId`]s.
    pub fn weights(&self) -> &[Weight] {
        &self.weights
    }

    /// The plan for one shape.
    ///
    /// # Errors
    /// If the plan breaks a rule that executors rely on, which is a defect of this crate.
    pub fn plan(&self, shape: Shape) -> Result<Plan, PlanError> {
        let plan = Builder { network: self, a: &self.architecture, shape, buffers: Vec::new() }.plan();
        plan.check(&self.weights)?;
        Ok(plan)
    }
}

/// Collects weights and hands out their ids.
#[derive(Default)]
struct Collector(Vec<Weight>);

impl Collector {
    fn add(&mut self, weight: Weight) -> WeightId {
        self.0.push(weight);
        WeightId(self.0.len() - 1)
    }

    /// Matrices of equal width, one under the other.
    fn stack(&mut self, tensors: Vec<String>, rows: usize, columns: usize) -> WeightId {
        self.add(Weight { rows, columns, tensors, take: 0..columns, pick: Pick::All })
    }

    fn matrix(&mut self, tensor: String, rows: usize, columns: usize) -> WeightId {
        self.stack(vec![tensor], rows, columns)
    }

    fn vector(&mut self, tensor: String, columns: usize) -> WeightId {
        self.matrix(tensor, 1, columns)
    }

    fn linear(&mut self, module: &str, rows: usize, columns: usize) -> Linear {
        Linear {
            weight: self.matrix(format!("{module}.weight"), rows, columns),
            bias: self.vector(format!("{module}.bias"), rows),
        }
    }

    fn norm(&mut self, module: &str, columns: usize) -> Norm {
        Norm {
            weight: self.vector(format!("{module}.weight"), columns),
            bias: self.vector(format!("{module}.bias"), columns),
        }
    }

    fn vision_layer(&mut self, index: usize, a: &Architecture) -> VisionLayer {
        let (module, d, f) = (BACKBONE.vision_layer(index), a.vision.width, a.vision.feed_forward);
        let qkv = |what: &str| ["q", "k", "v"].map(|p| format!("{module}.self_attn.{p}_proj.{what}")).to_vec();
        VisionLayer {
            norm1: self.norm(&format!("{module}.layer_norm1"), d),
            qkv: Linear {
                weight: self.stack(qkv("weight"), 3 * d, d),
                // Three vectors side by side: one row of three times the width.
                bias: self.add(Weight { rows: 1, columns: 3 * d, tensors: qkv("bias"), take: 0..d, pick: Pick::All }),
            },
            out: self.linear(&format!("{module}.self_attn.out_proj"), d, d),
            norm2: self.norm(&format!("{module}.layer_norm2"), d),
            fc1: self.linear(&format!("{module}.mlp.fc1"), f, d),
            fc2: self.linear(&format!("{module}.mlp.fc2"), d, f),
        }
    }

    fn decoder_layer(&mut self, module: &str, a: &Architecture, dims: Decoder, rest: bool) -> DecoderLayer {
        let (q, kv, d, f) = (a.text.query_width(), a.text.kv_width(), dims.width, dims.feed_forward);
        let name = |part: &str| format!("{module}.{part}.weight");
        DecoderLayer {
            norm1: self.vector(name("input_layernorm"), d),
            key_value: match dims.attention {
                ExpertAttention::Joint => {
                    KeyValue::Joint(self.stack(vec![name("self_attn.k_proj"), name("self_attn.v_proj")], 2 * kv, d))
                }
                ExpertAttention::Cross => KeyValue::Cross {
                    key: self.matrix(name("self_attn.k_proj"), kv, kv),
                    value: self.matrix(name("self_attn.v_proj"), kv, kv),
                },
            },
            rest: rest.then(|| DecoderRest {
                query: self.matrix(name("self_attn.q_proj"), q, d),
                out: self.matrix(name("self_attn.o_proj"), d, q),
                norm2: self.vector(name("post_attention_layernorm"), d),
                gate_up: self.stack(vec![name("mlp.gate_proj"), name("mlp.up_proj")], 2 * f, d),
                down: self.matrix(name("mlp.down_proj"), d, f),
            }),
        }
    }
}

/// What the language model's layers and the expert's differ in.
#[derive(Clone, Copy)]
struct Decoder {
    width: usize,
    feed_forward: usize,
    attention: ExpertAttention,
}

/// Builds one plan: declares buffers and lists ops.
struct Builder<'a> {
    network: &'a Network,
    a: &'a Architecture,
    shape: Shape,
    buffers: Vec<Buffer>,
}

/// Where things stand in the prefix.
struct Prefix {
    /// First row of each image.
    images: Vec<usize>,
    specials: Vec<(usize, SpecialToken)>,
    language: usize,
    /// The state token is the last one.
    state: usize,
}

impl Prefix {
    fn rows(&self) -> usize {
        self.state + 1
    }
}

impl Builder<'_> {
    fn buffer(&mut self, name: &'static str, rows: usize, columns: usize) -> View {
        self.buffers.push(Buffer { name, rows, columns, initial: None });
        View { buffer: BufferId(self.buffers.len() - 1), row: 0, rows, column: 0, columns }
    }

    fn constant(&mut self, name: &'static str, columns: usize, numbers: Vec<f32>) -> View {
        let view = self.buffer(name, numbers.len() / columns, columns);
        self.buffers[view.buffer.0].initial = Some(Arc::from(numbers));
        view
    }

    fn plan(mut self) -> Plan {
        let (a, ids, shape) = (self.a, &self.network.ids, self.shape);
        let prefix = self.lay_out();
        let last = a.last_text_layer();

        let patches = self.buffer("patches", shape.cameras * a.vision.patches(), a.vision.patch_numbers());
        let embeddings = self.buffer("prefix embeddings", prefix.rows(), a.text.width);
        let state = self.buffer("state", 1, a.flow.max_state);
        let actions = self.buffer("actions", a.flow.chunk, a.flow.max_action);
        let velocity = self.buffer("velocity", a.flow.steps * a.flow.chunk, a.flow.max_action);

        // One cache for each language layer; those that an expert layer joins have room for its own keys below.
        let caches: Vec<View> = (0..=last)
            .map(|text_layer| {
                let joined =
                    a.expert.layers.iter().any(|l| l.text_layer == text_layer && l.attention == ExpertAttention::Joint);
                let rows = prefix.rows() + if joined { a.flow.chunk } else { 0 };
                self.buffer("keys and values", rows, 2 * a.text.kv_width())
            })
            .collect();

        let image_rows = |image: &usize| embeddings.rows(*image..image + a.vision.tokens());
        let image_embeddings: Vec<View> = prefix.images.iter().map(image_rows).collect();
        let vision = self.vision(patches, &image_embeddings);

        let mut language_model = vec![linear(state, ids.state, embeddings.rows(prefix.state..prefix.rows()))];
        language_model.extend(self.language_model(embeddings, &caches));

        let (invariant, time, crosses) = self.invariant(&caches, prefix.rows());
        let steps = self.denoising(actions, velocity, time, &caches, &crosses, prefix.rows());

        let (rows, tokens): (Vec<_>, Vec<_>) = prefix.specials.iter().copied().unzip();
        Plan {
            shape,
            vision,
            prefix: language_model,
            invariant,
            steps,
            inputs: Inputs {
                patches,
                specials: rows.iter().map(|&row| embeddings.rows(row..row + 1)).collect(),
                special_tokens: tokens,
                language: embeddings.rows(prefix.language..prefix.state),
                state,
                noise: actions,
            },
            outputs: Outputs { image_embeddings, velocity, actions },
            buffers: self.buffers,
        }
    }

    fn lay_out(&self) -> Prefix {
        let mut prefix = Prefix { images: Vec::new(), specials: Vec::new(), language: 0, state: 0 };
        let mut row = 0;
        for image in 0..self.shape.cameras + self.shape.empty_cameras {
            if self.a.image_special_tokens {
                prefix.specials.extend([(row, SpecialToken::FakeImage), (row + 1, SpecialToken::GlobalImage)]);
                row += 2;
            }
            if image < self.shape.cameras {
                prefix.images.push(row);
                row += self.a.vision.tokens();
            }
            if self.a.image_special_tokens {
                prefix.specials.push((row, SpecialToken::FakeImage));
                row += 1;
            }
        }
        prefix.language = row;
        prefix.state = row + self.shape.language_tokens;
        prefix
    }

    fn vision(&mut self, patches: View, images: &[View]) -> Vec<Op> {
        let (v, ids) = (&self.a.vision, &self.network.ids);
        let rows = patches.rows;
        let hidden = self.buffer("vision hidden", rows, v.width);
        let normed = self.buffer("vision normed", rows, v.width);
        let qkv = self.buffer("vision qkv", rows, 3 * v.width);
        let mixed = self.buffer("vision mixed", rows, v.width);
        let inner = self.buffer("vision inner", rows, v.feed_forward);
        let joined_width = v.width * v.shuffle_factor * v.shuffle_factor;
        let joined = self.buffer("vision joined", images.len() * v.tokens(), joined_width);

        let norm = |norm: Norm, output: View| Op::LayerNorm {
            input: hidden,
            weight: norm.weight,
            bias: norm.bias,
            epsilon: v.epsilon,
            output,
        };
        let mut ops = vec![Op::Gemm {
            input: patches,
            weight: ids.patch.weight,
            scale: 1.0,
            bias: Some(Operand::Weight(ids.patch.bias)),
            activation: Activation::Identity,
            residual: Some(Operand::Weight(ids.positions)),
            output: hidden,
        }];
        for layer in &ids.vision {
            ops.push(norm(layer.norm1, normed));
            ops.push(linear(normed, layer.qkv, qkv));
            ops.push(Op::Attention {
                batch: images.len(),
                heads: v.heads,
                kv_heads: v.heads,
                head_dim: v.width / v.heads,
                mask: Mask { open: v.patches(), offset: 0 },
                query: qkv.columns(0..v.width),
                key: qkv.columns(v.width..2 * v.width),
                value: qkv.columns(2 * v.width..3 * v.width),
                output: mixed,
            });
            ops.push(add_linear(mixed, layer.out, hidden));
            ops.push(norm(layer.norm2, normed));
            ops.push(activated(normed, layer.fc1, Activation::GeluTanh, inner));
            ops.push(add_linear(inner, layer.fc2, hidden));
        }
        ops.push(norm(ids.post_norm, normed));
        ops.push(Op::PixelShuffle { input: normed, side: v.shuffle_side(), factor: v.shuffle_factor, output: joined });
        for (index, image) in images.iter().enumerate() {
            ops.push(Op::Gemm {
                input: joined.rows(index * v.tokens()..(index + 1) * v.tokens()),
                weight: ids.connector,
                scale: (self.a.text.width as f32).sqrt(),
                bias: None,
                activation: Activation::Identity,
                residual: None,
                output: *image,
            });
        }
        ops
    }

    fn language_model(&mut self, embeddings: View, caches: &[View]) -> Vec<Op> {
        let (a, ids) = (self.a, &self.network.ids);
        let (t, rows) = (&a.text, embeddings.rows);
        let scratch = self.decoder_scratch(rows, t.width, t.feed_forward);
        let hidden = self.buffer("prefix hidden", rows, t.width);
        let mut ops = Vec::new();
        for (index, (layer, cache)) in ids.text.iter().zip(caches).enumerate() {
            let stream = if index == 0 { embeddings } else { hidden };
            let keys_values = cache.rows(0..rows);
            ops.push(rms_norm(stream, layer.norm1, t.epsilon, scratch.normed));
            ops.extend(self.keys_values(layer.key_value, scratch.normed, keys_values, 0));
            let Some(rest) = layer.rest else { continue };
            ops.push(matmul(scratch.normed, rest.query, scratch.query));
            ops.push(rope(scratch.query, t.head_dim, 0));
            // The state stands last, and nothing but itself sees it.
            let mask = Mask { open: rows - 1, offset: 0 };
            ops.push(self.attention(mask, scratch.query, keys_values, scratch.mixed));
            ops.extend(self.rest(rest, &scratch, stream, hidden));
        }
        ops
    }

    /// Time embeddings mixed in ahead of time, and the keys and values of the expert's cross-attention.
    fn invariant(&mut self, caches: &[View], prefix_rows: usize) -> (Vec<Op>, View, Vec<Option<View>>) {
        let (a, ids) = (self.a, &self.network.ids);
        let width = a.expert.width;
        let times = self.constant("time embeddings", width, a.flow.time_embeddings(width));
        let time = self.buffer("time, mixed", a.flow.steps, width);
        let mut ops = vec![linear(times, Linear { weight: ids.mix_time, bias: ids.mix_bias }, time)];
        let mut crosses = Vec::new();
        for (layer, weights) in a.expert.layers.iter().zip(&ids.expert) {
            let KeyValue::Cross { key, value } = weights.key_value else {
                crosses.push(None);
                continue;
            };
            let kv = a.text.kv_width();
            let cross = self.buffer("cross keys and values", prefix_rows, 2 * kv);
            let source = caches[layer.text_layer].rows(0..prefix_rows);
            ops.push(matmul(source.columns(0..kv), key, cross.columns(0..kv)));
            ops.push(matmul(source.columns(kv..2 * kv), value, cross.columns(kv..2 * kv)));
            crosses.push(Some(cross));
        }
        (ops, time, crosses)
    }

    fn denoising(
        &mut self,
        actions: View,
        velocity: View,
        time: View,
        caches: &[View],
        crosses: &[Option<View>],
        prefix_rows: usize,
    ) -> Vec<Vec<Op>> {
        let (a, ids) = (self.a, &self.network.ids);
        let (flow, width) = (&a.flow, a.expert.width);
        let scratch = self.decoder_scratch(flow.chunk, width, a.expert.feed_forward);
        let hidden = self.buffer("expert hidden", flow.chunk, width);
        let mixed_in = self.buffer("expert mixed in", flow.chunk, width);

        let step = |step: usize| {
            let mut ops = vec![
                linear(actions, ids.action_in, scratch.normed),
                Op::Gemm {
                    input: scratch.normed,
                    weight: ids.mix_action,
                    scale: 1.0,
                    bias: Some(Operand::View(time.rows(step..step + 1))),
                    activation: Activation::Silu,
                    residual: None,
                    output: mixed_in,
                },
                linear(mixed_in, ids.mix_out, hidden),
            ];
            for ((layer, weights), cross) in a.expert.layers.iter().zip(&ids.expert).zip(crosses) {
                ops.push(rms_norm(hidden, weights.norm1, a.text.epsilon, scratch.normed));
                let Some(rest) = weights.rest else { continue };
                ops.push(matmul(scratch.normed, rest.query, scratch.query));
                let (mask, keys_values, position) = match cross {
                    Some(cross) => (Mask { open: prefix_rows, offset: 0 }, *cross, 0),
                    None => {
                        let cache = caches[layer.text_layer];
                        let own = cache.rows(prefix_rows..prefix_rows + flow.chunk);
                        ops.extend(self.keys_values(weights.key_value, scratch.normed, own, prefix_rows));
                        (Mask { open: prefix_rows, offset: prefix_rows }, cache, prefix_rows)
                    }
                };
                ops.push(rope(scratch.query, a.text.head_dim, position));
                ops.push(self.attention(mask, scratch.query, keys_values, scratch.mixed));
                ops.extend(self.rest(rest, &scratch, hidden, hidden));
            }
            let predicted = velocity.rows(step * flow.chunk..(step + 1) * flow.chunk);
            ops.push(rms_norm(hidden, ids.expert_norm, a.text.epsilon, scratch.normed));
            ops.push(linear(scratch.normed, ids.action_out, predicted));
            ops.push(Op::Axpy { scale: (-1.0 / flow.steps as f64) as f32, input: predicted, output: actions });
            ops
        };
        (0..flow.steps).map(step).collect()
    }

    fn decoder_scratch(&mut self, rows: usize, width: usize, feed_forward: usize) -> Scratch {
        let query_width = self.a.text.query_width();
        Scratch {
            normed: self.buffer("normed", rows, width),
            query: self.buffer("queries", rows, query_width),
            mixed: self.buffer("mixed", rows, query_width),
            gate_up: self.buffer("gate and up", rows, 2 * feed_forward),
            inner: self.buffer("inner", rows, feed_forward),
        }
    }

    /// Keys and values of `input`, roped, into their half each of `output`.
    fn keys_values(&self, weights: KeyValue, input: View, output: View, first_position: usize) -> Vec<Op> {
        let KeyValue::Joint(weight) = weights else { return Vec::new() };
        let keys = output.columns(0..self.a.text.kv_width());
        vec![matmul(input, weight, output), rope(keys, self.a.text.head_dim, first_position)]
    }

    fn attention(&self, mask: Mask, query: View, keys_values: View, output: View) -> Op {
        let (t, kv) = (&self.a.text, self.a.text.kv_width());
        Op::Attention {
            batch: 1,
            heads: t.heads,
            kv_heads: t.kv_heads,
            head_dim: t.head_dim,
            mask,
            query,
            key: keys_values.columns(0..kv),
            value: keys_values.columns(kv..2 * kv),
            output,
        }
    }

    /// From the attention's output to the end of a decoder layer.
    fn rest(&self, rest: DecoderRest, scratch: &Scratch, stream: View, hidden: View) -> [Op; 5] {
        [
            add_matmul(scratch.mixed, rest.out, stream, hidden),
            rms_norm(hidden, rest.norm2, self.a.text.epsilon, scratch.normed),
            matmul(scratch.normed, rest.gate_up, scratch.gate_up),
            Op::SwiGlu { input: scratch.gate_up, output: scratch.inner },
            add_matmul(scratch.inner, rest.down, hidden, hidden),
        ]
    }
}

/// Buffers that all layers of one decoder take turns in.
#[derive(Clone, Copy)]
struct Scratch {
    normed: View,
    query: View,
    mixed: View,
    gate_up: View,
    inner: View,
}

fn rms_norm(input: View, weight: WeightId, epsilon: f32, output: View) -> Op {
    Op::RmsNorm { input, weight, epsilon, output }
}

fn rope(view: View, head_dim: usize, first_position: usize) -> Op {
    Op::Rope { view, head_dim, first_position, theta: ROPE_THETA }
}

fn gemm(input: View, weight: WeightId, bias: Option<WeightId>, residual: Option<View>, output: View) -> Op {
    let (bias, residual) = (bias.map(Operand::Weight), residual.map(Operand::View));
    Op::Gemm { input, weight, scale: 1.0, bias, activation: Activation::Identity, residual, output }
}

fn matmul(input: View, weight: WeightId, output: View) -> Op {
    gemm(input, weight, None, None, output)
}

fn add_matmul(input: View, weight: WeightId, residual: View, output: View) -> Op {
    gemm(input, weight, None, Some(residual), output)
}

fn linear(input: View, linear: Linear, output: View) -> Op {
    gemm(input, linear.weight, Some(linear.bias), None, output)
}

fn add_linear(input: View, linear: Linear, stream: View) -> Op {
    gemm(input, linear.weight, Some(linear.bias), Some(stream), stream)
}

fn activated(input: View, linear: Linear, activation: Activation, output: View) -> Op {
    let bias = Some(Operand::Weight(linear.bias));
    Op::Gemm { input, weight: linear.weight, scale: 1.0, bias, activation, residual: None, output }
}
