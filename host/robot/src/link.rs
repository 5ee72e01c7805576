//! The trait between the control loop and something that moves.

use crate::observation::{Frame, Measurement};

/// A robot, or something that behaves like one. The control loop is its only caller.
///
/// A hardware link talks to a bus; the simulator advances its physics. Neither may block for longer than a control
/// period.
pub trait Link: Send {
    /// Reads the joints and sensors.
    ///
    /// # Errors
    /// [`LinkError`] when nothing fresh can be read; the control loop then falls back and tries again.
    fn read(&mut self) -> Result<Measurement, LinkError>;

    /// Commands one position a joint (rad, embodiment's order), valid for one control period. A simulator advances its
    /// time by that period.
    ///
    /// # Errors
    /// [`LinkError`] when the command did not reach the robot.
    fn write(&mut self, positions: &[f32]) -> Result<(), LinkError>;

    /// The newest frame of every camera, in the embodiment's order.
    ///
    /// # Errors
    /// [`LinkError`] when a camera is gone.
    fn capture(&mut self) -> Result<Vec<Frame>, LinkError>;

    /// Whether nothing but numbers moves: only then may the safety filter be off. A link around another one asks that.
    fn is_simulated(&self) -> bool {
        false
    }
}

/// The link is down or the robot did not answer in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the robot link failed: {0}")]
pub struct LinkError(pub String);
