//! The simulated tabletop robot: an SO-101-like arm, coloured blocks, a bowl, two cameras, joint encoders and a wrist
//! force/torque sensor. Physics by rapier3d, cameras by a rasteriser on the CPU; the same seed repeats bit for bit.
//!
//! | module | owns |
//! |---|---|
//! | [`arm`] | the arm's shape and kinematics |
//! | [`scene`] | scene files, and what a seed puts on the table |
//! | [`world`] | the physics |
//! | [`render`] | the cameras |
//! | [`task`] | what an episode asks for, and its verdict |
//! | [`expert`] | a scripted teacher that sees the true state; training data only |
//! | [`demonstrations`] | what the expert shows, as a stream of training samples |

use std::sync::{Arc, Mutex, PoisonError};

use crate::embodiment::Embodiment;
use crate::link::{Link, LinkError};
use crate::observation::{Frame, Image, Measurement};

pub mod arm;
pub mod demonstrations;
pub mod expert;
pub mod render;
pub mod scene;
pub mod task;
pub mod world;

pub use scene::{Scene, SceneSpec};
pub use task::{Task, Verdict};
pub use world::{Snapshot, World};

/// How high a block must have been to count as picked up, metres.
const LIFTED: f32 = 0.04;

/// A simulated robot and the ground truth about it. Cloning shares it: one clone becomes the control loop's link, the
/// other stays with the judge.
#[derive(Clone)]
pub struct Simulator {
    world: Arc<Mutex<World>>,
    embodiment: Arc<Embodiment>,
}

impl Simulator {
    /// A robot at rest over the scene that `seed` draws. The embodiment must be the bundled arm's or differ from it in
    /// limits, rates and cameras' sizes only.
    pub fn new(embodiment: Arc<Embodiment>, spec: &SceneSpec, seed: u64) -> Self {
        Self::with_scene(embodiment, &Scene::draw(spec, seed))
    }

    /// A robot at rest over a given scene.
    pub fn with_scene(embodiment: Arc<Embodiment>, scene: &Scene) -> Self {
        let world = Arc::new(Mutex::new(World::new(&embodiment, scene, arm::HOME)));
        Self { world, embodiment }
    }

    /// Where everything is now.
    pub fn snapshot(&self) -> Snapshot {
        self.locked().snapshot()
    }

    /// How the episode stands.
    pub fn judge(&self, task: Task) -> Verdict {
        let world = self.locked();
        let named = task.colour();
        if !world.snapshot().blocks.iter().any(|(colour, _)| *colour == named) {
            return Verdict::NotThere;
        }
        match task {
            Task::Touch(_) => match world.touched().first() {
                Some(&first) if first != named => Verdict::WrongBlock(first),
                Some(_) => world.touched().get(1).map_or(Verdict::Success, |&second| Verdict::WrongBlock(second)),
                None => Verdict::Incomplete,
            },
            Task::PlaceInBowl(_) => match world.lifted(LIFTED).find(|&colour| colour != named) {
                Some(wrong) => Verdict::WrongBlock(wrong),
                None if world.in_bowl(named) => Verdict::Success,
                None => Verdict::Incomplete,
            },
        }
    }

    /// What the embodiment's camera of that name sees now, at any size. `None` if the simulator has no such camera.
    pub fn picture(&self, camera: &str, width: u32, height: u32) -> Option<Image> {
        let snapshot = self.snapshot();
        Some(render::draw(&snapshot, &camera_of(camera, &snapshot)?, width, height))
    }

    /// The world, which is never left half-changed: a panic inside the physics engine is the only way to poison it, and
    /// the numbers are still those of the last step.
    fn locked(&self) -> std::sync::MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn camera_of(name: &str, snapshot: &Snapshot) -> Option<render::Camera> {
    match name {
        "front" => Some(render::Camera::front()),
        "wrist" => Some(render::Camera::wrist(snapshot)),
        _ => None,
    }
}

impl Link for Simulator {
    fn read_into(&mut self, into: &mut Measurement) -> Result<(), LinkError> {
        self.locked().measure(into);
        Ok(())
    }

    fn write(&mut self, positions: &[f32]) -> Result<(), LinkError> {
        self.locked().advance(positions);
        Ok(())
    }

    fn is_simulated(&self) -> bool {
        true
    }

    fn capture(&mut self) -> Result<Vec<Frame>, LinkError> {
        let snapshot = Arc::new(self.snapshot());
        self.embodiment
            .cameras
            .iter()
            .map(|spec| {
                let camera = camera_of(&spec.name, &snapshot)
                    .ok_or_else(|| LinkError(format!("the simulator has no camera {}", spec.name)))?;
                let (snapshot, width, height) = (snapshot.clone(), spec.width, spec.height);
                Ok(Frame::lazy(move || render::draw(&snapshot, &camera, width, height)))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::expert::{State, plan};

    /// Lets the expert work for `seconds`, five action rows at a time, and returns the largest force on the wrist (N).
    fn teach(simulator: &mut Simulator, task: Task, seconds: f32) -> f32 {
        let mut command = arm::HOME;
        let mut largest: f32 = 0.0;
        for _ in 0..(seconds / 0.5) as usize {
            let joints = simulator.read().unwrap().joints.positions;
            let state = State::of(&simulator.snapshot(), &joints, task).unwrap();
            for row in plan(task, state, 5, 0.1) {
                for tick in 1..=10 {
                    let share = tick as f32 / 10.0;
                    let between: Vec<f32> =
                        command.iter().zip(row).map(|(from, to)| from + share * (to - from)).collect();
                    simulator.write(&between).unwrap();
                    let sample = simulator.read().unwrap().samples.remove(0);
                    largest = largest.max(sample[0].hypot(sample[1]).hypot(sample[2]));
                }
                command = row;
            }
        }
        largest
    }

    fn table(seed: u64) -> Simulator {
        Simulator::new(Arc::new(Embodiment::so101()), &SceneSpec::tabletop(), seed)
    }

    fn first_block(simulator: &Simulator) -> scene::Colour {
        simulator.snapshot().blocks[0].0
    }

    #[test]
    fn the_same_seed_and_commands_repeat_bit_for_bit() {
        let end = |seed| {
            let mut simulator = table(seed);
            let task = Task::PlaceInBowl(first_block(&simulator));
            teach(&mut simulator, task, 3.0);
            (simulator.snapshot(), simulator.read().unwrap())
        };
        assert_eq!(end(5), end(5));
    }

    #[test]
    fn the_expert_touches_what_it_is_asked_to_and_the_wrist_feels_it() {
        for seed in 0..10 {
            let mut simulator = table(seed);
            let task = Task::Touch(first_block(&simulator));
            let force = teach(&mut simulator, task, 3.0);
            assert_eq!(simulator.judge(task), Verdict::Success, "seed {seed}");
            assert!(force > 1.0, "seed {seed}: the wrist felt {force} N");
        }
    }

    #[test]
    fn the_expert_puts_nearly_every_block_in_the_bowl() {
        let placed = (0..20).filter(|&seed| {
            let mut simulator = table(seed);
            let task = Task::PlaceInBowl(first_block(&simulator));
            teach(&mut simulator, task, 10.0);
            simulator.judge(task) == Verdict::Success
        });
        assert!(placed.count() >= 18);
    }

    #[test]
    fn an_arm_that_stays_home_does_nothing_right_and_nothing_wrong() {
        let mut simulator = table(1);
        for _ in 0..200 {
            simulator.write(&arm::HOME).unwrap();
        }
        for task in [Task::Touch(first_block(&simulator)), Task::PlaceInBowl(first_block(&simulator))] {
            assert_eq!(simulator.judge(task), Verdict::Incomplete);
        }
    }

    #[test]
    fn doing_the_job_with_another_block_is_a_failure_by_name() {
        let mut simulator = table(2);
        let blocks = simulator.snapshot().blocks;
        let (named, other) = (blocks[0].0, blocks[1].0);
        teach(&mut simulator, Task::PlaceInBowl(other), 8.0);
        assert_eq!(simulator.judge(Task::PlaceInBowl(named)), Verdict::WrongBlock(other));
        assert_eq!(simulator.judge(Task::Touch(named)), Verdict::WrongBlock(other));
    }

    #[test]
    fn a_colour_that_is_not_on_the_table_is_said_to_be_missing() {
        let simulator = table(3);
        let here: Vec<_> = simulator.snapshot().blocks.iter().map(|block| block.0).collect();
        let missing = scene::Colour::ALL.into_iter().find(|colour| !here.contains(colour)).unwrap();
        assert_eq!(simulator.judge(Task::Touch(missing)), Verdict::NotThere);
    }

    #[test]
    fn frames_are_drawn_at_the_embodiments_size_and_show_the_moment_they_were_taken() {
        let mut simulator = table(4);
        let before = simulator.capture().unwrap();
        let task = Task::Touch(first_block(&simulator));
        teach(&mut simulator, task, 1.0);
        let after = simulator.capture().unwrap();
        let image = before[0].image().unwrap();
        assert_eq!((image.width, image.height), (96, 96));
        assert_eq!(*image, table(4).picture("front", 96, 96).unwrap());
        assert_ne!(image, after[0].image().unwrap());
    }
}
