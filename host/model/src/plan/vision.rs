//! SigLIP's vision transformer and the connector: camera frames to tokens of the language model.

use super::collect::{Buffers, Collector, Linear, Norm, activated, add_linear, linear};
use super::{Activation, KeyValue, Mask, Op, Operand, Pick, Plan, PlanError, Role, View, Weight, WeightId};
use crate::architecture::{Backbone, Video, Vision};

/// Where the encoder's weights stand.
#[derive(Clone, Debug)]
pub(super) struct Encoder {
    vision: Vision,
    video: Option<Video>,
    /// Width of the language model.
    width: usize,
    patch: Linear,
    positions: WeightId,
    layers: Vec<Layer>,
    post_norm: Norm,
    connector: WeightId,
}

#[derive(Clone, Copy, Debug)]
struct Layer {
    norm1: Norm,
    qkv: Linear,
    out: Linear,
    norm2: Norm,
    fc1: Linear,
    fc2: Linear,
}

/// Encodes what some cameras saw, each in equally many frames.
#[derive(Clone, Debug)]
pub struct EncodePlan {
    /// What it does.
    pub plan: Plan,
    /// `[cameras * frames * patches, channels * patch * patch]`: camera by camera, oldest frame first, each patch's pixels
    /// in -1..=1, channel by channel, row by row.
    pub patches: View,
    /// One `[image tokens, width]` for each camera, of its newest frame: the connector's output **times `sqrt(width)`** in
    /// a policy's encoder, as it is in a language model's.
    pub embeddings: Vec<View>,
}

impl Encoder {
    pub fn new(c: &mut Collector, vision: &Vision, video: Option<Video>, width: usize, names: &Backbone) -> Self {
        let (d, factor) = (vision.width, vision.shuffle_factor);
        Self {
            patch: c.linear(&names.patch_embedding(), d, vision.patch_numbers()),
            positions: c.add(Weight {
                rows: vision.patches(),
                columns: d,
                tensors: vec![format!("{}.weight", names.position_embedding())],
                take: 0..d,
                pick: Pick::Gather(vision.position_ids()),
                role: Role::Table,
            }),
            layers: (0..vision.layers).map(|i| layer(c, &names.vision_layer(i), vision)).collect(),
            post_norm: c.norm(&names.post_layernorm(), d),
            connector: c.matrix(format!("{}.weight", names.connector()), width, d * factor * factor),
            vision: vision.clone(),
            video,
            width,
        }
    }

    /// The plan for `frames` frames of each of `cameras` cameras. `scale` multiplies the tokens.
    pub fn plan(&self, cameras: usize, frames: usize, scale: f32, weights: &[Weight]) -> Result<EncodePlan, PlanError> {
        let (v, d) = (&self.vision, self.vision.width);
        let mut b = Buffers::default();
        let rows = cameras * frames * v.patches();
        let patches = b.add("patches", rows, v.patch_numbers());
        let hidden = b.add("vision hidden", rows, d);
        let normed = b.add("vision normed", rows, d);
        let qkv = b.add("vision qkv", rows, 3 * d);
        let mixed = b.add("vision mixed", rows, d);
        let inner = b.add("vision inner", rows, v.feed_forward);
        let joined = b.add("vision joined", cameras * v.tokens(), d * v.shuffle_factor * v.shuffle_factor);
        let tokens = b.add("image tokens", cameras * v.tokens(), self.width);

        let mut ops = vec![Op::Gemm {
            input: patches,
            weight: self.patch.weight,
            scale: 1.0,
            bias: Some(Operand::Weight(self.patch.bias)),
            activation: Activation::Identity,
            residual: Some(Operand::Weight(self.positions)),
            output: hidden,
        }];
        if frames > 1 {
            let ages = b.constant("ages of frames", d, self.ages(frames));
            let of_camera = |camera: usize| hidden.rows(camera * ages.rows..(camera + 1) * ages.rows);
            ops.extend((0..cameras).map(|camera| Op::Axpy { scale: 1.0, input: ages, output: of_camera(camera) }));
        }
        for (index, layer) in self.layers.iter().enumerate() {
            let every = self.video.as_ref().map(|video| video.every_n_layers);
            let looks_back = every.is_some_and(|n| index % n == n - 1);
            ops.push(self.norm(layer.norm1, hidden, normed));
            ops.push(linear(normed, layer.qkv, qkv));
            ops.push(Op::Attention {
                batch: cameras * frames,
                frames: if looks_back { frames } else { 1 },
                heads: v.heads,
                kv_heads: v.heads,
                head_dim: d / v.heads,
                mask: Mask { open: v.patches(), offset: 0 },
                query: qkv.columns(0..d),
                past: None,
                own: KeyValue { key: qkv.columns(d..2 * d), value: qkv.columns(2 * d..3 * d) },
                output: mixed,
            });
            ops.push(add_linear(mixed, layer.out, hidden));
            ops.push(self.norm(layer.norm2, hidden, normed));
            ops.push(activated(normed, layer.fc1, Activation::GeluTanh, inner));
            ops.push(add_linear(inner, layer.fc2, hidden));
        }
        // Older frames have been looked back at; only the newest one of each camera goes on.
        let newest: Vec<(View, View)> = match frames {
            1 => vec![(hidden, joined)],
            _ => (1..=cameras)
                .map(|camera| (camera * frames * v.patches(), camera * v.tokens()))
                .map(|(end, tokens)| (hidden.rows(end - v.patches()..end), joined.rows(tokens - v.tokens()..tokens)))
                .collect(),
        };
        for (hidden, joined) in newest {
            let normed = normed.rows(0..hidden.rows);
            ops.push(self.norm(self.post_norm, hidden, normed));
            let (side, factor) = (v.shuffle_side(), v.shuffle_factor);
            ops.push(Op::PixelShuffle { input: normed, side, factor, output: joined });
        }
        ops.push(Op::Gemm {
            input: joined,
            weight: self.connector,
            scale,
            bias: None,
            activation: Activation::Identity,
            residual: None,
            output: tokens,
        });
        let embeddings = (0..cameras).map(|c| tokens.rows(c * v.tokens()..(c + 1) * v.tokens())).collect();
        Ok(EncodePlan { plan: b.plan("encode", ops, weights)?, patches, embeddings })
    }

    fn norm(&self, norm: Norm, input: View, output: View) -> Op {
        let epsilon = self.vision.epsilon;
        Op::LayerNorm { input, weight: norm.weight, bias: norm.bias, epsilon, output }
    }

    /// What is added to every patch of a frame, by its age: `sin(a w)` and `cos(a w) - 1` of `d / 2` wavelengths
    /// `w = 10000^(-j / (d / 2))`, so that the newest frame, of age 0, stays as it is.
    fn ages(&self, frames: usize) -> Vec<f32> {
        let (d, half) = (self.vision.width, self.vision.width / 2);
        let mut numbers = Vec::with_capacity(frames * self.vision.patches() * d);
        for age in (0..frames).rev() {
            let angle = |j: usize| age as f64 * 10_000f64.powf(-(j as f64) / half as f64);
            let sines = (0..half).map(|j| angle(j).sin() as f32);
            let cosines = (0..half).map(|j| (angle(j).cos() - 1.0) as f32);
            let row: Vec<f32> = sines.chain(cosines).chain(std::iter::repeat_n(0.0, d - 2 * half)).collect();
            (0..self.vision.patches()).for_each(|_| numbers.extend_from_slice(&row));
        }
        numbers
    }
}

fn layer(c: &mut Collector, module: &str, vision: &Vision) -> Layer {
    let (d, f) = (vision.width, vision.feed_forward);
    let qkv = |what: &str| ["q", "k", "v"].map(|p| format!("{module}.self_attn.{p}_proj.{what}")).to_vec();
    Layer {
        norm1: c.norm(&format!("{module}.layer_norm1"), d),
        qkv: Linear { weight: c.stack(qkv("weight"), 3 * d, d), bias: c.vectors(qkv("bias"), d) },
        out: c.linear(&format!("{module}.self_attn.out_proj"), d, d),
        norm2: c.norm(&format!("{module}.layer_norm2"), d),
        fc1: c.linear(&format!("{module}.mlp.fc1"), f, d),
        fc2: c.linear(&format!("{module}.mlp.fc2"), d, f),
    }
}
