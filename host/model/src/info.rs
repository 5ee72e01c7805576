//! What a checkpoint is, needs and can do, without loading it onto a device.

use serde::Serialize;

use crate::about::{Ability, About};
use crate::architecture::Vision;
use crate::checkpoint::{AnyCheckpoint, Checkpoint, VlmCheckpoint};
use crate::tensors::{Tensor, tensors, vlm_tensors};

/// What `waza model info` prints. What a policy alone has is absent of a model that answers in words.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Info {
    /// The card's name, or the folder's.
    pub name: String,
    /// The card's version, or the first digits of the digest.
    pub version: String,
    /// [`Checkpoint::digest`].
    pub digest: String,
    /// What it can be asked for.
    pub abilities: Vec<Ability>,
    /// Size of the weight file.
    pub weight_bytes: usize,
    /// Numbers that its answers depend on.
    pub parameters: usize,
    /// Width and height that images are resized to, px.
    pub image_px: [usize; 2],
    /// Tokens of one image.
    pub image_tokens: usize,
    /// Layers of each part, in the order of the computation: vision, language and, of a policy, expert.
    pub layers: Vec<usize>,
    /// Their widths.
    pub widths: Vec<usize>,
    /// All words that it can be told; none if they may be any.
    pub words: Vec<String>,
    /// What a policy has.
    #[serde(flatten)]
    pub policy: Option<PolicyInfo>,
    /// What a model that answers in words has.
    #[serde(flatten)]
    pub text: Option<TextInfo>,
}

/// What [`Info`] says of a policy alone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicyInfo {
    /// The embodiment that it was trained for, if the card says so.
    pub embodiment: Option<String>,
    /// Actions of a chunk per second, if the card says so.
    pub rate_hz: Option<f32>,
    /// Cameras that it looks at, in order.
    pub cameras: Vec<String>,
    /// Cameras of these that may be absent without its having been trained otherwise.
    pub empty_cameras: usize,
    /// Frames of a camera that it looks at; 1 unless it sees video.
    pub frames: usize,
    /// Numbers in a state.
    pub state_size: usize,
    /// Samples and channels of the sensor window that it wants, if it does.
    pub sensor_window: Option<[usize; 2]>,
    /// Numbers in an action.
    pub action_size: usize,
    /// Actions in a chunk.
    pub chunk_length: usize,
    /// Euler steps from noise to actions.
    pub flow_steps: usize,
}

/// What [`Info`] says of a model that answers in words alone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TextInfo {
    /// Tokens that question, images and answer may have together.
    pub context: usize,
    /// Tokens that it knows.
    pub vocabulary: usize,
}

impl Info {
    /// Describes a checkpoint.
    pub fn new(checkpoint: &AnyCheckpoint) -> Self {
        match checkpoint {
            AnyCheckpoint::Policy(checkpoint) => Self::of_policy(checkpoint),
            AnyCheckpoint::Vlm(checkpoint) => Self::of_vlm(checkpoint),
        }
    }

    fn of_policy(checkpoint: &Checkpoint) -> Self {
        let (a, about) = (checkpoint.architecture(), checkpoint.about("none"));
        Self {
            weight_bytes: checkpoint.weight_bytes(),
            layers: vec![a.vision.layers, a.text.layers, a.expert.layers.len()],
            widths: vec![a.vision.width, a.text.width, a.expert.width],
            words: checkpoint.words(),
            policy: Some(PolicyInfo {
                embodiment: about.embodiment.clone(),
                rate_hz: about.rate_hz,
                cameras: about.cameras.clone(),
                empty_cameras: checkpoint.features().empty_cameras,
                frames: a.video.map_or(1, |video| video.frames),
                state_size: about.state_size,
                sensor_window: a.sensors.map(|sensors| [sensors.samples, sensors.channels]),
                action_size: about.action_size,
                chunk_length: about.chunk_length,
                flow_steps: a.flow.steps,
            }),
            ..Self::common(about, &a.vision, &tensors(a))
        }
    }

    fn of_vlm(checkpoint: &VlmCheckpoint) -> Self {
        let a = checkpoint.architecture();
        Self {
            weight_bytes: checkpoint.weight_bytes(),
            layers: vec![a.vision.layers, a.text.layers],
            widths: vec![a.vision.width, a.text.width],
            words: checkpoint.words(),
            text: Some(TextInfo { context: a.context, vocabulary: a.text.vocabulary }),
            ..Self::common(checkpoint.about("none"), &a.vision, &vlm_tensors(a))
        }
    }

    fn common(about: About, vision: &Vision, tensors: &[Tensor]) -> Self {
        let used = tensors.iter().filter(|tensor| tensor.used);
        Self {
            name: about.name,
            version: about.version,
            digest: about.digest,
            abilities: about.abilities,
            weight_bytes: 0,
            parameters: used.map(|tensor| tensor.shape.iter().product::<usize>()).sum(),
            image_px: [vision.image_width_px, vision.image_height_px],
            image_tokens: vision.tokens(),
            layers: Vec::new(),
            widths: Vec::new(),
            words: Vec::new(),
            policy: None,
            text: None,
        }
    }
}
