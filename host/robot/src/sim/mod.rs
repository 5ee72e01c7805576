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
    fn read(&mut self) -> Result<Measurement, LinkError> {
        Ok(self.locked().measure())
    }

    fn write(&mut self, positions: &[f32]) -> Result<(), LinkError> {
        self.locked().advance(positions);
        Ok(())
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
