//! What stays on the host: everything around the network.

use std::collections::HashMap;

use super::{Embeddings, Noise, Query};
use crate::checkpoint::{Checkpoint, CheckpointError, Normalization, Tokenizer};
use crate::error::ModelError;
use crate::image::Image;
use crate::noise::fill_normal;
use crate::plan::{Shape, SpecialToken};
use crate::setup::Conversion;

const FAKE_IMAGE: &str = "<fake_token_around_image>";
const GLOBAL_IMAGE: &str = "<global-img>";

/// From words and raw units to the network's numbers, and back.
pub(super) struct Host {
    pub tokenizer: Tokenizer,
    /// To the units of states and actions from those of the robot.
    conversion: Option<Conversion>,
    state: Normalization,
    action: Normalization,
    pub sensors: Option<Normalization>,
    /// Names of the cameras, in the configuration's order.
    pub cameras: Vec<String>,
    /// Cameras that the network sees black where others are missing.
    pub empty_cameras: usize,
    pub state_size: usize,
    pub action_size: usize,
    /// Numbers of a sensor window, and of each sample in it.
    pub window_size: usize,
    pub channels: usize,
    pub frames: usize,
    specials: HashMap<&'static str, Vec<f32>>,
}

/// A request as the network takes it.
pub(super) struct Prepared {
    pub prefix: PrefixKey,
    /// `chunk * max_action` numbers.
    pub noise: Vec<f32>,
}

/// All that a prefix's keys and values depend on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PrefixKey {
    /// What is seen of each camera that is there, oldest frame first: the camera's index and its frames.
    pub seen: Vec<(usize, Vec<Image>)>,
    pub tokens: Vec<u32>,
    /// Normalised, not padded.
    pub state: Vec<f32>,
    /// Normalised; empty without sensors.
    pub window: Vec<f32>,
}

impl Host {
    pub fn new(
        checkpoint: &Checkpoint,
        cameras: Vec<String>,
        embeddings: &Embeddings,
    ) -> Result<Self, CheckpointError> {
        let (features, processors, a) = (checkpoint.features(), checkpoint.processors(), checkpoint.architecture());
        Ok(Self {
            tokenizer: checkpoint.tokenizer().clone(),
            conversion: checkpoint.fit().conversion.clone(),
            state: processors.state.clone(),
            action: processors.action.clone(),
            sensors: processors.sensors.clone(),
            cameras,
            empty_cameras: features.empty_cameras,
            state_size: features.state_size,
            action_size: features.action_size,
            window_size: a.sensors.map_or(0, |sensors| sensors.samples * sensors.channels),
            channels: a.sensors.map_or(1, |sensors| sensors.channels),
            frames: a.video.map_or(1, |video| video.frames),
            specials: special_embeddings(checkpoint, embeddings)?,
        })
    }

    /// Checks a request and brings it into the network's form.
    pub fn prepare(&self, query: &Query, noise_size: usize) -> Result<Prepared, ModelError> {
        Ok(Prepared { prefix: self.prefix(query)?, noise: noise(&query.noise, noise_size)? })
    }

    /// As [`Host::prepare`], without the noise.
    pub fn prefix(&self, query: &Query) -> Result<PrefixKey, ModelError> {
        Ok(PrefixKey {
            seen: self.order(query)?,
            tokens: self.tokenizer.encode(&query.instruction)?,
            state: self.normalized_state(&query.state)?,
            window: self.normalized_window(&query.sensors)?,
        })
    }

    /// What the plans depend on of a request by itself.
    pub fn shape(&self, prefix: &PrefixKey) -> Shape {
        let missing = self.cameras.len() + self.empty_cameras - prefix.seen.len();
        Shape {
            requests: 1,
            cameras: prefix.seen.len(),
            empty_cameras: missing.min(self.empty_cameras),
            language_tokens: prefix.tokens.len(),
        }
    }

    /// The images in the configuration's order, each with its camera's index.
    fn order(&self, query: &Query) -> Result<Vec<(usize, Vec<Image>)>, ModelError> {
        let known = || self.cameras.clone();
        let mut slots: Vec<Vec<Image>> = vec![Vec::new(); self.cameras.len()];
        for (name, image) in &query.images {
            let Some(index) = self.cameras.iter().position(|camera| camera == name) else {
                return Err(ModelError::Camera { camera: name.clone(), known: known() });
            };
            slots[index].push(image.clone());
        }
        let present: Vec<_> = slots.into_iter().enumerate().filter(|(_, frames)| !frames.is_empty()).collect();
        if let Some((index, frames)) = present.iter().find(|(_, frames)| frames.len() > self.frames) {
            let camera = self.cameras[*index].clone();
            return Err(ModelError::Frames { camera, found: frames.len(), most: self.frames });
        }
        if present.is_empty() { Err(ModelError::NoImage { known: known() }) } else { Ok(present) }
    }

    fn normalized_state(&self, state: &[f32]) -> Result<Vec<f32>, ModelError> {
        let check = Check { what: "state", hint: "Check the robot's joint encoders" };
        check.length(state, self.state_size)?;
        check.finite(state)?;
        let mut normalized = state.to_vec();
        if let Some(conversion) = &self.conversion {
            conversion.to_policy(&mut normalized);
        }
        self.state.normalize(&mut normalized);
        let check = Check { what: "normalised state", hint: "Check the checkpoint's statistics" };
        check.finite(&normalized)?;
        Ok(normalized)
    }

    fn normalized_window(&self, window: &[f32]) -> Result<Vec<f32>, ModelError> {
        let check = Check { what: "sensor window", hint: "Check the sensors" };
        check.length(window, self.window_size)?;
        check.finite(window)?;
        let mut normalized = window.to_vec();
        if let Some(normalization) = &self.sensors {
            normalized.chunks_mut(self.channels).for_each(|sample| normalization.normalize(sample));
        }
        let check = Check { what: "normalised sensor window", hint: "Check the checkpoint's statistics" };
        check.finite(&normalized)?;
        Ok(normalized)
    }

    /// The embedding of a token beside an image, not scaled.
    pub fn special(&self, token: SpecialToken) -> &[f32] {
        let name = match token {
            SpecialToken::FakeImage => FAKE_IMAGE,
            SpecialToken::GlobalImage => GLOBAL_IMAGE,
        };
        self.specials.get(name).map_or(&[], Vec::as_slice)
    }

    /// Normalised rows in the robot's units.
    pub fn raw(&self, mut rows: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
        for row in &mut rows {
            self.action.denormalize(row);
            if let Some(conversion) = &self.conversion {
                conversion.to_robot(row);
            }
        }
        rows
    }

    /// Rows of actions without padding, normalised.
    pub fn actions(&self, padded: &[f32], width: usize) -> Result<Vec<Vec<f32>>, ModelError> {
        let rows: Vec<Vec<f32>> = padded.chunks(width).map(|row| row[..self.action_size].to_vec()).collect();
        let check = Check { what: "action chunk", hint: "Check the checkpoint with `waza model verify`" };
        rows.iter().try_for_each(|row| check.finite(row))?;
        Ok(rows)
    }
}

fn noise(noise: &Noise, size: usize) -> Result<Vec<f32>, ModelError> {
    match noise {
        Noise::Seed(seed) => {
            let mut numbers = vec![0.0; size];
            fill_normal(&mut numbers, *seed);
            Ok(numbers)
        }
        Noise::Given(numbers) => {
            let check = Check { what: "noise", hint: "Give standard normal numbers, or a seed" };
            check.length(numbers, size)?;
            check.finite(numbers)?;
            Ok(numbers.clone())
        }
    }
}

/// Checks of one vector.
struct Check {
    what: &'static str,
    hint: &'static str,
}

impl Check {
    fn length(&self, numbers: &[f32], expected: usize) -> Result<(), ModelError> {
        if numbers.len() == expected {
            return Ok(());
        }
        Err(ModelError::Length { what: self.what, found: numbers.len(), expected })
    }

    fn finite(&self, numbers: &[f32]) -> Result<(), ModelError> {
        if numbers.iter().all(|number| number.is_finite()) {
            return Ok(());
        }
        Err(ModelError::NotFinite { what: self.what, hint: self.hint })
    }
}

/// Embeddings of the tokens around images, not scaled, if the network wants them.
fn special_embeddings(
    checkpoint: &Checkpoint,
    embeddings: &Embeddings,
) -> Result<HashMap<&'static str, Vec<f32>>, CheckpointError> {
    let mut specials = HashMap::new();
    if checkpoint.architecture().image_special_tokens {
        for name in [FAKE_IMAGE, GLOBAL_IMAGE] {
            specials.insert(name, embeddings(&[checkpoint.special_token(name)?])?);
        }
    }
    Ok(specials)
}
