//! The trait between the control loop and something that moves.

#[cfg(unix)]
pub mod bridge;

use crate::embodiment::Embodiment;
pub use crate::error::LinkError;
use crate::observation::{Frame, Measurement};
use crate::safety::Rule;

/// A robot, or something that behaves like one. The control loop is its only caller.
///
/// A hardware link talks to a bus; the simulator advances its physics. Neither may block for longer than a control
/// period.
pub trait Link: Send {
    /// Reads the joints and sensors into what an earlier measurement lies in, or nothing yet: a link that writes every value
    /// where the one before was costs the control loop no allocation. After an error what lies there is nothing.
    ///
    /// # Errors
    /// [`LinkError`] when nothing fresh can be read; the control loop then falls back and tries again.
    fn read_into(&mut self, into: &mut Measurement) -> Result<(), LinkError>;

    /// Reads the joints and sensors.
    ///
    /// # Errors
    /// As [`Link::read_into`].
    fn read(&mut self) -> Result<Measurement, LinkError> {
        let mut measured = Measurement::default();
        self.read_into(&mut measured)?;
        Ok(measured)
    }

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

    /// How often each rule of a filter of the link's own began to act, in the order of [`Rule::ALL`]; `None` where it has none.
    fn interventions(&self) -> Option<&[u64; Rule::ALL.len()]> {
        None
    }

    /// Whether nothing but numbers moves: only then may the safety filter be off. A link around another one asks that.
    fn is_simulated(&self) -> bool {
        false
    }
}

/// A robot that is found further than this from its last command after its link was down, rad, has been moved
/// meanwhile: it holds where it is found instead of snapping back.
const MOVED_MEANWHILE_RAD: f32 = 0.1;

/// Whether somebody has moved a robot since its last command.
pub(crate) fn moved(positions: &[f32], commanded: &[f32]) -> bool {
    positions.iter().zip(commanded).any(|(is, was)| (is - was).abs() > MOVED_MEANWHILE_RAD)
}

/// Whether a measurement has the shape that the embodiment promises, and only finite values.
pub(crate) fn check(measured: &Measurement, embodiment: &Embodiment) -> Result<(), LinkError> {
    let joints = &measured.joints;
    let expected = embodiment.joints.len();
    for (what, values) in
        [("positions", &joints.positions), ("velocities", &joints.velocities), ("efforts", &joints.efforts)]
    {
        if values.len() != expected {
            return Err(LinkError(format!("it read {} {what} of {expected} joints", values.len())));
        }
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            let (name, value) = (&embodiment.joints[index].name, values[index]);
            return Err(LinkError(format!("it read {value} among the {what}, for joint {name}")));
        }
    }
    let (got, expected) = (measured.samples.len(), embodiment.sensors.len());
    if got != expected {
        return Err(LinkError(format!("it read samples of {got} sensors, {expected} were expected")));
    }
    for (sensor, sample) in embodiment.sensors.iter().zip(&measured.samples) {
        let (name, got, expected) = (&sensor.name, sample.len(), sensor.channels.len());
        if got != expected {
            return Err(LinkError(format!("it read {got} values of sensor {name}, {expected} were expected")));
        }
        if sample.iter().any(|value| !value.is_finite()) {
            return Err(LinkError(format!("sensor {name} reads what is no finite number")));
        }
    }
    Ok(())
}
