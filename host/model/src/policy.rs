//! A checkpoint on a device: from what a robot sees and is told to a chunk of actions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::architecture::Architecture;
use crate::checkpoint::{Checkpoint, CheckpointError, InstructionError, Normalization, Tokenizer};
use crate::device::{self, Device};
use crate::executor::{Executor, ExecutorError, Sections};
use crate::image::{Image, patches_from_image};
use crate::noise::fill_normal;
use crate::plan::{Network, Plan, PlanError, Shape, SpecialToken, View};

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

/// One request for actions.
#[derive(Clone, Debug)]
pub struct Query {
    /// What to do, in words.
    pub instruction: String,
    /// A frame from each camera, by its short name, in any order. Cameras may be missing, but not all of them.
    pub images: Vec<(String, Image)>,
    /// The robot's state in raw units, as in the training data.
    pub state: Vec<f32>,
    /// What the actions start from.
    pub noise: Noise,
}

/// The noise that a chunk starts from.
#[derive(Clone, Debug, PartialEq)]
pub enum Noise {
    /// Standard normal numbers that this seed determines on every machine.
    Seed(u64),
    /// `chunk_length * max_action_dim` numbers.
    Given(Vec<f32>),
}

/// A chunk of actions.
#[derive(Clone, Debug, PartialEq)]
pub struct Actions {
    /// `chunk_length` rows of `action_size` numbers, in the raw units of the training data.
    pub rows: Vec<Vec<f32>>,
    /// Time that the request took.
    pub elapsed: Duration,
    /// How much of it each part of the network took, where the device can tell.
    pub sections: Option<Sections>,
}

/// A model that cannot be loaded or a request that it cannot serve. Each is one line with a way out.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The device.
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    /// A defect of this crate.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The instruction.
    #[error(transparent)]
    Instruction(#[from] InstructionError),
    /// An image of a camera that the model does not look at, or a second one of the same camera.
    #[error("camera `{camera}` is unknown to the model or given twice. It looks at {}, once each", .known.join(", "))]
    Camera {
        /// The camera.
        camera: String,
        /// The cameras that it looks at.
        known: Vec<String>,
    },
    /// No image at all.
    #[error("no image was given. Give at least one of the cameras {}", .known.join(", "))]
    NoImage {
        /// The cameras that it looks at.
        known: Vec<String>,
    },
    /// A vector of the wrong length.
    #[error("the {what} has {found} numbers, the model takes {expected}. Match the embodiment to the model")]
    Length {
        /// State or noise.
        what: &'static str,
        /// Numbers given.
        found: usize,
        /// Numbers needed.
        expected: usize,
    },
    /// An infinite number or none, given or computed.
    #[error("the {what} holds a number that is not finite. {hint}")]
    NotFinite {
        /// State, noise or actions.
        what: &'static str,
        /// What to do about it.
        hint: &'static str,
    },
    /// More requests wait than the broker keeps.
    #[error("the model is busy: {waiting} requests wait already. Ask again later")]
    Busy {
        /// How many.
        waiting: usize,
    },
    /// The broker's thread has ended.
    #[error("the model has stopped. Restart the host; its log says why")]
    Stopped,
}

#[cfg(feature = "gpu")]
impl From<crate::wgpu::WeightsError> for ModelError {
    fn from(error: crate::wgpu::WeightsError) -> Self {
        match error {
            crate::wgpu::WeightsError::Checkpoint(error) => Self::Checkpoint(error),
            crate::wgpu::WeightsError::Device(error) => Self::Executor(error),
        }
    }
}

/// A model, loaded and ready.
pub struct Policy {
    about: About,
    /// Width and height of the frames that the checkpoint was trained on, in the cameras' order.
    pub(crate) camera_sizes_px: Vec<[u32; 2]>,
    network: Network,
    executor: Box<dyn Executor>,
    plans: HashMap<Shape, Arc<Plan>>,
    host: Host,
}

/// What stays on the host: everything around the network.
struct Host {
    tokenizer: Tokenizer,
    /// `vocabulary * width` numbers.
    embeddings: Vec<f32>,
    state: Normalization,
    action: Normalization,
    empty_cameras: usize,
    /// Cameras of the configuration, placeholders for empty ones included.
    configured_cameras: usize,
    specials: HashMap<&'static str, Vec<f32>>,
    scratch: Scratch,
}

/// The network's inputs and outputs, kept from call to call.
#[derive(Default)]
struct Scratch {
    patches: Vec<f32>,
    /// Instruction that `language` belongs to.
    instruction: Option<String>,
    language: Vec<f32>,
    state: Vec<f32>,
    noise: Vec<f32>,
    actions: Vec<f32>,
}

/// Everything that a worked example pins down about one request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Trace {
    pub tokens: Vec<u32>,
    /// Of each camera, in the configuration's order: its index in [`About::cameras`], and `tokens * width` numbers.
    pub image_embeddings: Vec<(usize, Vec<f32>)>,
    /// `steps * chunk * max_action_dim` numbers.
    pub velocity: Vec<f32>,
    /// `chunk * action_size` numbers.
    pub actions_normalized: Vec<f32>,
    /// `chunk * action_size` numbers.
    pub actions: Vec<f32>,
}

const FAKE_IMAGE: &str = "<fake_token_around_image>";
const GLOBAL_IMAGE: &str = "<global-img>";

impl Policy {
    /// Loads `checkpoint` onto `device`.
    ///
    /// # Errors
    /// If the weights cannot be read or the device cannot be had.
    pub fn new(checkpoint: &Checkpoint, device: Device) -> Result<Self, ModelError> {
        let network = Network::new(checkpoint.architecture().clone());
        let executor = device::open(device, &network, checkpoint)?;
        Self::with_executor(checkpoint, network, executor)
    }

    fn with_executor(
        checkpoint: &Checkpoint,
        network: Network,
        executor: Box<dyn Executor>,
    ) -> Result<Self, ModelError> {
        let (features, processors) = (checkpoint.features(), checkpoint.processors());
        let embeddings = checkpoint.embeddings()?;
        let specials = special_embeddings(checkpoint, &embeddings)?;
        Ok(Self {
            about: checkpoint.about(executor.device()),
            camera_sizes_px: features.camera_sizes_px.clone(),
            network,
            executor,
            plans: HashMap::new(),
            host: Host {
                tokenizer: checkpoint.tokenizer().clone(),
                embeddings,
                state: processors.state.clone(),
                action: processors.action.clone(),
                empty_cameras: features.empty_cameras,
                configured_cameras: features.cameras.len() + features.empty_cameras,
                specials,
                scratch: Scratch::default(),
            },
        })
    }

    /// What it is, needs and can do.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// The network's dimensions.
    pub fn architecture(&self) -> &Architecture {
        self.network.architecture()
    }

    /// A chunk of actions for what the robot sees and is told.
    ///
    /// On the CPU equal queries give equal actions, bit for bit, on one machine. The first query of each number of words
    /// and cameras prepares the device for it and takes longer.
    ///
    /// # Errors
    /// If the query does not fit the model, holds numbers that are not finite or words that the model does not know, or if
    /// the device fails.
    pub fn act(&mut self, query: &Query) -> Result<Actions, ModelError> {
        let start = Instant::now();
        let (plan, sections, _) = self.infer(query, &mut |_| Vec::new())?;
        let rows = self.host.actions(&plan, self.about.action_size)?;
        let rows = rows.into_iter().map(|mut row| {
            self.host.action.denormalize(&mut row);
            row
        });
        Ok(Actions { rows: rows.collect(), elapsed: start.elapsed(), sections })
    }

    /// As [`Policy::act`], with everything on the way.
    pub(crate) fn trace(&mut self, query: &Query) -> Result<Trace, ModelError> {
        let wanted = |plan: &Plan| {
            let mut views = plan.outputs.image_embeddings.clone();
            views.push(plan.outputs.velocity);
            views
        };
        let (plan, _, mut read) = self.infer(query, &mut { wanted })?;
        let velocity = read.pop().unwrap_or_default();
        // The prefix holds image embeddings scaled by sqrt(width).
        let scale = 1.0 / (self.architecture().text.width as f32).sqrt();
        for embedding in read.iter_mut().flatten() {
            *embedding *= scale;
        }
        let present = self.order(query)?;
        let rows = self.host.actions(&plan, self.about.action_size)?;
        let actions = rows.iter().cloned().flat_map(|mut row| {
            self.host.action.denormalize(&mut row);
            row
        });
        Ok(Trace {
            tokens: self.host.tokenizer.encode(&query.instruction)?,
            image_embeddings: present.into_iter().map(|(index, _)| index).zip(read).collect(),
            velocity,
            actions: actions.collect(),
            actions_normalized: rows.concat(),
        })
    }

    /// Checks the query, writes the inputs, runs the plan; reads the actions, and the views that `more` names.
    #[allow(clippy::type_complexity)]
    fn infer(
        &mut self,
        query: &Query,
        more: &mut dyn FnMut(&Plan) -> Vec<View>,
    ) -> Result<(Arc<Plan>, Option<Sections>, Vec<Vec<f32>>), ModelError> {
        let present = self.order(query)?;
        let flow = &self.network.architecture().flow;
        self.host.write_state(&query.state, self.about.state_size, flow.max_state)?;
        self.host.write_noise(&query.noise, flow.chunk * flow.max_action)?;
        let width = self.network.architecture().text.width;
        self.host.write_language(&query.instruction, width)?;
        let images: Vec<&Image> = present.iter().map(|(_, image)| *image).collect();
        self.host.write_patches(&images, self.network.architecture());

        let missing = self.host.configured_cameras - present.len();
        let shape = Shape {
            cameras: present.len(),
            empty_cameras: missing.min(self.host.empty_cameras),
            language_tokens: self.host.scratch.language.len() / width,
        };
        let plan = match self.plans.get(&shape) {
            Some(plan) => Arc::clone(plan),
            None => Arc::clone(self.plans.entry(shape).or_insert(Arc::new(self.network.plan(shape)?))),
        };

        let views = more(&plan);
        let mut read: Vec<Vec<f32>> = views.iter().map(|view| vec![0.0; view.rows * view.columns]).collect();
        let timing = self.host.run(&plan, self.executor.as_mut(), &views, &mut read)?;
        Ok((plan, timing.sections, read))
    }

    /// The images in the configuration's order, each with its camera's index.
    fn order<'q>(&self, query: &'q Query) -> Result<Vec<(usize, &'q Image)>, ModelError> {
        let cameras = &self.about.cameras;
        let mut slots: Vec<Option<&Image>> = vec![None; cameras.len()];
        for (name, image) in &query.images {
            match cameras.iter().position(|camera| camera == name).map(|index| &mut slots[index]) {
                Some(slot @ None) => *slot = Some(image),
                _ => return Err(ModelError::Camera { camera: name.clone(), known: cameras.clone() }),
            }
        }
        let present: Vec<_> =
            slots.into_iter().enumerate().filter_map(|(index, image)| image.map(|image| (index, image))).collect();
        if present.is_empty() { Err(ModelError::NoImage { known: cameras.clone() }) } else { Ok(present) }
    }
}

impl Host {
    fn write_state(&mut self, state: &[f32], expected: usize, padded: usize) -> Result<(), ModelError> {
        let check = Check { what: "state", hint: "Check the robot's joint encoders" };
        check.length(state, expected)?;
        check.finite(state)?;
        self.scratch.state.clear();
        self.scratch.state.extend_from_slice(state);
        self.state.normalize(&mut self.scratch.state);
        let check = Check { what: "normalised state", hint: "Check the checkpoint's statistics for a zero deviation" };
        check.finite(&self.scratch.state)?;
        self.scratch.state.resize(padded, 0.0);
        Ok(())
    }

    fn write_noise(&mut self, noise: &Noise, expected: usize) -> Result<(), ModelError> {
        self.scratch.noise.resize(expected, 0.0);
        match noise {
            Noise::Seed(seed) => fill_normal(&mut self.scratch.noise, *seed),
            Noise::Given(numbers) => {
                let check = Check { what: "noise", hint: "Give standard normal numbers, or a seed" };
                check.length(numbers, expected)?;
                check.finite(numbers)?;
                self.scratch.noise.copy_from_slice(numbers);
            }
        }
        Ok(())
    }

    fn write_language(&mut self, instruction: &str, width: usize) -> Result<(), ModelError> {
        if self.scratch.instruction.as_deref() == Some(instruction) {
            return Ok(());
        }
        let tokens = self.tokenizer.encode(instruction)?;
        let scale = (width as f32).sqrt();
        let rows = tokens.iter().flat_map(|&token| &self.embeddings[token as usize * width..][..width]);
        self.scratch.instruction = None;
        self.scratch.language.clear();
        self.scratch.language.extend(rows.map(|number| number * scale));
        self.scratch.instruction = Some(instruction.to_owned());
        Ok(())
    }

    fn write_patches(&mut self, images: &[&Image], architecture: &Architecture) {
        let vision = &architecture.vision;
        let numbers = vision.patches() * vision.patch_numbers();
        self.scratch.patches.resize(images.len() * numbers, 0.0);
        for (image, patches) in images.iter().zip(self.scratch.patches.chunks_mut(numbers)) {
            patches_from_image(image, vision, patches);
        }
    }

    fn run(
        &mut self,
        plan: &Plan,
        executor: &mut dyn Executor,
        views: &[View],
        read: &mut [Vec<f32>],
    ) -> Result<crate::executor::Timing, ExecutorError> {
        let scratch = &mut self.scratch;
        scratch.actions.resize(scratch.noise.len(), 0.0);
        let mut inputs: Vec<(View, &[f32])> = vec![
            (plan.inputs.patches, &scratch.patches),
            (plan.inputs.language, &scratch.language),
            (plan.inputs.state, &scratch.state),
            (plan.inputs.noise, &scratch.noise),
        ];
        for (view, token) in plan.inputs.specials.iter().zip(&plan.inputs.special_tokens) {
            inputs.push((*view, &self.specials[special_name(*token)]));
        }
        let mut outputs: Vec<(View, &mut [f32])> = vec![(plan.outputs.actions, &mut scratch.actions)];
        outputs.extend(views.iter().copied().zip(read.iter_mut().map(Vec::as_mut_slice)));
        executor.run(plan, &inputs, &mut outputs)
    }

    /// The rows of the last run, normalised, without padding.
    fn actions(&self, plan: &Plan, size: usize) -> Result<Vec<Vec<f32>>, ModelError> {
        let padded = plan.outputs.actions.columns;
        let rows: Vec<Vec<f32>> = self.scratch.actions.chunks(padded).map(|row| row[..size].to_vec()).collect();
        let check = Check { what: "action chunk", hint: "Check the checkpoint with `waza model verify`" };
        rows.iter().try_for_each(|row| check.finite(row))?;
        Ok(rows)
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

fn special_name(token: SpecialToken) -> &'static str {
    match token {
        SpecialToken::FakeImage => FAKE_IMAGE,
        SpecialToken::GlobalImage => GLOBAL_IMAGE,
    }
}

/// Embeddings of the tokens around images, not scaled, if the network wants them.
fn special_embeddings(
    checkpoint: &Checkpoint,
    embeddings: &[f32],
) -> Result<HashMap<&'static str, Vec<f32>>, CheckpointError> {
    let width = checkpoint.architecture().text.width;
    let mut specials = HashMap::new();
    if checkpoint.architecture().image_special_tokens {
        for name in [FAKE_IMAGE, GLOBAL_IMAGE] {
            let token = checkpoint.special_token(name)? as usize;
            specials.insert(name, embeddings[token * width..][..width].to_vec());
        }
    }
    Ok(specials)
}
