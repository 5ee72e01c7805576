//! `config.json` and the VLM's `config.json`, and the [`Architecture`] that they describe together; or the
//! [`VlmArchitecture`] that the latter describes on its own.

use std::path::Path;

use indexmap::IndexMap;
use serde::Deserialize;

use super::{CheckpointError, parse, read};
use crate::architecture::{
    Architecture, Backbone, Expert, ExpertAttention, ExpertLayer, Flow, Sensors, Text, Video, Vision, VlmArchitecture,
};

/// LeRobot's `SmolVLAConfig`, as far as serving needs it; what a file leaves out has LeRobot's default. `video` and
/// `sensors` are not LeRobot's.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(crate) struct PolicyConfig {
    pub input_features: IndexMap<String, Feature>,
    pub output_features: IndexMap<String, Feature>,
    chunk_size: usize,
    n_action_steps: Option<usize>,
    pub normalization_mapping: Option<IndexMap<String, String>>,
    pub tokenizer_max_length: usize,
    max_state_dim: usize,
    max_action_dim: usize,
    resize_imgs_with_padding: Option<(usize, usize)>,
    pub empty_cameras: usize,
    adapt_to_pi_aloha: bool,
    use_delta_joint_actions_aloha: bool,
    num_steps: usize,
    use_cache: bool,
    pub vlm_model_name: String,
    add_image_special_tokens: bool,
    attention_mode: String,
    num_expert_layers: i64,
    num_vlm_layers: i64,
    self_attn_every_n_layers: i64,
    expert_width_multiplier: f64,
    min_period: f64,
    max_period: f64,
    video: Option<VideoConfig>,
    sensors: Option<SensorsConfig>,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self {
            input_features: IndexMap::new(),
            output_features: IndexMap::new(),
            chunk_size: 50,
            n_action_steps: None,
            normalization_mapping: None,
            tokenizer_max_length: 48,
            max_state_dim: 32,
            max_action_dim: 32,
            resize_imgs_with_padding: Some((512, 512)),
            empty_cameras: 0,
            adapt_to_pi_aloha: false,
            use_delta_joint_actions_aloha: false,
            num_steps: 10,
            use_cache: true,
            vlm_model_name: "HuggingFaceTB/SmolVLM2-500M-Video-Instruct".to_owned(),
            add_image_special_tokens: false,
            attention_mode: "cross_attn".to_owned(),
            num_expert_layers: -1,
            num_vlm_layers: 16,
            self_attn_every_n_layers: 2,
            expert_width_multiplier: 0.75,
            min_period: 4e-3,
            max_period: 4.0,
            video: None,
            sensors: None,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
struct VideoConfig {
    frames: usize,
    every_n_layers: usize,
}

#[derive(Clone, Debug, Deserialize)]
struct SensorsConfig {
    channels: usize,
    samples: usize,
    tokens: usize,
}

/// One input or output of the policy.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Feature {
    #[serde(rename = "type")]
    pub kind: String,
    pub shape: Vec<usize>,
}

/// What a policy of whatever type says of its inputs and outputs, as far as it can be read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Outline {
    input_features: IndexMap<String, Feature>,
    output_features: IndexMap<String, Feature>,
    pub chunk_size: Option<usize>,
    pub n_action_steps: Option<usize>,
}

impl Outline {
    pub fn read(folder: &Path) -> Self {
        let path = folder.join("config.json");
        read(&path, "").and_then(|bytes| parse(&bytes, &path)).unwrap_or_default()
    }

    pub fn is_empty(&self) -> bool {
        self.input_features.is_empty() && self.output_features.is_empty()
    }

    /// Short names, in the file's order.
    pub fn cameras(&self) -> Vec<String> {
        let cameras = self.input_features.iter().filter(|(_, feature)| feature.kind == "VISUAL");
        cameras.map(|(key, _)| short(key).to_owned()).collect()
    }

    pub fn state_size(&self) -> Option<usize> {
        Self::size(&self.input_features, STATE_KEY)
    }

    pub fn action_size(&self) -> Option<usize> {
        Self::size(&self.output_features, ACTION_KEY)
    }

    fn size(features: &IndexMap<String, Feature>, key: &str) -> Option<usize> {
        match features.get(key)?.shape.as_slice() {
            [size] => Some(*size),
            _ => None,
        }
    }
}

/// The name of a camera without what LeRobot puts before it.
pub(crate) fn short(key: &str) -> &str {
    key.strip_prefix("observation.images.").or_else(|| key.strip_prefix("observation.")).unwrap_or(key)
}

/// transformers' `SmolVLMConfig`; defaults are those of 4.57.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(crate) struct VlmConfig {
    model_type: String,
    scale_factor: usize,
    text_config: TextConfig,
    vision_config: VisionConfig,
    tie_word_embeddings: Option<bool>,
    pub image_token_id: Option<u32>,
    quantization_config: Option<serde_json::Value>,
}

impl Default for VlmConfig {
    fn default() -> Self {
        Self {
            model_type: "smolvlm".to_owned(),
            scale_factor: 2,
            text_config: TextConfig::default(),
            vision_config: VisionConfig::default(),
            tie_word_embeddings: None,
            image_token_id: None,
            quantization_config: None,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct TextConfig {
    model_type: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    rms_norm_eps: f32,
    hidden_act: String,
    attention_bias: bool,
    mlp_bias: bool,
    tie_word_embeddings: Option<bool>,
    max_position_embeddings: Option<usize>,
    rope_theta: Option<f32>,
    rope_scaling: Option<Rope>,
    /// What transformers 5 writes for the two above.
    rope_parameters: Option<Rope>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Rope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f32>,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            model_type: "llama".to_owned(),
            hidden_size: 4096,
            intermediate_size: 11008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            vocab_size: 32000,
            rms_norm_eps: 1e-6,
            hidden_act: "silu".to_owned(),
            attention_bias: false,
            mlp_bias: false,
            tie_word_embeddings: None,
            max_position_embeddings: None,
            rope_theta: None,
            rope_scaling: None,
            rope_parameters: None,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct VisionConfig {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_channels: usize,
    image_size: usize,
    patch_size: usize,
    hidden_act: String,
    layer_norm_eps: f32,
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 1152,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 16,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: "gelu_pytorch_tanh".to_owned(),
            layer_norm_eps: 1e-6,
        }
    }
}

/// A configuration file's values, checked one by one; errors carry its path.
struct Checks<'a>(&'a Path);

impl Checks<'_> {
    fn within(&self, name: &str, value: usize, least: usize, most: usize) -> Result<usize, CheckpointError> {
        if (least..=most).contains(&value) {
            return Ok(value);
        }
        let problem = format!("`{name}` is {value}, must be {least} to {most}");
        Err(CheckpointError::invalid(self.0, problem, "Check the file against the training run"))
    }

    fn that(&self, holds: bool, problem: impl FnOnce() -> String) -> Result<(), CheckpointError> {
        if holds {
            return Ok(());
        }
        Err(CheckpointError::invalid(self.0, problem(), "Check the file against the training run"))
    }

    fn supported(&self, holds: bool, what: impl FnOnce() -> String, hint: &'static str) -> Result<(), CheckpointError> {
        if holds { Ok(()) } else { Err(CheckpointError::unsupported(self.0, what(), hint)) }
    }
}

const WIDEST: usize = 1 << 16;
const NOT_YET: &str = "Serve this checkpoint with LeRobot, or train without it";

/// Joins the two configurations. `config_path` and `vlm_path` are for errors.
pub(crate) fn architecture(
    config: &PolicyConfig,
    config_path: &Path,
    vlm: &VlmConfig,
    vlm_path: &Path,
) -> Result<Architecture, CheckpointError> {
    let c = Checks(config_path);
    c.supported(!config.adapt_to_pi_aloha, || "`adapt_to_pi_aloha`".to_owned(), NOT_YET)?;
    c.supported(!config.use_delta_joint_actions_aloha, || "`use_delta_joint_actions_aloha`".to_owned(), NOT_YET)?;
    c.supported(config.use_cache, || "`use_cache` = false".to_owned(), "LeRobot cannot run it either; set it to true")?;
    let v = Checks(vlm_path);
    let mut text = text(&vlm.text_config, &v)?;
    // As in Python's `layers[:n]`: n beyond the end keeps all, and so does n <= 0 by LeRobot's own rule.
    let kept = usize::try_from(config.num_vlm_layers).ok().filter(|&n| n > 0);
    text.layers = kept.map_or(text.layers, |n| n.min(text.layers));
    let expert = expert(&text, config, &c)?;
    let Some(image_size) = config.resize_imgs_with_padding else {
        let what = "`resize_imgs_with_padding` = null";
        return Err(CheckpointError::unsupported(c.0, what, "Set it to the size that images were trained at"));
    };
    let vision = vision(vlm, ("resize_imgs_with_padding", image_size), &c, &v)?;
    Ok(Architecture {
        video: config.video.as_ref().map(|from| video(from, vision.layers, &c)).transpose()?,
        sensors: config.sensors.as_ref().map(|from| sensors(from, &config.input_features, &c)).transpose()?,
        vision,
        expert,
        text,
        flow: flow(config, &c)?,
        image_special_tokens: config.add_image_special_tokens,
    })
}

/// What a SmolVLM's own configuration describes. `has_head` says whether the file of weights holds an `lm_head`: there
/// are folders whose two `tie_word_embeddings` contradict each other, and then it is the file that was trained.
pub(crate) fn vlm_architecture(
    vlm: &VlmConfig,
    path: &Path,
    has_head: bool,
) -> Result<VlmArchitecture, CheckpointError> {
    let v = Checks(path);
    let from = &vlm.text_config;
    let plain = "Save the model again without quantisation";
    v.supported(vlm.quantization_config.is_none(), || "`quantization_config`".to_owned(), plain)?;
    for rope in from.rope_scaling.iter().chain(&from.rope_parameters) {
        let kind = rope.rope_type.as_deref().unwrap_or("default");
        v.supported(kind == "default", || format!("rope type `{kind}`"), "Use a SmolVLM2 backbone")?;
    }
    let in_parameters = from.rope_parameters.as_ref().and_then(|rope| rope.rope_theta);
    let rope_theta = in_parameters.or(from.rope_theta).unwrap_or(10_000.0);
    v.that((1.0..=1e9).contains(&rope_theta), || format!("`rope_theta` is {rope_theta}, must be 1 to 1e9"))?;
    let image_px = vlm.vision_config.image_size;
    let says_tied = vlm.tie_word_embeddings == Some(true) || from.tie_word_embeddings == Some(true);
    Ok(VlmArchitecture {
        vision: vision(vlm, ("image_size", (image_px, image_px)), &v, &v)?,
        text: text(from, &v)?,
        rope_theta,
        tied: says_tied && !has_head,
        context: v.within("max_position_embeddings", from.max_position_embeddings.unwrap_or(2048), 1, 1 << 20)?,
        backbone: Backbone::SMOLVLM,
    })
}

/// `width` and `height` are those that images come in, and `setting` says so, which is in the file of `c`.
fn vision(
    vlm: &VlmConfig,
    (setting, (width, height)): (&str, (usize, usize)),
    c: &Checks,
    v: &Checks,
) -> Result<Vision, CheckpointError> {
    let from = &vlm.vision_config;
    v.supported(vlm.model_type == "smolvlm", || format!("model type `{}`", vlm.model_type), "Use a SmolVLM2 backbone")?;
    let act = &from.hidden_act;
    v.supported(act == "gelu_pytorch_tanh", || format!("vision `hidden_act` `{act}`"), "Use a SmolVLM2 backbone")?;
    v.that(from.layer_norm_eps >= 0.0, || "`layer_norm_eps` is negative".to_owned())?;
    let patch_px = v.within("patch_size", from.patch_size, 1, 256)?;
    let image_px = v.within("image_size", from.image_size, patch_px, 4096)?;
    let vision = Vision {
        layers: v.within("vision num_hidden_layers", from.num_hidden_layers, 0, 256)?,
        width: v.within("vision hidden_size", from.hidden_size, 1, WIDEST)?,
        feed_forward: v.within("vision intermediate_size", from.intermediate_size, 1, WIDEST)?,
        heads: v.within("vision num_attention_heads", from.num_attention_heads, 1, 256)?,
        channels: v.within("num_channels", from.num_channels, 3, 3)?,
        patch_px,
        image_width_px: c.within(setting, width, patch_px, 4096)?,
        image_height_px: c.within(setting, height, patch_px, 4096)?,
        positions_per_side: image_px / patch_px,
        epsilon: from.layer_norm_eps,
        shuffle_factor: v.within("scale_factor", vlm.scale_factor, 1, 64)?,
    };
    v.that(vision.width.is_multiple_of(vision.heads), || {
        format!("vision hidden_size {} is no multiple of its {} heads", vision.width, vision.heads)
    })?;
    c.within("number of patches in an image", vision.patches(), 1, 1 << 14)?;
    let (side, factor) = (vision.shuffle_side(), vision.shuffle_factor);
    c.that(side * side == vision.patches() && side % factor == 0, || {
        let (rows, columns) = (vision.grid_rows(), vision.grid_columns());
        format!("images of {rows}x{columns} patches cannot be joined by squares of {factor}x{factor}")
    })?;
    Ok(vision)
}

/// The language model with all its layers.
fn text(from: &TextConfig, v: &Checks) -> Result<Text, CheckpointError> {
    v.supported(from.model_type == "llama", || format!("text model `{}`", from.model_type), "Use a SmolVLM2 backbone")?;
    v.supported(
        from.hidden_act == "silu",
        || format!("`hidden_act` `{}`", from.hidden_act),
        "Use a SmolVLM2 backbone",
    )?;
    v.supported(
        !from.attention_bias && !from.mlp_bias,
        || "a bias in text layers".to_owned(),
        "Use a SmolVLM2 backbone",
    )?;
    v.that(from.rms_norm_eps >= 0.0, || "`rms_norm_eps` is negative".to_owned())?;
    let width = v.within("hidden_size", from.hidden_size, 1, WIDEST)?;
    let heads = v.within("num_attention_heads", from.num_attention_heads, 1, 256)?;
    let kv_heads = v.within("num_key_value_heads", from.num_key_value_heads.unwrap_or(heads), 1, heads)?;
    v.that(heads % kv_heads == 0, || format!("{heads} heads cannot share {kv_heads} key heads"))?;
    let head_dim = v.within("head_dim", from.head_dim.unwrap_or(width / heads), 2, 1024)?;
    v.that(head_dim % 2 == 0, || format!("`head_dim` {head_dim} is odd"))?;
    Ok(Text {
        layers: v.within("num_hidden_layers", from.num_hidden_layers, 1, 256)?,
        width,
        feed_forward: v.within("intermediate_size", from.intermediate_size, 1, WIDEST)?,
        heads,
        kv_heads,
        head_dim,
        vocabulary: v.within("vocab_size", from.vocab_size, 1, 1 << 20)?,
        epsilon: from.rms_norm_eps,
    })
}

fn expert(text: &Text, config: &PolicyConfig, c: &Checks) -> Result<Expert, CheckpointError> {
    let multiplier = config.expert_width_multiplier;
    c.that(multiplier.is_finite() && multiplier > 0.0, || format!("`expert_width_multiplier` is {multiplier}"))?;
    let width = c.within("width of the expert", (text.width as f64 * multiplier) as usize, 2, WIDEST)?;
    c.that(width % 2 == 0, || format!("the expert's width {width} is odd, and its time embedding needs halves"))?;

    let layers = usize::try_from(config.num_expert_layers).ok().filter(|&n| n > 0).unwrap_or(text.layers);
    c.that(layers <= text.layers && text.layers.is_multiple_of(layers), || {
        format!("`num_expert_layers` {layers} does not divide the {} language layers", text.layers)
    })?;
    let stride = text.layers / layers;
    let crosses = config.attention_mode.contains("cross");
    let every = usize::try_from(config.self_attn_every_n_layers).ok().filter(|&n| n > 0);
    let joint = |layer: usize| !crosses || every.is_some_and(|n| layer.is_multiple_of(n));
    // LeRobot shapes the projections by the expert's own layer numbers and runs them by the language model's; where the
    // two disagree, or a language layer that wants joint attention has no expert layer, its own forward pass fails.
    let consistent =
        (0..layers).all(|i| joint(i) == joint(i * stride)) && (0..text.layers).all(|i| i % stride == 0 || !joint(i));
    c.supported(
        consistent,
        || {
            let (n, mode) = (config.self_attn_every_n_layers, &config.attention_mode);
            format!(
                "{layers} expert layers for {} language layers with `{mode}` and self-attention every {n}",
                text.layers
            )
        },
        "LeRobot cannot run it either; give the expert as many layers as the language model",
    )?;
    let attention = |i| if joint(i) { ExpertAttention::Joint } else { ExpertAttention::Cross };
    Ok(Expert {
        width,
        feed_forward: feed_forward(width),
        layers: (0..layers).map(|i| ExpertLayer { text_layer: i * stride, attention: attention(i) }).collect(),
    })
}

/// `get_intermediate_size` in `smolvlm_with_expert.py`: 8/3 of the width, up to the next multiple of 256.
fn feed_forward(width: usize) -> usize {
    (4 * (2 * width / 3)).next_multiple_of(256)
}

fn flow(config: &PolicyConfig, c: &Checks) -> Result<Flow, CheckpointError> {
    let (min_period, max_period) = (config.min_period, config.max_period);
    let ordered = min_period > 0.0 && max_period >= min_period && max_period.is_finite();
    c.that(ordered, || format!("periods {min_period} to {max_period} are no range"))?;
    Ok(Flow {
        chunk: c.within("chunk_size", config.chunk_size, 1, 1024)?,
        steps: c.within("num_steps", config.num_steps, 1, 100)?,
        max_state: c.within("max_state_dim", config.max_state_dim, 1, 1024)?,
        max_action: c.within("max_action_dim", config.max_action_dim, 1, 1024)?,
        min_period,
        max_period,
    })
}

fn video(from: &VideoConfig, layers: usize, c: &Checks) -> Result<Video, CheckpointError> {
    Ok(Video {
        frames: c.within("video frames", from.frames, 1, 16)?,
        every_n_layers: c.within("video every_n_layers", from.every_n_layers, 1, layers)?,
    })
}

fn sensors(from: &SensorsConfig, inputs: &IndexMap<String, Feature>, c: &Checks) -> Result<Sensors, CheckpointError> {
    let sensors = Sensors {
        channels: c.within("sensors channels", from.channels, 1, 256)?,
        samples: c.within("sensors samples", from.samples, 1, 4096)?,
        tokens: c.within("sensors tokens", from.tokens, 1, 16)?,
    };
    let Sensors { channels, samples, tokens } = sensors;
    c.that(samples.is_multiple_of(tokens), || format!("{samples} sensor samples cannot make {tokens} tokens"))?;
    let shape = inputs.get(SENSORS_KEY).map(|feature| feature.shape.as_slice());
    c.that(shape == Some(&[samples, channels]), || {
        format!("`{SENSORS_KEY}` must be a feature of shape [{samples}, {channels}], is {shape:?}")
    })?;
    Ok(sensors)
}

/// What the robot must supply and what it gets, from the features in `config.json`.
#[derive(Clone, Debug)]
pub(crate) struct Features {
    /// Keys of the cameras in the configuration's order, without the placeholders that only reserve a place.
    pub cameras: Vec<String>,
    /// Width and height of their frames in the training data.
    pub camera_sizes_px: Vec<[u32; 2]>,
    /// Cameras that may be absent and then still leave their special tokens. As many places are reserved for cameras that
    /// no robot has.
    pub empty_cameras: usize,
    /// Numbers in a state.
    pub state_size: usize,
    /// Numbers in an action.
    pub action_size: usize,
    /// Actions of a chunk that are played before the next is asked for, if the file says so.
    pub action_steps: Option<usize>,
}

/// Key of the state in LeRobot's observations.
pub(crate) const STATE_KEY: &str = "observation.state";
/// Key of the sensors besides cameras and joints.
pub(crate) const SENSORS_KEY: &str = "observation.sensors";
/// Key of the action.
pub(crate) const ACTION_KEY: &str = "action";

/// Reads the features. `path` is for errors.
pub(crate) fn features(config: &PolicyConfig, path: &Path) -> Result<Features, CheckpointError> {
    let c = Checks(path);
    c.within("empty_cameras", config.empty_cameras, 0, 64)?;
    // LeRobot adds the placeholders itself when it loads a configuration that lacks them (`validate_features`).
    let placeholder =
        |key: &str| (0..config.empty_cameras).any(|i| key == format!("observation.images.empty_camera_{i}"));
    let (mut cameras, mut camera_sizes_px) = (Vec::new(), Vec::new());
    for (key, feature) in config.input_features.iter().filter(|(key, f)| f.kind == "VISUAL" && !placeholder(key)) {
        let &[3, height, width] = feature.shape.as_slice() else {
            let problem = format!("`{key}` must be of shape [3, height, width], is {:?}", feature.shape);
            return Err(CheckpointError::invalid(path, problem, "Check the file against the training run"));
        };
        cameras.push(key.clone());
        let side = |px| c.within(&format!("side of `{key}`"), px, 1, 16_384).map(|px| px as u32);
        camera_sizes_px.push([side(width)?, side(height)?]);
    }
    c.within("number of cameras", cameras.len(), 1, 64)?;
    let size = |features: &IndexMap<String, Feature>, key: &str, most: usize| {
        let shape = features.get(key).map(|f| f.shape.as_slice());
        let Some(&[size]) = shape else {
            let problem = format!("`{key}` must be a feature of one dimension, is {shape:?}");
            return Err(CheckpointError::invalid(path, problem, "Check the file against the training run"));
        };
        c.within(&format!("size of {key}"), size, 1, most)
    };
    Ok(Features {
        cameras,
        camera_sizes_px,
        empty_cameras: config.empty_cameras,
        state_size: size(&config.input_features, STATE_KEY, config.max_state_dim)?,
        action_size: size(&config.output_features, ACTION_KEY, config.max_action_dim)?,
        action_steps: config
            .n_action_steps
            .map(|steps| c.within("n_action_steps", steps, 1, config.chunk_size))
            .transpose()?,
    })
}
