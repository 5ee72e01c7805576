//! What a checkpoint is, needs and can do, and what keeps it from running, without loading it onto a device.

use std::path::Path;

use serde::Serialize;

use crate::about::{Ability, About, folder_name};
use crate::architecture::Vision;
use crate::checkpoint::{Checkpoint, CheckpointError, Kind, Outline, Parts, VlmCheckpoint};
use crate::setup::{Setup, Units};
use crate::tensors::{Tensor, tensors, vlm_tensors};

/// What `waza model info` prints. What a policy alone has is absent of a model that answers in words; what a broken or
/// foreign folder does not tell is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Info {
    /// The card's name, or the folder's.
    pub name: String,
    /// LeRobot's policy type or transformers' model type, or what else the folder holds.
    pub kind: String,
    /// The card's version, or the first digits of the digest.
    pub version: Option<String>,
    /// [`Checkpoint::digest`].
    pub digest: Option<String>,
    /// What it can be asked for.
    pub abilities: Vec<Ability>,
    /// Size of the weight file.
    pub weight_bytes: Option<usize>,
    /// Numbers that its answers depend on.
    pub parameters: Option<usize>,
    /// Width and height that images are resized to, px.
    pub image_px: Option<[usize; 2]>,
    /// Tokens of one image.
    pub image_tokens: Option<usize>,
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
    /// What keeps it from running here, each with a way out.
    pub obstacles: Vec<String>,
    /// What is assumed of it or looks odd, each with what settles it.
    pub warnings: Vec<String>,
    /// What it says about itself where it can be opened.
    #[serde(skip)]
    pub about: Option<About>,
}

/// What [`Info`] says of a policy alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PolicyInfo {
    /// The embodiment that it was trained for, if the card says so.
    pub embodiment: Option<String>,
    /// What its states and actions are in, if that is said.
    pub units: Option<Units>,
    /// Actions of a chunk per second, if that is said.
    pub rate_hz: Option<f32>,
    /// Cameras that it looks at, in order, as the robot calls them.
    pub cameras: Vec<String>,
    /// Cameras of these that may be absent without its having been trained otherwise.
    pub empty_cameras: usize,
    /// Frames of a camera that it looks at; 1 unless it sees video.
    pub frames: usize,
    /// Numbers in a state.
    pub state_size: Option<usize>,
    /// Samples and channels of the sensor window that it wants, if it does.
    pub sensor_window: Option<[usize; 2]>,
    /// Numbers in an action.
    pub action_size: Option<usize>,
    /// Actions in a chunk.
    pub chunk_length: Option<usize>,
    /// Actions of a chunk that a rollout plays before it asks for the next, unless a skill says otherwise; half a chunk
    /// if the checkpoint does not say.
    pub action_steps: Option<usize>,
    /// Euler steps from noise to actions.
    pub flow_steps: Option<usize>,
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
    /// Describes whatever can be read of a folder.
    ///
    /// # Errors
    /// If nothing can: there is no configuration in it.
    pub fn examine(folder: &Path, setup: &Setup) -> Result<Self, CheckpointError> {
        match Kind::of(folder) {
            Ok(Kind::Vlm) => Ok(match VlmCheckpoint::open(folder) {
                Ok(checkpoint) => Self::of_vlm(&checkpoint),
                Err(problem) => Self::of_outline(folder, "smolvlm", &[problem]),
            }),
            Ok(Kind::Policy(kind)) => {
                let parts = Parts::read(folder, setup, true);
                match parts.problems.as_slice() {
                    [] => parts.whole().map(|checkpoint| Self::of_policy(&checkpoint)),
                    problems => Ok(Self::of_outline(folder, &kind, problems)),
                }
            }
            Err(problem @ CheckpointError::Adapter { .. }) => Ok(Self::of_outline(folder, "adapter", &[problem])),
            Err(problem) => Err(problem),
        }
    }

    /// Of what cannot be opened: what its configuration says, and what is wrong.
    fn of_outline(folder: &Path, kind: &str, problems: &[CheckpointError]) -> Self {
        let outline = Outline::read(folder);
        Self {
            name: folder_name(folder),
            kind: kind.chars().take(100).collect(),
            policy: (!outline.is_empty()).then(|| PolicyInfo {
                cameras: outline.cameras(),
                frames: 1,
                state_size: outline.state_size(),
                action_size: outline.action_size(),
                chunk_length: outline.chunk_size,
                action_steps: outline.n_action_steps,
                ..PolicyInfo::default()
            }),
            obstacles: problems.iter().map(ToString::to_string).collect(),
            ..Self::default()
        }
    }

    fn of_policy(checkpoint: &Checkpoint) -> Self {
        let (a, about) = (checkpoint.architecture(), checkpoint.about("none"));
        Self {
            weight_bytes: Some(checkpoint.weight_bytes()),
            layers: vec![a.vision.layers, a.text.layers, a.expert.layers.len()],
            widths: vec![a.vision.width, a.text.width, a.expert.width],
            words: checkpoint.words(),
            policy: Some(PolicyInfo {
                embodiment: about.embodiment.clone(),
                units: checkpoint.fit().units.clone(),
                rate_hz: about.rate_hz,
                cameras: about.cameras.clone(),
                empty_cameras: checkpoint.features().empty_cameras,
                frames: a.video.map_or(1, |video| video.frames),
                state_size: Some(about.state_size),
                sensor_window: a.sensors.map(|sensors| [sensors.samples, sensors.channels]),
                action_size: Some(about.action_size),
                chunk_length: Some(about.chunk_length),
                action_steps: about.action_steps,
                flow_steps: Some(a.flow.steps),
            }),
            ..Self::common("smolvla", about, &a.vision, &tensors(a))
        }
    }

    fn of_vlm(checkpoint: &VlmCheckpoint) -> Self {
        let a = checkpoint.architecture();
        Self {
            weight_bytes: Some(checkpoint.weight_bytes()),
            layers: vec![a.vision.layers, a.text.layers],
            widths: vec![a.vision.width, a.text.width],
            words: checkpoint.words(),
            text: Some(TextInfo { context: a.context, vocabulary: a.text.vocabulary }),
            ..Self::common("smolvlm", checkpoint.about("none"), &a.vision, &vlm_tensors(a))
        }
    }

    fn common(kind: &str, about: About, vision: &Vision, tensors: &[Tensor]) -> Self {
        let used = tensors.iter().filter(|tensor| tensor.used);
        Self {
            name: about.name.clone(),
            kind: kind.to_owned(),
            version: Some(about.version.clone()),
            digest: Some(about.digest.clone()),
            abilities: about.abilities.clone(),
            parameters: Some(used.map(|tensor| tensor.shape.iter().product::<usize>()).sum()),
            image_px: Some([vision.image_width_px, vision.image_height_px]),
            image_tokens: Some(vision.tokens()),
            obstacles: about.obstacles.clone(),
            warnings: about.warnings.clone(),
            about: Some(about),
            ..Self::default()
        }
    }
}
