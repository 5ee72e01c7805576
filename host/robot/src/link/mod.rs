//! The trait between the control loop and something that moves.

#[cfg(unix)]
pub mod bridge;

use crate::embodiment::Embodiment;
pub use crate::error::LinkError;
use crate::observation::{Frame, Measurement};
use crate::safety::Rule;
use crate::safety::filter::Filter;

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

    /// What whoever owns the robot has kept of the time before this host, or before it was found again: told once, after the
    /// first measurement. `None` where nobody keeps anything: then the robot is commanded to be where it is measured.
    fn found(&mut self) -> Option<Found> {
        None
    }

    /// Gives whoever owns the robot the count of stops, to be kept from the next command on: see [`Found::stops`].
    fn keep(&mut self, stops: u64) {
        let _ = stops;
    }

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

/// What outlives a host, in the process that owns the robot.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    /// Where the joints are commanded to be, at rest, rad. Not where they are: a hand that holds something is commanded to be
    /// further closed than it can.
    pub commanded: Vec<f32>,
    /// How often the host stop has been latched or reset: odd while it is latched.
    pub stops: u64,
}

/// More stops than this nobody counts: whoever says so is wrong.
pub const MOST_STOPS: u64 = u64::MAX / 2;

/// A joint whose place differs by more than this from what its command was followed by before its link was down, rad, has
/// been moved meanwhile: it holds where it is found instead of snapping back.
const MOVED_MEANWHILE_RAD: f32 = 0.1;

/// How far each joint was from its command when that was last seen, rad. What is held, or presses on something, keeps a joint
/// from its command for as long as it does; nobody has moved it by that.
#[derive(Default)]
pub(crate) struct Lags(Vec<f32>);

impl Lags {
    /// The link works.
    pub fn note(&mut self, positions: &[f32], commanded: &[f32]) {
        self.0.clear();
        self.0.extend(positions.iter().zip(commanded).map(|(is, commanded)| commanded - is));
    }

    /// The link was down: joints that have been moved meanwhile go on from where they are found.
    pub fn resume(&self, positions: &[f32], filter: &mut Filter) {
        for (joint, (&is, lag)) in positions.iter().zip(&self.0).enumerate() {
            if (filter.command()[joint] - is - lag).abs() > MOVED_MEANWHILE_RAD {
                filter.continue_joint_from(joint, is);
            }
        }
    }
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
