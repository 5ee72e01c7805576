//! What the modules of a network are called in a checkpoint.

/// Names of the modules of a SmolVLM: the same in every file, but for what stands before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backbone {
    prefix: &'static str,
}

impl Backbone {
    /// As part of a SmolVLA, as LeRobot saves it.
    pub const SMOLVLA: Self = Self { prefix: "model.vlm_with_expert.vlm." };
    /// On its own, as transformers saves `SmolVLMForConditionalGeneration`.
    pub const SMOLVLM: Self = Self { prefix: "" };

    /// The convolution that embeds patches.
    pub fn patch_embedding(&self) -> String {
        self.vision("embeddings.patch_embedding")
    }

    /// The learned positions of patches.
    pub fn position_embedding(&self) -> String {
        self.vision("embeddings.position_embedding")
    }

    /// A layer of the vision tower.
    pub fn vision_layer(&self, index: usize) -> String {
        self.vision(&format!("encoder.layers.{index}"))
    }

    /// The norm after the vision tower.
    pub fn post_layernorm(&self) -> String {
        self.vision("post_layernorm")
    }

    /// The projection from joined patches to the language model's width.
    pub fn connector(&self) -> String {
        format!("{}model.connector.modality_projection.proj", self.prefix)
    }

    /// The language model's embedding table.
    pub fn embed_tokens(&self) -> String {
        self.text("embed_tokens")
    }

    /// A layer of the language model.
    pub fn text_layer(&self, index: usize) -> String {
        self.text(&format!("layers.{index}"))
    }

    /// The norm after the language model.
    pub fn text_norm(&self) -> String {
        self.text("norm")
    }

    /// The projection from the language model's width to the vocabulary. A tied one has no tensor: see
    /// [`VlmArchitecture::tied`](super::VlmArchitecture::tied).
    pub fn lm_head(&self) -> String {
        format!("{}lm_head", self.prefix)
    }

    fn vision(&self, part: &str) -> String {
        format!("{}model.vision_model.{part}", self.prefix)
    }

    pub(crate) fn text(&self, part: &str) -> String {
        format!("{}model.text_model.{part}", self.prefix)
    }
}
