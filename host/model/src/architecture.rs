//! The dimensions of a network, all that its plans and its list of tensors are derived from.

mod backbone;

use serde::Serialize;

pub use backbone::Backbone;

/// What one checkpoint's network looks like. Made by [`crate::Checkpoint::open`] from `config.json` and the VLM's
/// configuration, which bound every number in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// The image encoder.
    pub vision: Vision,
    /// The language model, whose keys and values are what the expert attends to.
    pub text: Text,
    /// The action expert.
    pub expert: Expert,
    /// The flow-matching head.
    pub flow: Flow,
    /// Each image stands between special tokens.
    pub image_special_tokens: bool,
    /// It was trained on several frames of each camera. No stock checkpoint is.
    pub video: Option<Video>,
    /// It was trained on sensors besides cameras and joints. No stock checkpoint is.
    pub sensors: Option<Sensors>,
}

impl Architecture {
    /// The last layer of the language model that an expert layer attends to; what comes after it reaches no action.
    pub fn last_text_layer(&self) -> usize {
        self.expert.layers.iter().map(|l| l.text_layer).max().unwrap_or(0)
    }
}

/// The dimensions of a SmolVLM that answers in words. Made by [`crate::VlmCheckpoint::open`].
#[derive(Clone, Debug, PartialEq)]
pub struct VlmArchitecture {
    /// The image encoder.
    pub vision: Vision,
    /// The language model, all layers of it.
    pub text: Text,
    /// Base of the rotary positions' wavelengths.
    pub rope_theta: f32,
    /// The embedding table is the language model's head as well, and [`Backbone::lm_head`] has no tensor.
    pub tied: bool,
    /// Tokens that question and answer may take together.
    pub context: usize,
    /// What its tensors are called.
    pub backbone: Backbone,
}

/// How several frames of a camera are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Video {
    /// Frames of each camera, at least 1.
    pub frames: usize,
    /// Of every so many layers of the image encoder, the last looks back at earlier frames.
    pub every_n_layers: usize,
}

/// Sensors besides cameras and joints, such as force and touch, sampled more often than actions are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sensors {
    /// Numbers in a sample.
    pub channels: usize,
    /// Samples that are looked at, the newest last.
    pub samples: usize,
    /// Tokens that they become; divides `samples`.
    pub tokens: usize,
}

impl Sensors {
    /// Numbers that become one token: `samples / tokens` samples, one after the other.
    pub fn token_numbers(&self) -> usize {
        self.samples / self.tokens * self.channels
    }
}

/// SigLIP's vision transformer, and the connector after it.
#[derive(Clone, Debug, PartialEq)]
pub struct Vision {
    /// Transformer layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Width of the feed-forward layer.
    pub feed_forward: usize,
    /// Attention heads; divides `width`.
    pub heads: usize,
    /// Colour channels.
    pub channels: usize,
    /// Side of a square patch, px.
    pub patch_px: usize,
    /// Width of the image that the encoder is given, px.
    pub image_width_px: usize,
    /// Height of the image that the encoder is given, px.
    pub image_height_px: usize,
    /// Side of the grid of learned positions; the image's own grid may be smaller or larger.
    pub positions_per_side: usize,
    /// Of the layer norms.
    pub epsilon: f32,
    /// Side of the squares of patches that the connector joins to one token.
    pub shuffle_factor: usize,
}

impl Vision {
    /// Patches in a row of the image's grid.
    pub fn grid_columns(&self) -> usize {
        self.image_width_px / self.patch_px
    }

    /// Rows of the image's grid.
    pub fn grid_rows(&self) -> usize {
        self.image_height_px / self.patch_px
    }

    /// Patches of one image.
    pub fn patches(&self) -> usize {
        self.grid_rows() * self.grid_columns()
    }

    /// Numbers in one patch.
    pub fn patch_numbers(&self) -> usize {
        self.channels * self.patch_px * self.patch_px
    }

    /// Side of the square that the connector takes the patches to lie in.
    pub fn shuffle_side(&self) -> usize {
        self.patches().isqrt()
    }

    /// Tokens of one image in the prefix.
    pub fn tokens(&self) -> usize {
        self.patches() / (self.shuffle_factor * self.shuffle_factor)
    }

    /// Which learned position each patch gets.
    ///
    /// transformers 4.57 (`SmolVLMVisionEmbeddings.forward`) sorts `i / n * (1 - 1e-6)` into buckets of width
    /// `1 / positions_per_side` in f32. Just below a boundary counts as below, so for a full grid the ids are
    /// `0, 0, 1, .. n - 2`: a quirk that checkpoints are trained with.
    pub fn position_ids(&self) -> Vec<u32> {
        let buckets = |n: usize| -> Vec<u32> {
            let step = 1.0 / self.positions_per_side as f64;
            // torch.arange(step, 1, step): its length is computed in f64, its values are rounded to f32.
            let count = ((1.0 - step) / step).ceil() as usize;
            let boundaries: Vec<f32> = (0..count).map(|k| (step + k as f64 * step) as f32).collect();
            let scale = (1.0 - 1e-6) as f32;
            (0..n)
                .map(|i| {
                    let coordinate = i as f32 / n as f32 * scale;
                    let bucket = boundaries.iter().filter(|&&b| b <= coordinate).count();
                    bucket.min(self.positions_per_side - 1) as u32
                })
                .collect()
        };
        let (rows, columns) = (buckets(self.grid_rows()), buckets(self.grid_columns()));
        let side = self.positions_per_side as u32;
        rows.iter().flat_map(|r| columns.iter().map(move |c| r * side + c)).collect()
    }
}

/// The language model (Llama's layers).
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// Layers; of a SmolVLA, those that it keeps of the language model.
    pub layers: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Width of the gated feed-forward layer.
    pub feed_forward: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Columns of a head, even.
    pub head_dim: usize,
    /// Rows of the embedding table.
    pub vocabulary: usize,
    /// Of the RMS norms, the expert's too.
    pub epsilon: f32,
}

impl Text {
    /// Columns of all query heads.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Columns of all key heads, and of all value heads.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

/// The action expert: layers of the language model's kind with its head geometry, but narrower.
#[derive(Clone, Debug, PartialEq)]
pub struct Expert {
    /// Width of the residual stream, even.
    pub width: usize,
    /// Width of the gated feed-forward layer.
    pub feed_forward: usize,
    /// Its layers in order.
    pub layers: Vec<ExpertLayer>,
}

/// One layer of the expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertLayer {
    /// The layer of the language model whose keys and values it attends to.
    pub text_layer: usize,
    /// How it attends to them.
    pub attention: ExpertAttention,
}

/// How an expert layer attends to the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertAttention {
    /// To the prefix's keys and values, and causally to its own.
    Joint,
    /// Only to the prefix's, projected once more by the expert; query positions count from 0.
    Cross,
}

/// The flow-matching head: what turns noise into actions.
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    /// Actions in a chunk.
    pub chunk: usize,
    /// Euler steps from noise to actions.
    pub steps: usize,
    /// Width to which states are padded.
    pub max_state: usize,
    /// Width to which actions are padded.
    pub max_action: usize,
    /// Shortest period of the time embedding.
    pub min_period: f64,
    /// Longest period of the time embedding.
    pub max_period: f64,
}

impl Flow {
    /// Sine-cosine embeddings of the steps' times `1 - step / steps`, `steps * width` numbers.
    ///
    /// LeRobot's `create_sinusoidal_pos_embedding`: periods from `min_period` to `max_period` in equal ratios, computed in
    /// f64 from a time that was rounded to f32; all sines stand before all cosines.
    pub fn time_embeddings(&self, width: usize) -> Vec<f32> {
        let half = width / 2;
        let angular = |j: usize| {
            let fraction = if half > 1 { j as f64 / (half - 1) as f64 } else { 0.0 };
            1.0 / (self.min_period * (self.max_period / self.min_period).powf(fraction)) * std::f64::consts::TAU
        };
        let dt = -1.0 / self.steps as f64;
        (0..self.steps)
            .flat_map(|step| {
                let time = f64::from((1.0 + step as f64 * dt) as f32);
                let sines = (0..half).map(move |j| (angular(j) * time).sin() as f32);
                sines.chain((0..half).map(move |j| (angular(j) * time).cos() as f32))
            })
            .collect()
    }
}
