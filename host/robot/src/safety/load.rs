//! What joints and sensors feel: for how long each has been over its limit.

use crate::embodiment::{Embodiment, ForceLimit};

/// What has fallen to this share of its limit is over it no longer: a servo that trembles around the limit is.
const RELIEVED: f64 = 0.9;

/// Something measured, against a limit.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Load {
    /// The newest value.
    pub value: f64,
    /// How far above the limit that is; below 0: not at all.
    pub excess: f64,
    /// Ticks for which it has been over the limit.
    over: u32,
}

impl Load {
    /// Takes the value of one tick.
    pub fn feel(&mut self, value: f64, limit: f64) {
        (self.value, self.excess) = (value, value.abs() - limit);
        if self.excess > 0.0 {
            self.over = self.over.saturating_add(1);
        } else if value.abs() <= RELIEVED * limit {
            self.over = 0;
        }
    }

    /// Whether it has been over its limit for that many ticks.
    pub fn lasts(&self, ticks: u32) -> bool {
        self.over >= ticks
    }
}

/// A force limit, and what is felt.
#[derive(Clone, Copy)]
pub(crate) struct Force {
    /// Index of the sensor.
    pub sensor: usize,
    /// Index of the joint whose link it is on.
    pub link: usize,
    /// The robot's, N.
    pub newtons: f64,
    /// What the surroundings exert on the link, in its frame, N.
    pub force: [f32; 3],
    pub load: Load,
}

impl Force {
    /// `limit` has been checked: what it names is there.
    pub fn new(limit: &ForceLimit, embodiment: &Embodiment) -> Option<Self> {
        Some(Self {
            sensor: embodiment.sensors.iter().position(|sensor| sensor.name == limit.sensor)?,
            link: embodiment.joint_index(&limit.link)?,
            newtons: limit.newtons.into(),
            force: [0.0; 3],
            load: Load::default(),
        })
    }

    /// Takes the sample of one tick.
    pub fn feel(&mut self, sample: &[f32], newtons: f64) {
        let &[x, y, z, ..] = sample else { return };
        self.force = [x, y, z];
        self.load.feel(self.force.map(f64::from).iter().map(|it| it * it).sum::<f64>().sqrt(), newtons);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_counts_from_when_it_is_over_its_limit_until_it_is_well_below_it() {
        let mut load = Load::default();
        let mut lasts = |value| {
            load.feel(value, 2.0);
            (1..5).take_while(|ticks| load.lasts(*ticks)).count()
        };
        assert_eq!([1.9, 2.1, -2.2, 1.9, 2.1, 1.7, 1.9, 2.1].map(&mut lasts), [0, 1, 2, 2, 3, 0, 0, 1]);
    }
}
