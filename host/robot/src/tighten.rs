//! Limits of a site or a skill over those of a robot: the effective limit is the intersection.
//!
//! A [`Tightening`] holds what is asked for, and [`Embodiment::tightened`] is all that can be done with it. It takes the
//! stricter of both everywhere, so there is no file, however wrong, that lets a robot do more.

use serde::{Deserialize, Serialize};

use crate::embodiment::{Embodiment, EmbodimentError, Workspace};

/// Stricter limits; what is not said stays as it is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tightening {
    /// Of single joints.
    pub joints: Vec<JointTightening>,
    /// A box that the tool centre point may not leave either.
    pub workspace: Option<Workspace>,
    /// More boxes where no capsule may be.
    pub forbidden: Vec<Workspace>,
    /// The oldest observation that a play may act on, seconds.
    pub command_age_s: Option<f32>,
}

/// Stricter limits of one joint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JointTightening {
    /// The joint.
    pub name: String,
    /// Lowest and highest position, rad.
    #[serde(default)]
    pub position: Option<[f32; 2]>,
    /// Highest speed, rad/s.
    #[serde(default)]
    pub velocity: Option<f32>,
    /// Highest acceleration, rad/s².
    #[serde(default)]
    pub acceleration: Option<f32>,
    /// Highest torque, N m.
    #[serde(default)]
    pub effort: Option<f32>,
}

impl Embodiment {
    /// This robot within stricter limits; `origin` is named in errors.
    ///
    /// # Errors
    /// [`EmbodimentError::Invalid`] if nothing is left of a limit, or the limits are of a joint that the robot lacks.
    pub fn tightened(&self, by: &Tightening, origin: &str) -> Result<Self, EmbodimentError> {
        let mut within = self.clone();
        let mut wrong = Vec::new();
        for stricter in &by.joints {
            let Some(joint) = within.joints.iter_mut().find(|joint| joint.name == stricter.name) else {
                wrong.push(format!("there is no joint {}", stricter.name));
                continue;
            };
            if let Some([low, high]) = stricter.position {
                joint.position = [higher(joint.position[0], low), lower(joint.position[1], high)];
            }
            for (limit, stricter) in [
                (&mut joint.velocity, stricter.velocity),
                (&mut joint.acceleration, stricter.acceleration),
                (&mut joint.effort, stricter.effort),
            ] {
                *limit = stricter.map_or(*limit, |stricter| lower(*limit, stricter));
            }
        }
        if let Some(Workspace { min, max }) = by.workspace {
            for axis in 0..3 {
                within.workspace.min[axis] = higher(within.workspace.min[axis], min[axis]);
                within.workspace.max[axis] = lower(within.workspace.max[axis], max[axis]);
            }
        }
        within.forbidden.extend(&by.forbidden);
        within.command_age_s = match (self.command_age_s, by.command_age_s) {
            (Some(age), Some(stricter)) => Some(lower(age, stricter)),
            (age, stricter) => age.or(stricter),
        };
        wrong.extend(within.contradictions());
        if wrong.is_empty() {
            Ok(within)
        } else {
            Err(EmbodimentError::Invalid { path: origin.into(), what: wrong.join("; ") })
        }
    }
}

/// The lower, or what is not a number if either is none: `f32::min` would take the other, and lose a limit.
fn lower(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::NAN } else { a.min(b) }
}

fn higher(a: f32, b: f32) -> f32 {
    -lower(-a, -b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stricter(name: &str, position: Option<[f32; 2]>, velocity: f32) -> Tightening {
        let joint =
            JointTightening { name: name.into(), position, velocity: Some(velocity), acceleration: None, effort: None };
        Tightening { joints: vec![joint], ..Tightening::default() }
    }

    proptest! {
        #[test]
        fn no_tightening_lets_a_robot_do_more(
            low in -5.0_f32..5.0, high in -5.0_f32..5.0, velocity in -1.0_f32..9.0, age in -1.0_f32..20.0,
            corner in prop::array::uniform3(-1.0_f32..1.0), other in prop::array::uniform3(-1.0_f32..1.0),
        ) {
            let robot = Embodiment::so101();
            let mut by = stricter("elbow_flex", Some([low, high]), velocity);
            by.workspace = Some(Workspace { min: corner, max: other });
            by.command_age_s = Some(age);
            let Ok(within) = robot.tightened(&by, "site.toml") else { return Ok(()) };
            for (was, is) in robot.joints.iter().zip(&within.joints) {
                prop_assert!(is.position[0] >= was.position[0] && is.position[1] <= was.position[1]);
                prop_assert!(is.velocity <= was.velocity && is.acceleration <= was.acceleration);
            }
            for axis in 0..3 {
                prop_assert!(within.workspace.min[axis] >= robot.workspace.min[axis]);
                prop_assert!(within.workspace.max[axis] <= robot.workspace.max[axis]);
            }
            prop_assert!(within.command_age_s <= robot.command_age_s);
        }
    }

    #[test]
    fn a_sites_file_says_only_what_is_stricter() {
        let text = "command_age_s = 1.0\n[[joints]]\nname = \"shoulder_pan\"\nposition = [-1.0, 9.0]\nvelocity = 0.5\n\
            [[forbidden]]\nmin = [0.2, 0.2, 0.0]\nmax = [0.4, 0.4, 0.3]\n";
        let within = Embodiment::so101().tightened(&toml::from_str(text).unwrap(), "site.toml").unwrap();
        let pan = &within.joints[0];
        assert_eq!((pan.position, pan.velocity, pan.acceleration), ([-1.0, 1.91986], 0.5, 12.0));
        assert_eq!((within.forbidden.len(), within.command_age_s), (1, Some(1.0)));
    }

    #[test]
    fn limits_that_leave_nothing_or_are_no_numbers_are_refused() {
        let robot = Embodiment::so101();
        for (by, expected) in [
            (stricter("gripper", Some([2.0, 3.0]), 1.0), "joint gripper: position limits [2, 1.74533] are not ordered"),
            (stricter("gripper", None, f32::NAN), "joint gripper: velocity, acceleration and effort must be above 0"),
            (stricter("tail", None, 1.0), "there is no joint tail"),
        ] {
            let error = robot.tightened(&by, "site.toml").unwrap_err().to_string();
            assert_eq!(error, format!("site.toml: {expected}"));
        }
    }
}
