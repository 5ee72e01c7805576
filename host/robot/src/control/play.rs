//! What a holder of joints asks for: an action chunk or a planned move, checked before it reaches the control loop.

use std::collections::BTreeSet;

use std::sync::Arc;

use crate::embodiment::{Embodiment, Within};
use crate::error::{FURTHEST_START_S, LONGEST_PLAY_S, PlayError};
use crate::safety::Intervention;

/// A planned move keeps to this share of a joint's acceleration, so that rounding its rows to `f32` stays unnoticed.
const PLANNED_ACCELERATION: f64 = 0.95;

/// Rows of joint positions for some joints.
///
/// Row `i` is due at `since_tick + (i + 1) * control_hz / rate_hz`. Rows that are due before the play takes effect are
/// skipped. The last row is reached one row period late, so that the joints come to rest on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Play {
    /// The joints that move; the others' values in `rows` are ignored.
    pub joints: BTreeSet<usize>,
    /// Rows per second, at most the embodiment's `control_hz`.
    pub rate_hz: f32,
    /// One position a joint of the embodiment in each, rad.
    pub rows: Vec<Vec<f32>>,
    /// The tick at which the rows were true: that of the observation that a model acted on. `None`: the tick before the
    /// one at which the play takes effect.
    pub since_tick: Option<u64>,
    /// Stricter limits than the robot's, kept while this play drives its joints.
    pub within: Option<Arc<Within>>,
}

/// What became of a play.
#[derive(Debug, Clone, PartialEq)]
pub struct PlayReport {
    /// How it ended.
    pub ended: Ended,
    /// What the safety filter changed meanwhile: at most one entry a rule, in the order in which they began.
    pub interventions: Vec<Intervention>,
}

/// How a play ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Its last row was played and its joints stand.
    Finished,
    /// A newer play or drive took some of its joints.
    Superseded,
    /// Some of its joints were told to hold, or hold because of what they felt, or were sent too far at once.
    Held,
    /// The host stop is latched. If it already was when the play arrived, nothing moved.
    Stopped,
    /// Every row was due before the play could take effect: nothing moved, and an older play goes on. Or nothing was
    /// heard of whoever drove the joints for [`PATIENCE_S`](crate::safety::PATIENCE_S).
    Late,
}

impl Play {
    /// Plans a straight move in joint space: `joints` leave `from` together, arrive at `target` together and at rest,
    /// at most at `speed` (a share of each joint's highest speed, in (0, 1]) and within their accelerations and jerks.
    ///
    /// `from` and `target` hold one position for each of the embodiment's joints, rad; `from` is where the joints are
    /// commanded to be ([`Robot::commanded`](crate::Robot::commanded)).
    ///
    /// # Errors
    /// [`PlayError`] when an argument is not finite, of the wrong width, or out of the joints' reach.
    pub fn joints_to(
        embodiment: &Embodiment,
        joints: BTreeSet<usize>,
        from: &[f32],
        target: &[f32],
        speed: f32,
    ) -> Result<Self, PlayError> {
        let rate_hz = embodiment.control_hz;
        if !(speed > 0.0 && speed <= 1.0) {
            return Err(PlayError::Speed(speed));
        }
        let mut move_to =
            Self { joints, rate_hz, rows: vec![from.to_vec(), target.to_vec()], since_tick: None, within: None };
        move_to.check(embodiment, 0)?;
        // Both are shares of the whole way, per tick and per tick²: the slowest joint sets the pace of all.
        let (mut pace, mut change, mut window) = (1.0_f64, 1.0_f64, 1);
        for &index in &move_to.joints {
            let joint = &embodiment.joints[index];
            let ([low, high], target) = (joint.position, target[index]);
            if !(low..=high).contains(&target) {
                return Err(PlayError::OutOfReach { joint: joint.name.clone(), target, low, high });
            }
            let limits = joint.limits(rate_hz);
            let way = f64::from(target - from[index]).abs().max(f64::from(f32::EPSILON));
            pace = pace.min(limits.speed * f64::from(speed) / way);
            change = change.min(limits.change * PLANNED_ACCELERATION / way);
            window = window.max(limits.window());
        }
        let ramp = (pace / change).min(change.sqrt().recip());
        let pace = change * ramp;
        let ticks = ramp + pace.recip();
        let all = ticks.ceil() + window as f64 - 1.0;
        move_to.check_length((all / f64::from(rate_hz)) as f32)?;
        let all = all as u32;
        let done = |tick: f64| {
            let tick = tick.clamp(0.0, ticks);
            let left = ticks - tick;
            if tick < ramp {
                0.5 * change * tick * tick
            } else if left < ramp {
                1.0 - 0.5 * change * left * left
            } else {
                pace * (tick - 0.5 * ramp)
            }
        };
        // Averaged as the player would, which then has nothing left to round off.
        let rounded =
            |tick: u32| (0..window).map(|ago| done(f64::from(tick) - ago as f64)).sum::<f64>() / window as f64;
        // The target stands twice: a play's last row is reached late, and this one shall be reached on time.
        move_to.rows = (1..=all + 1)
            .map(|tick| {
                let done = if tick < all { rounded(tick) } else { 1.0 };
                let position =
                    |(from, to): (&f32, &f32)| (f64::from(*from) + done * (f64::from(*to) - f64::from(*from))) as f32;
                from.iter().zip(target).map(position).collect()
            })
            .collect();
        Ok(move_to)
    }

    /// The same play under stricter limits, if there are any.
    pub fn within(self, within: Option<Arc<Within>>) -> Self {
        Self { within, ..self }
    }

    /// Whether the control loop of `embodiment`, whose newest tick is `tick`, can play this.
    pub(crate) fn check(&self, embodiment: &Embodiment, tick: u64) -> Result<(), PlayError> {
        let (width, control_hz) = (embodiment.joints.len(), embodiment.control_hz);
        check_joints(&self.joints, embodiment)?;
        if !(self.rate_hz > 0.0 && self.rate_hz <= control_hz) {
            return Err(PlayError::Rate { rate_hz: self.rate_hz, control_hz });
        }
        if self.rows.is_empty() {
            return Err(PlayError::NoRows);
        }
        self.check_length(self.rows.len() as f32 / self.rate_hz)?;
        for (row, values) in self.rows.iter().enumerate() {
            if values.len() != width {
                return Err(PlayError::Width { row, width: values.len(), expected: width });
            }
            if let Some(&joint) = self.joints.iter().find(|&&joint| !values[joint].is_finite()) {
                let (value, joint) = (values[joint], embodiment.joints[joint].name.clone());
                return Err(PlayError::NotFinite { row, joint, value });
            }
        }
        check_limits(self.within.as_ref(), embodiment)?;
        match self.since_tick {
            Some(since_tick) if since_tick > tick.saturating_add((FURTHEST_START_S * control_hz) as u64) => {
                Err(PlayError::FarFuture { since_tick, tick })
            }
            _ => Ok(()),
        }
    }

    fn check_length(&self, seconds: f32) -> Result<(), PlayError> {
        // Written so that what is not a number is refused too.
        if seconds <= LONGEST_PLAY_S { Ok(()) } else { Err(PlayError::TooLong { seconds: seconds.ceil() }) }
    }
}

/// Whether there are any, and `embodiment` has them.
pub(crate) fn check_joints(joints: &BTreeSet<usize>, embodiment: &Embodiment) -> Result<(), PlayError> {
    let Some(&highest) = joints.last() else { return Err(PlayError::NoJoints) };
    let width = embodiment.joints.len();
    if highest < width {
        return Ok(());
    }
    Err(PlayError::UnknownJoint { joint: highest, robot: embodiment.name.clone(), last: width.saturating_sub(1) })
}

/// Whether these stricter limits, if any, are `embodiment`'s.
pub(crate) fn check_limits(within: Option<&Arc<Within>>, embodiment: &Embodiment) -> Result<(), PlayError> {
    match within {
        Some(within) if !within.is_of(embodiment) => {
            let (theirs, robot) = (within.embodiment().name.clone(), embodiment.name.clone());
            Err(PlayError::ForeignLimits { theirs, robot })
        }
        _ => Ok(()),
    }
}
