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
