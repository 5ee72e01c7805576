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
    /// Actions of a chunk per second, if the card says so.
    pub rate_hz: Option<f32>,
    /// What it looks at of the robot's sensors, if it was trained on them.
    pub sensors: Option<Sensors>,
    /// What it can be asked for.
    pub abilities: Vec<Ability>,
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
            rate_hz: None,
            sensors: None,
            abilities: abilities.into_iter().flatten().collect(),
        }
    }
}

fn folder_name(folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    folder.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into())
}

impl Checkpoint {
    /// What its policy on `device` says about itself.
    pub(crate) fn about(&self, device: &str) -> About {
        let (card, features) = (self.card(), self.features());
        let digest = self.digest().to_owned();
        About {
            name: card.map_or_else(|| folder_name(self.folder()), |card| card.name.clone()),
            version: card.map_or_else(|| digest[..12].to_owned(), |card| card.version.clone()),
            digest,
            device: device.to_owned(),
            embodiment: card.and_then(|card| card.embodiment.clone()),
            cameras: camera_names(self),
            state_size: features.state_size,
            action_size: features.action_size,
            chunk_length: self.architecture().flow.chunk,
            rate_hz: card.and_then(|card| card.action_rate_hz),
            sensors: self.architecture().sensors,
            abilities: [
                Some(Ability::Act),
                self.architecture().video.map(|_| Ability::Video),
                self.architecture().sensors.map(|_| Ability::Sensors),
            ]
            .into_iter()
            .flatten()
            .collect(),
        }
    }
}

/// What the robot calls each camera: the configured key, taken back through the preprocessor's renaming, less its prefix.
fn camera_names(checkpoint: &Checkpoint) -> Vec<String> {
    let renames = &checkpoint.processors().renames;
    let short = |key: &String| {
        let raw = renames.iter().find(|(_, to)| *to == key).map_or(key, |(from, _)| from);
        let short = raw.strip_prefix("observation.images.").or_else(|| raw.strip_prefix("observation."));
        short.unwrap_or(raw).to_owned()
    };
    checkpoint.features().cameras.iter().map(short).collect()
}
