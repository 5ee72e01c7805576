//! What a model says about itself.

use serde::Serialize;

use crate::checkpoint::Checkpoint;

/// What a model can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ability {
    /// Chunks of actions from images, a state and an instruction.
    Act,
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
    /// What it can be asked for.
    pub abilities: Vec<Ability>,
}

impl Checkpoint {
    /// What its policy on `device` says about itself.
    pub(crate) fn about(&self, device: &str) -> About {
        let (card, features) = (self.card(), self.features());
        let folder = self.folder().canonicalize().unwrap_or_else(|_| self.folder().to_owned());
        let folder_name = folder.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into());
        let digest = self.digest().to_owned();
        About {
            name: card.map_or(folder_name, |card| card.name.clone()),
            version: card.map_or_else(|| digest[..12].to_owned(), |card| card.version.clone()),
            digest,
            device: device.to_owned(),
            embodiment: card.and_then(|card| card.embodiment.clone()),
            cameras: camera_names(self),
            state_size: features.state_size,
            action_size: features.action_size,
            chunk_length: self.architecture().flow.chunk,
            rate_hz: card.and_then(|card| card.action_rate_hz),
            abilities: vec![Ability::Act],
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
