//! Cameras, joints and sensor windows.

pub use crate::bindings::waza::skill::sensing::{
    Camera, Embodiment, Image, Joint, JointLimits, Observation, Part, Samples, Sensor, observe, robot, watch,
};
use crate::{Error, Result};

impl Observation {
    /// The joint called `name`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the robot has no such joint.
    pub fn joint(&self, name: &str) -> Result<Joint> {
        let found = self.joints().into_iter().find(|joint| joint.name == name);
        found.ok_or_else(|| Error::Unavailable(format!("the robot has no joint {name}")))
    }
}

impl Samples {
    /// The samples, oldest first, one value a channel.
    pub fn rows(&self) -> impl DoubleEndedIterator<Item = &[f32]> + ExactSizeIterator {
        self.values.chunks_exact((self.channels as usize).max(1))
    }

    /// The largest length of a sample's first three channels: of a wrench in SI, the peak force in newtons.
    pub fn peak_force(&self) -> f32 {
        let squared = |row: &[f32]| row.iter().take(3).map(|value| value * value).sum::<f32>();
        self.rows().map(squared).fold(0.0, f32::max).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_force_is_the_longest_force_and_ignores_torque() {
        let values = vec![0.0, 0.0, -1.0, 9.0, 9.0, 9.0, 3.0, 0.0, 4.0, 0.0, 0.0, 0.0];
        let window = Samples { channels: 6, first: 0, rate_hz: 100.0, values };
        assert_eq!(window.rows().len(), 2);
        assert_eq!(window.peak_force(), 5.0);
    }
}
