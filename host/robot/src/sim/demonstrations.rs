//! What the expert shows, as an endless stream of training samples.
//!
//! Episodes run in the physics with the expert's plan and with disturbances on top of it, so that samples also show how
//! to come back from where a learner ends up. Frames are drawn when a sample leaves the shuffle buffer.

use std::io::{self, Write};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rapier3d::math::Vector;

use super::arm::{self, GRIPPER, HOME, JOINTS};
use super::expert::{self, State};
use super::render::{self, Camera};
use super::scene::{Scene, SceneSpec};
use super::task::Task;
use super::world::{Snapshot, World};
use crate::embodiment::Embodiment;
use crate::observation::Measurement;

/// What a stream consists of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Episodes are drawn from it; demonstrations and evaluations must not share scene seeds.
    pub seed: u64,
    /// Sides of the square frames, pixels.
    pub side: u32,
    /// Rows of an action chunk.
    pub chunk: usize,
    /// Cameras to draw, by name: `front`, `wrist`.
    pub cameras: Vec<String>,
    /// Samples held for shuffling.
    pub shuffle: usize,
    /// Share of tasks that are [`Task::Touch`], 0 to 1.
    pub touch: f32,
    /// Share of samples that ask for another task than the episode works on, 0 to 1. Where an arm is tells what its
    /// episode works on, and a learner that can read the task off the arm never listens to the words.
    pub relabelled: f32,
}

/// Bytes of an instruction in a record, padded with zeros.
pub const INSTRUCTION_BYTES: usize = 48;

/// One moment and what the expert would do next.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Where everything was.
    pub snapshot: Snapshot,
    /// What was asked.
    pub instruction: String,
    /// rad.
    pub joints: [f32; JOINTS],
    /// The expert's plan: joint positions, rad.
    pub chunk: Vec<[f32; JOINTS]>,
    /// What the instruction's object is: its middle, base frame, metres.
    pub object: Vector,
}

/// Scene seeds of demonstrations have this bit set; evaluations use small seeds.
const TRAINING_SEEDS: u64 = 1 << 63;

/// Runs one episode and hands out a sample for each action row's period.
pub fn episode(embodiment: &Embodiment, spec: &SceneSpec, options: &Options, index: u64, mut sink: impl FnMut(Sample)) {
    let mut random =
        ChaCha8Rng::seed_from_u64(options.seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ TRAINING_SEEDS);
    let scene = Scene::draw(spec, random.random::<u64>() | TRAINING_SEEDS);
    let draw_task = |random: &mut ChaCha8Rng| {
        let colour = scene.blocks[random.random_range(0..scene.blocks.len())].colour;
        if random.random::<f32>() < options.touch { Task::Touch(colour) } else { Task::PlaceInBowl(colour) }
    };
    let task = draw_task(&mut random);
    let start = if random.random::<f32>() < 0.5 { jittered_home(&mut random) } else { anywhere(spec, &mut random) };
    let mut world = World::new(embodiment, &scene, start);

    let period = 1.0 / embodiment.action.rate_hz;
    let ticks = (embodiment.control_hz * period).round() as usize;
    let disturbance = if random.random::<f32>() < 0.35 { 0.0 } else { random.random_range(0.01..0.06) };
    let mut offset = [0.0f32; JOINTS];
    let mut command = start;
    let mut idle = 0;
    let mut measured = Measurement::default();
    let limit = if matches!(task, Task::Touch(_)) { 45 } else { 140 };
    for _ in 0..limit {
        world.measure(&mut measured);
        let joints: [f32; JOINTS] = std::array::from_fn(|index| measured.joints.positions[index]);
        let snapshot = world.snapshot();
        let within = |index: usize, angle: f32| {
            let [low, high] = embodiment.joints[index].position;
            angle.clamp(low, high)
        };
        let plan = |task| {
            let state = State::of(&snapshot, &joints, task)?;
            let rows = expert::plan(task, state, options.chunk, period).into_iter();
            let chunk: Vec<[f32; JOINTS]> =
                rows.map(|row| std::array::from_fn(|index| within(index, row[index]))).collect();
            Some((state, chunk))
        };
        let Some((_, chunk)) = plan(task) else { return };
        let next = chunk[0];
        let resting = chunk.iter().all(|row| row.iter().zip(joints).all(|(row, now)| (row - now).abs() < 0.03));
        let asked = if random.random::<f32>() < options.relabelled { draw_task(&mut random) } else { task };
        if let Some((state, chunk)) = plan(asked) {
            let phrases: Vec<String> = asked.phrases().collect();
            let instruction = phrases[random.random_range(0..phrases.len())].clone();
            sink(Sample { snapshot: snapshot.clone(), instruction, joints, chunk, object: state.block });
        }
        // The end of a job looks the same for ever; a few samples of it are enough.
        idle += usize::from(resting);
        if idle > 6 {
            return;
        }
        // An Ornstein-Uhlenbeck walk pushes the arm off the expert's path (as in DART, Laskey et al., 2017).
        for (index, offset) in offset.iter_mut().enumerate() {
            let kick: f32 = random.random_range(-1.0..1.0);
            *offset = 0.75 * *offset + if index == GRIPPER { 0.3 } else { 1.0 } * disturbance * kick;
        }
        let target: [f32; JOINTS] = std::array::from_fn(|index| within(index, next[index] + offset[index]));
        for tick in 1..=ticks {
            let share = tick as f32 / ticks as f32;
            let between: [f32; JOINTS] =
                std::array::from_fn(|index| command[index] + share * (target[index] - command[index]));
            world.advance(&between);
        }
        command = target;
    }
}

fn jittered_home(random: &mut ChaCha8Rng) -> [f32; JOINTS] {
    HOME.map(|joint| joint + random.random_range(-0.08..0.08))
}

/// A hand somewhere over the table, as a learner may find itself.
fn anywhere(spec: &SceneSpec, random: &mut ChaCha8Rng) -> [f32; JOINTS] {
    let radius = random.random_range(spec.radius[0]..spec.radius[1]);
    let angle = random.random_range(-spec.angle..spec.angle);
    let target = Vector::new(radius * angle.cos(), radius * angle.sin(), random.random_range(0.06..0.12));
    let gripper = random.random_range(0.05..0.9);
    let mut joints = arm::reach_down(target, 0.0, gripper).unwrap_or(HOME);
    for joint in &mut joints[..GRIPPER] {
        *joint += random.random_range(-0.1..0.1);
    }
    joints
}

/// Writes records for ever, or until the reader goes away. All numbers are little-endian; a record is
///
/// | bytes | what |
/// |---|---|
/// | cameras * side * side * 3 | frames, RGB |
/// | 6 * 4 | joint positions, f32, rad |
/// | chunk * 6 * 4 | the expert's plan, f32, rad |
/// | cameras * 4 * 4 | the named object's and the bowl's middle in each frame, f32, 0 to 1 from left and from top |
/// | [`INSTRUCTION_BYTES`] | the instruction, UTF-8, padded with zeros |
///
/// # Errors
/// Of the writer. A reader that hung up is no error.
pub fn stream(embodiment: &Embodiment, spec: &SceneSpec, options: &Options, out: &mut impl Write) -> io::Result<()> {
    let mut random = ChaCha8Rng::seed_from_u64(options.seed);
    let mut buffer: Vec<Sample> = Vec::with_capacity(options.shuffle);
    for index in 0.. {
        let mut result = Ok(());
        episode(embodiment, spec, options, index, |sample| {
            if buffer.len() < options.shuffle {
                buffer.push(sample);
            } else if result.is_ok() {
                let place = random.random_range(0..buffer.len());
                let leaving = std::mem::replace(&mut buffer[place], sample);
                result = out.write_all(&record(&leaving, options));
            }
        });
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => other?,
        }
    }
    Ok(())
}

fn record(sample: &Sample, options: &Options) -> Vec<u8> {
    let cameras: Vec<Camera> = options
        .cameras
        .iter()
        .map(|name| if name == "wrist" { Camera::wrist(&sample.snapshot) } else { Camera::front() })
        .collect();
    let mut bytes = Vec::new();
    for camera in &cameras {
        bytes.extend_from_slice(&render::draw(&sample.snapshot, camera, options.side, options.side).rgb);
    }
    let [x, y] = sample.snapshot.bowl;
    let points = cameras.iter().flat_map(|camera| {
        [sample.object, Vector::new(x, y, 0.01)]
            .into_iter()
            .flat_map(|point| camera.project(point).unwrap_or([-1.0; 2]))
    });
    let numbers = sample.joints.into_iter().chain(sample.chunk.iter().flatten().copied()).chain(points);
    bytes.extend(numbers.flat_map(f32::to_le_bytes));
    let mut words = [0; INSTRUCTION_BYTES];
    let text = sample.instruction.as_bytes();
    let kept = text.len().min(INSTRUCTION_BYTES);
    words[..kept].copy_from_slice(&text[..kept]);
    bytes.extend(words);
    bytes
}
