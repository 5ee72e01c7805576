//! What a model says about itself.

use std::path::Path;

use serde::Serialize;

use crate::architecture::Sensors;
use crate::checkpoint::{Checkpoint, VlmCheckpoint};

/// What a model can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ability {
    /// Chunks of actions from images, a state and an instruction.
    Act,
    /// Answers in words.
    Answer,
    /// Boxes around what is named.
    Locate,
    /// Vectors for comparing.
    Embed,
    /// Several frames of a camera at once, for actions.
    Video,
    /// Windows of sensor samples, for actions.
    Sensors,
}

/// What a model is, needs and can do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct About {
    /// The card's name, or the folder's.
    pub name: String,
    /// The card's version; of a stock checkpoint the first twelve digits of the digest.
    pub version: String,
    /// [`Checkpoint::digest`].
    pub digest: String,
    /// What it runs on, for people.
    pub device: String,
    /// The embodiment that it was trained for, if the card says so.
    pub embodiment: Option<String>,
    /// Short names of the cameras, in the configuration's order.
    pub cameras: Vec<String>,
    /// Numbers in a state.
    pub state_size: usize,
    /// Numbers in an action.
    pub action_size: usize,
    /// Actions in a chunk.
    pub chunk_length: usize,
    /// Actions in a chunk that are played before the next is asked for, if the checkpoint says so.
    pub action_steps: Option<usize>,
    /// Actions of a chunk per second, if that is said.
    pub rate_hz: Option<f32>,
    /// What it looks at of the robot's sensors, if it was trained on them.
    pub sensors: Option<Sensors>,
    /// What it can be asked for.
    pub abilities: Vec<Ability>,
    /// What keeps it from moving the robot that it was opened for, each with a way out.
    pub obstacles: Vec<String>,
    /// What was assumed of it or looks odd, each with what settles it.
    pub warnings: Vec<String>,
}

impl VlmCheckpoint {
    /// What the model on `device` says about itself: it acts on no robot.
    pub(crate) fn about(&self, device: &str) -> About {
        let card = self.card();
        let digest = self.digest().to_owned();
        let locates = card.is_some_and(|card| card.abilities.iter().any(|ability| ability == "locate"));
        let abilities = [Some(Ability::Answer), locates.then_some(Ability::Locate), Some(Ability::Embed)];
        About {
            name: card.map_or_else(|| folder_name(self.folder()), |card| card.name.clone()),
            version: card.map_or_else(|| digest[..12].to_owned(), |card| card.version.clone()),
            digest,
            device: device.to_owned(),
            embodiment: None,
            cameras: Vec::new(),
            state_size: 0,
            action_size: 0,
            chunk_length: 0,
            action_steps: None,
            rate_hz: None,
            sensors: None,
            abilities: abilities.into_iter().flatten().collect(),
            obstacles: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

pub(crate) fn folder_name(folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    folder.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into())
}

impl Checkpoint {
    /// What its policy on `device` says about itself.
    pub(crate) fn about(&self, device: &str) -> About {
        let (card, features, fit) = (self.card(), self.features(), self.fit());
        let digest = self.digest().to_owned();
        About {
            name: card.map_or_else(|| folder_name(self.folder()), |card| card.name.clone()),
            version: card.map_or_else(|| digest[..12].to_owned(), |card| card.version.clone()),
            digest,
            device: device.to_owned(),
            embodiment: card.and_then(|card| card.embodiment.clone()),
            cameras: fit.cameras.clone(),
            state_size: features.state_size,
            action_size: features.action_size,
            chunk_length: self.architecture().flow.chunk,
            action_steps: features.action_steps,
            rate_hz: fit.rate_hz,
            sensors: self.architecture().sensors,
            abilities: [
                Some(Ability::Act),
                self.architecture().video.map(|_| Ability::Video),
                self.architecture().sensors.map(|_| Ability::Sensors),
            ]
            .into_iter()
            .flatten()
            .collect(),
            obstacles: fit.obstacles.clone(),
            warnings: fit.warnings.clone(),
        }
    }
}
