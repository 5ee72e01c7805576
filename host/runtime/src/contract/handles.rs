//! What the host keeps for the handles that a skill holds.

use std::sync::Arc;

use waza_robot::{Embodiment, Observation};

/// One moment of the robot, as a skill holds it.
pub type Observed = Arc<Observation>;

/// Rows of the action space, as a skill holds them.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// Rows per second.
    pub rate_hz: f32,
    /// One position a joint of the lease, rad.
    pub rows: Vec<Vec<f32>>,
    /// The tick of the newest observation that it answers.
    pub since_tick: Option<u64>,
}

/// What the host keeps in memory for a handle.
pub(crate) trait Held {
    fn bytes(&self, robot: &Embodiment) -> usize;
}

impl Held for Observed {
    fn bytes(&self, robot: &Embodiment) -> usize {
        // Frames that nobody has looked at yet count too: whoever looks at them later takes no more.
        let frames: usize = robot.cameras.iter().map(|it| it.width as usize * it.height as usize * 3).sum();
        frames + self.windows.iter().map(|window| size_of_val(&*window.values)).sum::<usize>()
    }
}

impl Held for Chunk {
    fn bytes(&self, _: &Embodiment) -> usize {
        bytes_of(&self.rows)
    }
}

/// What rows of an action space take.
pub(crate) fn bytes_of(rows: &[Vec<f32>]) -> usize {
    rows.iter().map(|row| size_of::<Vec<f32>>() + size_of_val(&**row)).sum()
}
