//! A checkpoint on a device: from what a robot sees and is told to a chunk of actions.
//!
//! Three plans make a chunk: frames are encoded, the language model reads them with words and state, the expert turns noise
//! into actions. What the first two make stays on the device for a while, so that a frame that several requests look at is
//! encoded once, and an observation that has not changed is not read again.

mod inputs;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::about::About;
use crate::architecture::{Architecture, Backbone};
use crate::checkpoint::{Checkpoint, CheckpointError, WeightSource};
use crate::device::{self, Device};
use crate::error::ModelError;
use crate::executor::{Executor, ExecutorError, Resident, Source, Target, forget};
use crate::image::{Image, patches_from_image};
use crate::plan::{DenoisePlan, EncodePlan, Network, Numbers, Pick, Plan, PrefixPlan, Role, Shape, View, Weight};
use crate::recent::Recent;
use inputs::{Host, PrefixKey, Prepared};

/// Requests that run together at most: memory grows with them, and beyond this even a large GPU has enough to do.
pub const LARGEST_BATCH: usize = 16;
/// Camera frames that are encoded together at most.
const FRAMES_AT_ONCE: usize = 16;
/// Moments that each camera's encoded frames are kept of. A batch must find all of its own, so it may not be smaller.
const MOMENTS_KEPT: usize = LARGEST_BATCH;
/// Observations with an instruction whose keys and values are kept; not fewer either.
const PREFIXES_KEPT: usize = LARGEST_BATCH;
/// Plans of each kind that are kept; each has buffers on the device.
const PLANS_KEPT: usize = 8;

/// One request for actions.
#[derive(Clone, Debug)]
pub struct Query {
    /// What to do, in words.
    pub instruction: String,
    /// A frame from each camera, by its short name, in any order. Cameras may be missing, but not all of them. A model that
    /// sees video takes several frames of a camera, oldest first.
    pub images: Vec<(String, Image)>,
    /// The robot's state, in the units of the training data or, where the checkpoint was opened for a robot, in that
    /// one's.
    pub state: Vec<f32>,
    /// `samples * channels` numbers in raw units, oldest sample first, of a model with sensors; else none.
    pub sensors: Vec<f32>,
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
    /// `chunk_length` rows of `action_size` numbers, in the units of the state.
    pub rows: Vec<Vec<f32>>,
    /// Time that the request took, or the batch that it was part of.
    pub elapsed: Duration,
    /// How much of it each part of the network took, if that was asked for.
    pub sections: Option<Sections>,
}

/// How long each part of a network took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sections {
    /// Encoding camera frames.
    pub vision: Duration,
    /// The language model.
    pub prefix: Duration,
    /// All flow steps.
    pub denoise: Duration,
}

/// What a policy has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Camera frames encoded.
    pub frames: usize,
    /// Prefixes read by the language model.
    pub prefixes: usize,
    /// Chunks denoised.
    pub chunks: usize,
    /// Runs of the denoiser; with batches, fewer than chunks.
    pub runs: usize,
}

/// What one chunk of actions takes if nothing that was made before can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations of products and attention.
    pub flop: u64,
    /// Dispatches to the device, where there is such a thing.
    pub dispatches: Option<usize>,
}

/// Looks tokens up in the language model's embedding table: `width` numbers each.
type Embeddings = Box<dyn Fn(&[u32]) -> Result<Vec<f32>, CheckpointError> + Send>;

/// A model, loaded and ready.
pub struct Policy {
    about: About,
    /// Width and height of the frames that the checkpoint was trained on, in the cameras' order.
    pub(crate) camera_sizes_px: Vec<[u32; 2]>,
    embeddings: Embeddings,
    network: Network,
    executor: Box<dyn Executor>,
    host: Arc<Host>,
    encoders: Recent<[usize; 2], EncodePlan>,
    prefixers: Recent<Shape, PrefixPlan>,
    denoisers: Recent<Shape, DenoisePlan>,
    /// Tokens of what a camera saw, by its frames, oldest first.
    encoded: Recent<Vec<Image>, Resident>,
    prefixes: Recent<PrefixKey, Vec<Resident>>,
    time_sections: bool,
    batches: bool,
    work: Work,
}

/// Everything that a worked example pins down about one request.
#[derive(Clone, Debug, Default, PartialEq)]
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

impl Policy {
    /// Loads `checkpoint` onto `device`.
    ///
    /// # Errors
    /// If the weights cannot be read or the device cannot be had.
    pub fn new(checkpoint: &Checkpoint, device: Device) -> Result<Self, ModelError> {
        let table = checkpoint.token_embeddings();
        Self::open(checkpoint, checkpoint, Box::new(move |tokens| table.rows(tokens)), device)
    }

    /// As [`Policy::new`], but with weights from elsewhere than the checkpoint's file, which need not be there: see
    /// [`Checkpoint::open_without_weights`]. Rows of the embedding table are asked for when instructions need them.
    ///
    /// # Errors
    /// As [`Policy::new`].
    pub fn with_weights(
        checkpoint: &Checkpoint,
        weights: impl WeightSource + Send + Sync + 'static,
        device: Device,
    ) -> Result<Self, ModelError> {
        let (weights, width) = (Arc::new(weights), checkpoint.architecture().text.width);
        let table = Arc::clone(&weights);
        let embeddings = move |tokens: &[u32]| {
            let tensor = format!("{}.weight", Backbone::SMOLVLA.embed_tokens());
            let rows = Weight {
                rows: tokens.len(),
                columns: width,
                tensors: vec![tensor],
                take: 0..width,
                pick: Pick::Gather(tokens.to_vec()),
                role: Role::Table,
            };
            table.load(&rows).map(Numbers::into_f32)
        };
        Self::open(checkpoint, &*weights, Box::new(embeddings), device)
    }

    fn open(
        checkpoint: &Checkpoint,
        weights: &(dyn WeightSource + Sync),
        embeddings: Embeddings,
        device: Device,
    ) -> Result<Self, ModelError> {
        let network = Network::new(checkpoint.architecture().clone());
        let executor = device::open(device, network.weights(), weights)?;
        let about = checkpoint.about(executor.device());
        let cameras = about.cameras.len();
        Ok(Self {
            camera_sizes_px: checkpoint.features().camera_sizes_px.clone(),
            host: Arc::new(Host::new(checkpoint, about.cameras.clone(), &embeddings)?),
            about,
            embeddings,
            network,
            encoders: Recent::new(PLANS_KEPT),
            prefixers: Recent::new(PLANS_KEPT),
            denoisers: Recent::new(PLANS_KEPT),
            encoded: Recent::new(MOMENTS_KEPT * cameras),
            prefixes: Recent::new(PREFIXES_KEPT),
            time_sections: false,
            batches: executor.gains_in_batches(),
            work: Work::default(),
            executor,
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

    /// What it has done so far.
    pub fn work(&self) -> Work {
        self.work
    }

    /// Bytes that it holds on its device.
    pub fn device_bytes(&self) -> u64 {
        let kept = self.encoded.values().chain(self.prefixes.values().flatten()).map(Resident::bytes).sum::<usize>();
        self.executor.bytes() + kept as u64
    }

    /// Whether [`Actions::sections`] is wanted. On a GPU this waits for each section and so costs a little time.
    pub fn time_sections(&mut self, wanted: bool) {
        self.time_sections = wanted;
    }

    /// What a chunk for `query` alone takes if no frame was encoded and no prefix read before.
    ///
    /// # Errors
    /// If the query does not fit the model.
    pub fn cost(&self, query: &Query) -> Result<Cost, ModelError> {
        let flow = &self.network.architecture().flow;
        let request = self.host.prepare(query, flow.chunk * flow.max_action)?;
        let shape = self.host.shape(&request.prefix);
        let mut plans = vec![self.network.prefix(shape)?.plan, self.network.denoise(shape)?.plan];
        let mut seen: Vec<usize> = request.prefix.seen.iter().map(|(_, frames)| frames.len()).collect();
        seen.sort_unstable();
        for cameras in seen.chunk_by(|a, b| a == b) {
            plans.push(self.network.encode(cameras.len(), cameras[0])?.plan);
        }
        Ok(Cost {
            flop: plans.iter().map(Plan::flop).sum(),
            dispatches: plans.iter().map(|plan| self.executor.dispatches(plan)).sum(),
        })
    }

    /// Forgets encoded frames and read prefixes.
    pub fn forget(&mut self) {
        self.encoded.clear();
        self.prefixes.clear();
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
        match self.act_together(&[query]).pop() {
            Some(actions) => actions,
            None => Err(ModelError::Stopped),
        }
    }

    /// Chunks for several queries, at most [`LARGEST_BATCH`] in one run of the network: those of equal shape (as many
    /// cameras and words) run together. What is wrong with one query does not touch the others.
    pub fn act_together(&mut self, queries: &[&Query]) -> Vec<Result<Actions, ModelError>> {
        let start = Instant::now();
        let mut answers: Vec<Option<Result<Actions, ModelError>>> = Vec::new();
        let mut groups: Vec<(Shape, Vec<(usize, Prepared)>)> = Vec::new();
        let flow = &self.network.architecture().flow;
        for (index, query) in queries.iter().enumerate() {
            let prepared = self.host.prepare(query, flow.chunk * flow.max_action);
            answers.push(match prepared {
                Ok(prepared) => {
                    let shape = self.host.shape(&prepared.prefix);
                    let open = |(other, group): &&mut (Shape, Vec<_>)| *other == shape && group.len() < LARGEST_BATCH;
                    match groups.iter_mut().find(open) {
                        Some((_, group)) => group.push((index, prepared)),
                        None => groups.push((shape, vec![(index, prepared)])),
                    }
                    None
                }
                Err(error) => Some(Err(error)),
            });
        }
        for (shape, group) in groups {
            let (indices, requests): (Vec<usize>, Vec<Prepared>) = group.into_iter().unzip();
            match self.act_in_shape(shape, &requests, None) {
                Ok((chunks, sections)) => {
                    for (index, chunk) in indices.into_iter().zip(chunks) {
                        let raw = |rows| Actions { rows: self.host.raw(rows), elapsed: start.elapsed(), sections };
                        answers[index] = Some(chunk.map(raw));
                    }
                }
                Err(error) => {
                    let mut error = Some(error);
                    // The first one carries the cause; errors of devices cannot be copied.
                    for index in indices {
                        answers[index] = Some(Err(error.take().unwrap_or(ModelError::Batch)));
                    }
                }
            }
        }
        answers.into_iter().map(|answer| answer.unwrap_or(Err(ModelError::Stopped))).collect()
    }

    /// As [`Policy::act`], with everything on the way; nothing that was kept is used.
    pub(crate) fn trace(&mut self, query: &Query) -> Result<Trace, ModelError> {
        self.forget();
        let flow = &self.network.architecture().flow;
        let prepared = self.host.prepare(query, flow.chunk * flow.max_action)?;
        let mut trace = Trace { tokens: prepared.prefix.tokens.clone(), ..Trace::default() };
        let cameras: Vec<usize> = prepared.prefix.seen.iter().map(|(camera, _)| *camera).collect();
        let (chunks, _) = self.act_in_shape(self.host.shape(&prepared.prefix), &[prepared], Some(&mut trace))?;
        for ((camera, _), seen) in trace.image_embeddings.iter_mut().zip(cameras) {
            *camera = seen;
        }
        for rows in chunks {
            let rows = rows?;
            trace.actions_normalized = rows.concat();
            trace.actions = self.host.raw(rows).concat();
        }
        Ok(trace)
    }

    /// What tells which queries may run together.
    pub(crate) fn shapes(&self) -> Shapes {
        Shapes(Arc::clone(&self.host))
    }

    /// Whether a broker shall let queries that wait run together. By default where that gains much: on a GPU, which has
    /// little to do with one query. On the CPU a batch of four gains 4 %, and makes the first one wait for the last.
    pub fn batch(&mut self, wanted: bool) {
        self.batches = wanted;
    }

    pub(crate) fn batches(&self) -> bool {
        self.batches
    }

    /// Loses the device, as if its driver had been reset, where there is one that can be lost. For tests.
    #[doc(hidden)]
    pub fn lose_device(&mut self) {
        self.executor.lose();
    }

    /// Lets the device hang, where there is one that can. For tests.
    #[doc(hidden)]
    pub fn hang_device(&mut self) {
        self.executor.hang();
    }

    /// Normalised rows for each request; all have this shape.
    #[allow(clippy::type_complexity)]
    fn act_in_shape(
        &mut self,
        shape: Shape,
        requests: &[Prepared],
        mut trace: Option<&mut Trace>,
    ) -> Result<(Vec<Result<Vec<Vec<f32>>, ModelError>>, Option<Sections>), ModelError> {
        let mut clock = SectionClock::new(self.time_sections);
        self.encode(requests, trace.as_deref_mut())?;
        clock.lap(self.executor.as_mut(), |sections| &mut sections.vision)?;
        self.read(shape, requests)?;
        clock.lap(self.executor.as_mut(), |sections| &mut sections.prefix)?;
        let numbers = self.denoise(shape, requests, trace)?;
        clock.lap(self.executor.as_mut(), |sections| &mut sections.denoise)?;
        let width = self.network.architecture().flow.max_action;
        let chunks = numbers.iter().map(|numbers| self.host.actions(numbers, width)).collect();
        Ok((chunks, clock.sections()))
    }

    /// Encodes what is seen and was not encoded yet.
    fn encode(&mut self, requests: &[Prepared], mut trace: Option<&mut Trace>) -> Result<(), ModelError> {
        let mut fresh: Vec<&Vec<Image>> = Vec::new();
        for (_, frames) in requests.iter().flat_map(|request| &request.prefix.seen) {
            if self.encoded.touch(frames).is_none() && !fresh.contains(&frames) {
                fresh.push(frames);
            }
        }
        // Cameras with equally many frames go together.
        fresh.sort_by_key(|frames| frames.len());
        for group in fresh.chunk_by(|a, b| a.len() == b.len()) {
            let frames = group.first().map_or(1, |frames| frames.len());
            for cameras in group.chunks((FRAMES_AT_ONCE / frames).max(1)) {
                self.encode_together(cameras, frames, trace.as_deref_mut())?;
            }
        }
        Ok(())
    }

    fn encode_together(
        &mut self,
        cameras: &[&Vec<Image>],
        frames: usize,
        trace: Option<&mut Trace>,
    ) -> Result<(), ModelError> {
        let key = [cameras.len(), frames];
        if self.encoders.touch(&key).is_none() {
            let plan = self.network.encode(cameras.len(), frames)?;
            forget(self.executor.as_mut(), self.encoders.add(key, plan).map(|plan| plan.plan));
        }
        let Some(plan) = self.encoders.get(&key) else { return Ok(()) };
        let vision = &self.network.architecture().vision;
        let numbers = vision.patches() * vision.patch_numbers();
        let mut patches = vec![0.0; cameras.len() * frames * numbers];
        for (image, patches) in cameras.iter().copied().flatten().zip(patches.chunks_mut(numbers)) {
            patches_from_image(image, vision, patches);
        }
        let mut tokens: Vec<Option<Resident>> = cameras.iter().map(|_| None).collect();
        let mut outputs: Vec<(View, Target)> =
            plan.embeddings.iter().copied().zip(tokens.iter_mut().map(Target::Resident)).collect();
        let mut traced: Vec<Vec<f32>> = Vec::new();
        if trace.is_some() {
            traced = plan.embeddings.iter().map(|view| vec![0.0; view.rows * view.columns]).collect();
            outputs.extend(plan.embeddings.iter().copied().zip(traced.iter_mut().map(|numbers| Target::Host(numbers))));
        }
        self.executor.run(&plan.plan, &[(plan.patches, Source::Host(&patches))], &mut outputs)?;
        drop(outputs);
        self.work.frames += cameras.len() * frames;
        for (frames, tokens) in cameras.iter().zip(tokens) {
            if let Some(tokens) = tokens {
                self.encoded.add((*frames).clone(), tokens);
            }
        }
        if let Some(trace) = trace {
            // The plan gives them scaled by sqrt(width).
            let scale = 1.0 / (self.network.architecture().text.width as f32).sqrt();
            traced.iter_mut().flatten().for_each(|number| *number *= scale);
            trace.image_embeddings.extend(traced.into_iter().map(|numbers| (0, numbers)));
        }
        Ok(())
    }

    /// Makes the keys and values of requests that have none yet.
    fn read(&mut self, shape: Shape, requests: &[Prepared]) -> Result<(), ModelError> {
        let mut fresh: Vec<PrefixKey> = Vec::new();
        for request in requests {
            let key = &request.prefix;
            if self.prefixes.touch(key).is_none() && !fresh.contains(key) {
                fresh.push(key.clone());
            }
        }
        if fresh.is_empty() {
            return Ok(());
        }
        let shape = Shape { requests: fresh.len(), ..shape };
        if self.prefixers.touch(&shape).is_none() {
            let plan = self.network.prefix(shape)?;
            forget(self.executor.as_mut(), self.prefixers.add(shape, plan).map(|plan| plan.plan));
        }
        let Some(plan) = self.prefixers.get(&shape) else { return Ok(()) };

        let a = self.network.architecture();
        let scale = (a.text.width as f32).sqrt();
        let mut language = Vec::with_capacity(fresh.len());
        for key in &fresh {
            let mut rows = (self.embeddings)(&key.tokens)?;
            rows.iter_mut().for_each(|number| *number *= scale);
            language.push(rows);
        }
        let pad = |key: &PrefixKey| {
            let mut state = key.state.clone();
            state.resize(a.flow.max_state, 0.0);
            state
        };
        let states: Vec<Vec<f32>> = fresh.iter().map(pad).collect();
        let mut inputs: Vec<(View, Source)> = Vec::new();
        for (request, ((key, language), state)) in plan.requests.iter().zip(fresh.iter().zip(&language).zip(&states)) {
            for (view, (_, frames)) in request.images.iter().zip(&key.seen) {
                if let Some(tokens) = self.encoded.get(frames) {
                    inputs.push((*view, Source::Resident(tokens)));
                }
            }
            inputs.extend(request.specials.iter().map(|&(view, token)| (view, Source::Host(self.host.special(token)))));
            inputs.push((request.language, Source::Host(language)));
            inputs.push((request.state, Source::Host(state)));
            inputs.extend(request.sensors.map(|view| (view, Source::Host(&key.window))));
        }
        let mut caches: Vec<Vec<Option<Resident>>> =
            plan.caches.iter().map(|views| views.iter().map(|_| None).collect()).collect();
        let views = plan.caches.iter().flatten().copied();
        let mut outputs: Vec<(View, Target)> = views.zip(caches.iter_mut().flatten().map(Target::Resident)).collect();
        self.executor.run(&plan.plan, &inputs, &mut outputs)?;
        drop(outputs);
        self.work.prefixes += fresh.len();
        for (key, caches) in fresh.into_iter().zip(caches) {
            self.prefixes.add(key, caches.into_iter().flatten().collect());
        }
        Ok(())
    }

    /// The padded, normalised actions of each request.
    fn denoise(
        &mut self,
        shape: Shape,
        requests: &[Prepared],
        trace: Option<&mut Trace>,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        let shape = Shape { requests: requests.len(), ..shape };
        if self.denoisers.touch(&shape).is_none() {
            let plan = self.network.denoise(shape)?;
            forget(self.executor.as_mut(), self.denoisers.add(shape, plan).map(|plan| plan.plan));
        }
        let Some(plan) = self.denoisers.get(&shape) else { return Ok(Vec::new()) };
        let mut inputs: Vec<(View, Source)> = Vec::new();
        for ((request, caches), actions) in requests.iter().zip(&plan.caches).zip(&plan.actions) {
            inputs.push((*actions, Source::Host(&request.noise)));
            let kept = self.prefixes.get(&request.prefix).into_iter().flatten();
            inputs.extend(caches.iter().copied().zip(kept.map(Source::Resident)));
        }
        let mut actions: Vec<Vec<f32>> = plan.actions.iter().map(|view| vec![0.0; view.rows * view.columns]).collect();
        let mut outputs: Vec<(View, Target)> =
            plan.actions.iter().copied().zip(actions.iter_mut().map(|numbers| Target::Host(numbers))).collect();
        let mut velocity: Vec<Vec<f32>> = Vec::new();
        if trace.is_some() {
            velocity = plan.velocity.iter().map(|view| vec![0.0; view.rows * view.columns]).collect();
            outputs.extend(plan.velocity.iter().copied().zip(velocity.iter_mut().map(|numbers| Target::Host(numbers))));
        }
        self.executor.run(&plan.plan, &inputs, &mut outputs)?;
        drop(outputs);
        self.work.chunks += requests.len();
        self.work.runs += 1;
        if let Some(trace) = trace {
            trace.velocity = velocity.concat();
        }
        Ok(actions)
    }
}

/// Tells what a query must have in common with others to run together with them, without the model.
#[derive(Clone)]
pub(crate) struct Shapes(Arc<Host>);

impl Shapes {
    /// None: the query does not fit the model.
    pub fn of(&self, query: &Query) -> Option<Shape> {
        self.0.prefix(query).ok().map(|prefix| self.0.shape(&prefix))
    }
}

/// Takes the time of sections, if it is wanted.
struct SectionClock {
    since: Instant,
    sections: Option<Sections>,
}

impl SectionClock {
    fn new(wanted: bool) -> Self {
        Self { since: Instant::now(), sections: wanted.then(Sections::default) }
    }

    fn lap(
        &mut self,
        executor: &mut dyn Executor,
        section: fn(&mut Sections) -> &mut Duration,
    ) -> Result<(), ExecutorError> {
        if let Some(sections) = &mut self.sections {
            executor.wait()?;
            let now = Instant::now();
            *section(sections) = now - self.since;
            self.since = now;
        }
        Ok(())
    }

    fn sections(&self) -> Option<Sections> {
        self.sections
    }
}
