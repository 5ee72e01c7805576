//! What a checkpoint is, needs and can do, without loading it onto a device.

use serde::Serialize;

use crate::about::Ability;
use crate::checkpoint::Checkpoint;

/// What `waza model info` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Info {
    /// The card's name, or the folder's.
    pub name: String,
    /// The card's version, or the first digits of the digest.
    pub version: String,
    /// [`Checkpoint::digest`].
    pub digest: String,
    /// The embodiment that it was trained for, if the card says so.
    pub embodiment: Option<String>,
    /// Actions of a chunk per second, if the card says so.
    pub rate_hz: Option<f32>,
    /// Size of the weight file.
    pub weight_bytes: usize,
    /// Numbers that actions depend on.
    pub parameters: usize,
    /// Cameras that it looks at, in order.
    pub cameras: Vec<String>,
    /// Cameras of these that may be absent without its having been trained otherwise.
    pub empty_cameras: usize,
    /// Width and height that images are resized to, px.
    pub image_px: [usize; 2],
    /// Tokens of one image in the prefix.
    pub image_tokens: usize,
    /// Numbers in a state.
    pub state_size: usize,
    /// Numbers in an action.
    pub action_size: usize,
    /// Actions in a chunk.
    pub chunk_length: usize,
    /// Euler steps from noise to actions.
    pub flow_steps: usize,
    /// Vision, language and expert layers.
    pub layers: [usize; 3],
    /// Vision, language and expert widths.
    pub widths: [usize; 3],
    /// All words that instructions may use; none if they may use any.
    pub words: Vec<String>,
    /// What it can be asked for.
    pub abilities: Vec<Ability>,
}

impl Info {
    /// Describes a checkpoint.
    pub fn new(checkpoint: &Checkpoint) -> Self {
        let a = checkpoint.architecture();
        let about = checkpoint.about("none");
        let used = crate::tensors::tensors(a).into_iter().filter(|tensor| tensor.used);
        Self {
            name: about.name,
            version: about.version,
            digest: about.digest,
            embodiment: about.embodiment,
            rate_hz: about.rate_hz,
            weight_bytes: checkpoint.weight_bytes(),
            parameters: used.map(|tensor| tensor.shape.iter().product::<usize>()).sum(),
            cameras: about.cameras,
            empty_cameras: checkpoint.features().empty_cameras,
            image_px: [a.vision.image_width_px, a.vision.image_height_px],
            image_tokens: a.vision.tokens(),
            state_size: about.state_size,
            action_size: about.action_size,
            chunk_length: about.chunk_length,
            flow_steps: a.flow.steps,
            layers: [a.vision.layers, a.text.layers, a.expert.layers.len()],
            widths: [a.vision.width, a.text.width, a.expert.width],
            words: checkpoint.words(),
            abilities: about.abilities,
        }
    }
}
