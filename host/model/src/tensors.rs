//! The tensors of a SmolVLA checkpoint: their names and shapes, derived from the [`Architecture`].

use crate::architecture::{Architecture, ExpertAttention};

const VISION: &str = "model.vlm_with_expert.vlm.model.vision_model";
const TEXT: &str = "model.vlm_with_expert.vlm.model.text_model";
const EXPERT: &str = "model.vlm_with_expert.lm_expert";

/// The convolution that embeds patches.
pub const PATCH_EMBEDDING: &str = "model.vlm_with_expert.vlm.model.vision_model.embeddings.patch_embedding";
/// The learned positions of patches.
pub const POSITION_EMBEDDING: &str = "model.vlm_with_expert.vlm.model.vision_model.embeddings.position_embedding";
/// The norm after the vision tower.
pub const POST_LAYERNORM: &str = "model.vlm_with_expert.vlm.model.vision_model.post_layernorm";
/// The projection from joined patches to the language model's width.
pub const CONNECTOR: &str = "model.vlm_with_expert.vlm.model.connector.modality_projection.proj";
/// The language model's embedding table.
pub const EMBED_TOKENS: &str = "model.vlm_with_expert.vlm.model.text_model.embed_tokens";
/// The projection of the state to a token.
pub const STATE: &str = "model.state_proj";
/// The norm after the expert.
pub const EXPERT_NORM: &str = "model.vlm_with_expert.lm_expert.norm";
/// The projection of noisy actions to tokens.
pub const ACTION_IN: &str = "model.action_in_proj";
/// The projection of the expert's output to velocities.
pub const ACTION_OUT: &str = "model.action_out_proj";
/// First layer of what mixes the time into action tokens.
pub const ACTION_TIME_IN: &str = "model.action_time_mlp_in";
/// Second layer of it.
pub const ACTION_TIME_OUT: &str = "model.action_time_mlp_out";

const TEXT_NORM: &str = "model.vlm_with_expert.vlm.model.text_model.norm";
const LM_HEAD: &str = "model.vlm_with_expert.vlm.lm_head";

/// Module of a vision layer.
pub fn vision_layer(index: usize) -> String {
    format!("{VISION}.encoder.layers.{index}")
}

/// Module of a language layer.
pub fn text_layer(index: usize) -> String {
    format!("{TEXT}.layers.{index}")
}

/// Module of an expert layer.
pub fn expert_layer(index: usize) -> String {
    format!("{EXPERT}.layers.{index}")
}

/// A tensor that a checkpoint has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its full name.
    pub name: String,
    /// Its shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// Actions depend on it. What they do not depend on may be absent, but not of another shape.
    pub used: bool,
}

/// All tensors of a network, in the order of the network.
pub fn tensors(a: &Architecture) -> Vec<Tensor> {
    let mut table = Table(Vec::new());
    let (vision, text, expert, flow) = (&a.vision, &a.text, &a.expert, &a.flow);
    let (d, patch) = (vision.width, vision.patch_px);

    table.add(format!("{PATCH_EMBEDDING}.weight"), &[d, vision.channels, patch, patch]);
    table.add(format!("{PATCH_EMBEDDING}.bias"), &[d]);
    table.add(format!("{POSITION_EMBEDDING}.weight"), &[vision.positions_per_side.pow(2), d]);
    for index in 0..vision.layers {
        let module = vision_layer(index);
        table.norm(&format!("{module}.layer_norm1"), d);
        for projection in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            table.linear(&format!("{module}.self_attn.{projection}"), d, d);
        }
        table.norm(&format!("{module}.layer_norm2"), d);
        table.linear(&format!("{module}.mlp.fc1"), vision.feed_forward, d);
        table.linear(&format!("{module}.mlp.fc2"), d, vision.feed_forward);
    }
    table.norm(POST_LAYERNORM, d);
    table.add(format!("{CONNECTOR}.weight"), &[text.width, d * vision.shuffle_factor.pow(2)]);

    table.add(format!("{EMBED_TOKENS}.weight"), &[text.vocabulary, text.width]);
    let last = a.last_text_layer();
    for index in 0..text.layers {
        let (from, kv) = (text.width, text.kv_width());
        let used = |part| index < last || (index == last && matches!(part, Part::KeyValue));
        table.decoder_layer(&text_layer(index), a, (text.width, text.feed_forward), (from, kv), used);
    }
    table.unused(format!("{TEXT_NORM}.weight"), &[text.width]);
    table.unused(format!("{LM_HEAD}.weight"), &[text.vocabulary, text.width]);

    for (index, layer) in expert.layers.iter().enumerate() {
        let from = match layer.attention {
            ExpertAttention::Joint => expert.width,
            ExpertAttention::Cross => text.kv_width(),
        };
        let dims = (expert.width, expert.feed_forward);
        table.decoder_layer(&expert_layer(index), a, dims, (from, text.kv_width()), |_| true);
    }
    table.add(format!("{EXPERT_NORM}.weight"), &[expert.width]);
    table.linear(STATE, text.width, flow.max_state);
    table.linear(ACTION_IN, expert.width, flow.max_action);
    table.linear(ACTION_TIME_IN, expert.width, 2 * expert.width);
    table.linear(ACTION_TIME_OUT, expert.width, expert.width);
    table.linear(ACTION_OUT, flow.max_action, expert.width);
    table.0
}

/// A tensor that the full language model has, and this network leaves out because its layer is cut off.
pub fn is_cut_off(name: &str, a: &Architecture) -> bool {
    let layer = name.strip_prefix(TEXT).and_then(|rest| rest.strip_prefix(".layers."));
    let index = layer.and_then(|rest| rest.split('.').next()).and_then(|index| index.parse::<usize>().ok());
    index.is_some_and(|index| index >= a.text.layers)
}

/// The halves of a decoder layer: what makes keys and values, and what comes after.
#[derive(Clone, Copy)]
enum Part {
    KeyValue,
    Rest,
}

struct Table(Vec<Tensor>);

impl Table {
    fn add(&mut self, name: String, shape: &[usize]) {
        self.0.push(Tensor { name, shape: shape.to_vec(), used: true });
    }

    fn unused(&mut self, name: String, shape: &[usize]) {
        self.0.push(Tensor { name, shape: shape.to_vec(), used: false });
    }

    fn linear(&mut self, module: &str, rows: usize, columns: usize) {
        self.add(format!("{module}.weight"), &[rows, columns]);
        self.add(format!("{module}.bias"), &[rows]);
    }

    fn norm(&mut self, module: &str, width: usize) {
        self.add(format!("{module}.weight"), &[width]);
        self.add(format!("{module}.bias"), &[width]);
    }

    fn decoder_layer(
        &mut self,
        module: &str,
        a: &Architecture,
        (width, feed_forward): (usize, usize),
        (kv_from, kv_width): (usize, usize),
        used: impl Fn(Part) -> bool,
    ) {
        let query = a.text.query_width();
        let parts: [(&str, Part, &[usize]); 9] = [
            ("input_layernorm", Part::KeyValue, &[width]),
            ("self_attn.k_proj", Part::KeyValue, &[kv_width, kv_from]),
            ("self_attn.v_proj", Part::KeyValue, &[kv_width, kv_from]),
            ("self_attn.q_proj", Part::Rest, &[query, width]),
            ("self_attn.o_proj", Part::Rest, &[width, query]),
            ("post_attention_layernorm", Part::Rest, &[width]),
            ("mlp.gate_proj", Part::Rest, &[feed_forward, width]),
            ("mlp.up_proj", Part::Rest, &[feed_forward, width]),
            ("mlp.down_proj", Part::Rest, &[width, feed_forward]),
        ];
        for (name, part, shape) in parts {
            let name = format!("{module}.{name}.weight");
            self.0.push(Tensor { name, shape: shape.to_vec(), used: used(part) });
        }
    }
}
