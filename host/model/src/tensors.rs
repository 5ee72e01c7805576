//! The tensors of a checkpoint: their names and shapes, derived from its architecture.

use crate::architecture::{Architecture, Backbone, ExpertAttention, Text, Vision, VlmArchitecture};

const EXPERT: &str = "model.vlm_with_expert.lm_expert";

/// The projection of the state to a token.
pub const STATE: &str = "model.state_proj";
/// The projection of joined sensor samples to a token.
pub const SENSORS: &str = "model.sensor_proj";
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
    /// What the network is asked for depends on it. What does not matter may be absent, but not of another shape.
    pub used: bool,
}

/// All tensors of a SmolVLA, in the order of the network.
pub fn tensors(a: &Architecture) -> Vec<Tensor> {
    let mut table = Table(Vec::new());
    let names = Backbone::SMOLVLA;
    let (text, expert, flow) = (&a.text, &a.expert, &a.flow);
    table.vision(&names, &a.vision, text.width);

    table.add(format!("{}.weight", names.embed_tokens()), &[text.vocabulary, text.width]);
    let last = a.last_text_layer();
    for index in 0..text.layers {
        let used = |part| index < last || (index == last && matches!(part, Part::KeyValue));
        table.decoder_layer(&names.text_layer(index), text, (text.width, text.feed_forward), text.width, used);
    }
    table.unused(format!("{}.weight", names.text_norm()), &[text.width]);
    table.unused(format!("{}.weight", names.lm_head()), &[text.vocabulary, text.width]);

    for (index, layer) in expert.layers.iter().enumerate() {
        let from = match layer.attention {
            ExpertAttention::Joint => expert.width,
            ExpertAttention::Cross => text.kv_width(),
        };
        table.decoder_layer(&expert_layer(index), text, (expert.width, expert.feed_forward), from, |_| true);
    }
    table.add(format!("{EXPERT_NORM}.weight"), &[expert.width]);
    table.linear(STATE, text.width, flow.max_state);
    if let Some(sensors) = &a.sensors {
        table.linear(SENSORS, text.width, sensors.token_numbers());
    }
    table.linear(ACTION_IN, expert.width, flow.max_action);
    table.linear(ACTION_TIME_IN, expert.width, 2 * expert.width);
    table.linear(ACTION_TIME_OUT, expert.width, expert.width);
    table.linear(ACTION_OUT, flow.max_action, expert.width);
    table.0
}

/// All tensors of a SmolVLM, in the order of the network.
pub fn vlm_tensors(a: &VlmArchitecture) -> Vec<Tensor> {
    let mut table = Table(Vec::new());
    let (names, text) = (&a.backbone, &a.text);
    table.vision(names, &a.vision, text.width);
    table.add(format!("{}.weight", names.embed_tokens()), &[text.vocabulary, text.width]);
    for index in 0..text.layers {
        table.decoder_layer(&names.text_layer(index), text, (text.width, text.feed_forward), text.width, |_| true);
    }
    table.add(format!("{}.weight", names.text_norm()), &[text.width]);
    if !a.tied {
        table.add(format!("{}.weight", names.lm_head()), &[text.vocabulary, text.width]);
    }
    table.0
}

/// A tensor that the full language model has, and this network leaves out because its layer is cut off.
pub fn is_cut_off(name: &str, a: &Architecture) -> bool {
    let layers = Backbone::SMOLVLA.text("layers.");
    let index = name.strip_prefix(&layers).and_then(|rest| rest.split('.').next());
    index.and_then(|index| index.parse::<usize>().ok()).is_some_and(|index| index >= a.text.layers)
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

    fn vision(&mut self, names: &Backbone, vision: &Vision, text_width: usize) {
        let (d, patch) = (vision.width, vision.patch_px);
        self.add(format!("{}.weight", names.patch_embedding()), &[d, vision.channels, patch, patch]);
        self.add(format!("{}.bias", names.patch_embedding()), &[d]);
        self.add(format!("{}.weight", names.position_embedding()), &[vision.positions_per_side.pow(2), d]);
        for index in 0..vision.layers {
            let module = names.vision_layer(index);
            self.norm(&format!("{module}.layer_norm1"), d);
            for projection in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                self.linear(&format!("{module}.self_attn.{projection}"), d, d);
            }
            self.norm(&format!("{module}.layer_norm2"), d);
            self.linear(&format!("{module}.mlp.fc1"), vision.feed_forward, d);
            self.linear(&format!("{module}.mlp.fc2"), d, vision.feed_forward);
        }
        self.norm(&names.post_layernorm(), d);
        self.add(format!("{}.weight", names.connector()), &[text_width, d * vision.shuffle_factor.pow(2)]);
    }

    /// A layer of the language model's head geometry, and of a width of its own.
    fn decoder_layer(
        &mut self,
        module: &str,
        text: &Text,
        (width, feed_forward): (usize, usize),
        kv_from: usize,
        used: impl Fn(Part) -> bool,
    ) {
        let (query, kv_width) = (text.query_width(), text.kv_width());
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
