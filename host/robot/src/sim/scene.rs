//! What lies on the table: scene files, and scenes drawn from them by a seed.

use std::f32::consts::PI;

use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use rapier3d::math::Vector;
use serde::{Deserialize, Serialize};

/// A block's colour, by the word that names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the words say it
pub enum Colour {
    Red,
    Green,
    Blue,
    Yellow,
    Purple,
}

impl Colour {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Red, Self::Green, Self::Blue, Self::Yellow, Self::Purple];

    /// The English word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Red => "red",
            Self::Green => "green",
            Self::Blue => "blue",
            Self::Yellow => "yellow",
            Self::Purple => "purple",
        }
    }

    /// Linear RGB, 0 to 1.
    pub fn rgb(self) -> [f32; 3] {
        match self {
            Self::Red => [0.62, 0.02, 0.02],
            Self::Green => [0.02, 0.36, 0.06],
            Self::Blue => [0.02, 0.08, 0.62],
            Self::Yellow => [0.80, 0.55, 0.01],
            Self::Purple => [0.28, 0.03, 0.42],
        }
    }
}

/// A scene file: how many blocks, and where things may lie. Polar coordinates around the arm's foot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SceneSpec {
    /// Blocks on the table, each of another colour.
    pub blocks: usize,
    /// Nearest and farthest distance of a thing's middle from the foot, metres.
    pub radius: [f32; 2],
    /// Largest angle from straight ahead, rad.
    pub angle: f32,
    /// Smallest distance between the middles of two blocks, metres.
    pub block_spacing: f32,
    /// Smallest distance between the bowl's middle and a block's, metres.
    pub bowl_spacing: f32,
}

impl SceneSpec {
    /// The bundled table-top scene.
    pub fn tabletop() -> Self {
        #[allow(clippy::expect_used)] // bundled and covered by tests
        toml::from_str(include_str!("../../scenes/tabletop.toml")).expect("the bundled scene file is valid")
    }
}

/// A block as it lies at the start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Block {
    /// Its colour; no two blocks of a scene share one.
    pub colour: Colour,
    /// Middle of its footprint, base frame, metres.
    pub position: [f32; 2],
    /// rad.
    pub yaw: f32,
}

/// Blocks and a bowl at places drawn from a seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// In the order of their colours as drawn.
    pub blocks: Vec<Block>,
    /// Middle of the bowl, base frame, metres.
    pub bowl: [f32; 2],
}

impl Scene {
    /// Draws a scene. The same specification and seed give the same scene on every machine.
    pub fn draw(spec: &SceneSpec, seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut colours = Colour::ALL;
        colours.shuffle(&mut random);
        loop {
            // Places are drawn afresh until all fit: a few tries on the bundled table.
            if let Some(scene) = Self::try_draw(spec, &colours[..spec.blocks.min(colours.len())], &mut random) {
                return scene;
            }
        }
    }

    fn try_draw(spec: &SceneSpec, colours: &[Colour], random: &mut ChaCha8Rng) -> Option<Self> {
        let mut place = || {
            // Uniform over the area of the ring's sector.
            let [near, far] = spec.radius.map(|radius| radius * radius);
            let radius = random.random_range(near..far).sqrt();
            let angle = random.random_range(-spec.angle..spec.angle);
            Vector::new(radius * angle.cos(), radius * angle.sin(), random.random_range(-PI..PI))
        };
        let bowl = place();
        let mut blocks: Vec<Block> = Vec::with_capacity(colours.len());
        let apart = |a: [f32; 2], b: [f32; 2], least: f32| (a[0] - b[0]).hypot(a[1] - b[1]) >= least;
        let bowl = [bowl.x, bowl.y];
        for &colour in colours {
            let drawn = place();
            let position = [drawn.x, drawn.y];
            let free = apart(position, bowl, spec.bowl_spacing)
                && blocks.iter().all(|block| apart(position, block.position, spec.block_spacing));
            if !free {
                return None;
            }
            blocks.push(Block { colour, position, yaw: drawn.z });
        }
        Some(Self { blocks, bowl })
    }

    /// The block of that colour, if the scene has one.
    pub fn block(&self, colour: Colour) -> Option<usize> {
        self.blocks.iter().position(|block| block.colour == colour)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_scene_and_another_seed_another() {
        let spec = SceneSpec::tabletop();
        assert_eq!(Scene::draw(&spec, 7), Scene::draw(&spec, 7));
        assert_ne!(Scene::draw(&spec, 7), Scene::draw(&spec, 8));
    }

    #[test]
    fn the_arm_can_reach_down_to_everything_in_a_thousand_scenes() {
        use crate::sim::arm::{GRIPPER_OPEN, reach_down};
        let spec = SceneSpec::tabletop();
        for seed in 0..1000 {
            let scene = Scene::draw(&spec, seed);
            for [x, y] in scene.blocks.iter().map(|block| block.position).chain([scene.bowl]) {
                for height in [0.012, 0.09] {
                    assert!(
                        reach_down(Vector::new(x, y, height), 0.0145, GRIPPER_OPEN).is_some(),
                        "seed {seed}: {x} {y}"
                    );
                }
            }
        }
    }
}
