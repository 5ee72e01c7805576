//! Limits of a site or a skill over those of a robot: the effective limit is the intersection.
//!
//! A [`Tightening`] holds what is asked for, and [`Embodiment::tightened`] is all that can be done with it. It takes the
//! stricter of both everywhere, so there is no file, however wrong, that lets a robot do more.
//!
//! A site's limits make another robot once, before it starts. A skill's come and go with what it plays: [`Within`] is
//! such a stricter robot in the form that the control loop needs.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use toml::de::{DeTable, Deserializer};

use crate::embodiment::{Embodiment, EmbodimentError, Workspace};
use crate::trajectory::limits::Limits;

/// Longer than any file of limits.
const LONGEST_BYTES: u64 = 64 * 1024;

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
    /// Of the robot's force limits.
    pub force_limits: Vec<ForceTightening>,
    /// The oldest observation that a play may act on, seconds.
    pub command_age_s: Option<f32>,
    /// How far out of a joint's reach the first rows of a play may be, rad.
    pub discontinuity_rad: Option<f32>,
}

/// Stricter limits of one joint.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
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
    /// Highest jerk, rad/s³.
    #[serde(default)]
    pub jerk: Option<f32>,
    /// Highest torque, N m.
    #[serde(default)]
    pub effort: Option<f32>,
}

/// A stricter force limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForceTightening {
    /// A sensor for which the robot has a limit.
    pub sensor: String,
    /// Of the force's magnitude.
    pub newtons: f32,
}

/// Why a file of limits was refused.
#[derive(Debug, thiserror::Error)]
pub enum TighteningError {
    /// The file could not be read.
    #[error("cannot read the limits in {path}: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is far longer than any file of limits.
    #[error("{path} is longer than {LONGEST_BYTES} bytes; is it really a file of limits?", path = .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not TOML of the expected form.
    #[error("{path}: line {line}: {what}; limits are those of an embodiment file", path = .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where.
        line: usize,
        /// Why, in one line.
        what: String,
    },
}

impl Tightening {
    /// Reads the limits of a site. Whether they fit a robot, [`Embodiment::tightened`] says. What the same file says under
    /// `[model]` is passed over: it is about what moves the robot, not about the robot.
    ///
    /// # Errors
    /// [`TighteningError`] names the file and what is wrong with it.
    pub fn open(path: &Path) -> Result<Self, TighteningError> {
        let read = |text: &str| {
            let mut table = DeTable::parse(text)?;
            table.get_mut().remove("model");
            Self::deserialize(Deserializer::from(table))
        };
        let text = Self::text(path)?;
        read(&text).map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            TighteningError::Parse { path: path.into(), line, what: error.message().replace('\n', " ") }
        })
    }

    /// The text of a site's file, for whoever reads what it says besides limits.
    ///
    /// # Errors
    /// [`TighteningError`] if it cannot be read or is too long.
    pub fn text(path: &Path) -> Result<String, TighteningError> {
        let unreadable = |source| TighteningError::Read { path: path.into(), source };
        let mut text = String::new();
        // What is read is bounded, not what the file system says: a pipe or a device has no length.
        let bounded = std::fs::File::open(path).map_err(unreadable)?.take(LONGEST_BYTES + 1);
        std::io::BufReader::new(bounded).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > LONGEST_BYTES {
            return Err(TighteningError::TooLarge { path: path.into() });
        }
        Ok(text)
    }
}

/// A robot within the limits of a skill, prepared for the control loop on whoever's thread: what a play may name to be
/// played more carefully. Made by [`Embodiment::within`] or [`Robot::within`](crate::Robot::within).
#[derive(Debug, Clone, PartialEq)]
pub struct Within {
    robot: Arc<Embodiment>,
    embodiment: Embodiment,
    /// One a joint.
    pub(crate) limits: Vec<Limits>,
    /// The boxes that the robot alone does not have.
    pub(crate) forbidden: Vec<Workspace>,
}

impl Within {
    /// The robot that is left: what a move under these limits is planned for.
    pub fn embodiment(&self) -> &Embodiment {
        &self.embodiment
    }

    /// Whether these limits were made for that robot: of another one they may be wider.
    pub(crate) fn is_of(&self, robot: &Embodiment) -> bool {
        std::ptr::eq(&*self.robot, robot) || *self.robot == *robot
    }
}

impl Embodiment {
    /// This robot within the limits of a skill, for [`Play::within`](crate::Play::within); `origin` is named in errors.
    ///
    /// # Errors
    /// As [`Embodiment::tightened`].
    pub fn within(self: &Arc<Self>, by: &Tightening, origin: &str) -> Result<Arc<Within>, EmbodimentError> {
        let embodiment = self.tightened(by, origin)?;
        Ok(Arc::new(Within {
            limits: embodiment.joints.iter().map(|joint| joint.limits(self.control_hz)).collect(),
            forbidden: by.forbidden.clone(),
            robot: self.clone(),
            embodiment,
        }))
    }

    /// This robot within stricter limits; `origin` is named in errors.
    ///
    /// # Errors
    /// [`EmbodimentError::Invalid`] if nothing is left of a limit, or the limits are of a joint that the robot lacks.
    pub fn tightened(&self, by: &Tightening, origin: &str) -> Result<Self, EmbodimentError> {
        let mut within = self.clone();
        let mut wrong = Vec::new();
        for stricter in &by.joints {
            let Some(joint) = within.joints.iter_mut().find(|joint| joint.name == stricter.name) else {
                let has: Vec<_> = self.joints.iter().map(|joint| joint.name.as_str()).collect();
                wrong.push(format!("there is no joint {}, {} has {}", stricter.name, self.name, has.join(", ")));
                continue;
            };
            if let Some([low, high]) = stricter.position {
                let was = joint.position;
                joint.position = [higher(was[0], low), lower(was[1], high)];
                if joint.position[0] >= joint.position[1] {
                    let name = &joint.name;
                    wrong.push(format!("joint {name}: nothing of [{low}, {high}] is in the robot's {was:?}"));
                    // Said once, and with both sides.
                    joint.position = was;
                }
            }
            for (limit, stricter) in [
                (&mut joint.velocity, stricter.velocity),
                (&mut joint.acceleration, stricter.acceleration),
                (&mut joint.effort, stricter.effort),
            ] {
                *limit = stricter.map_or(*limit, |stricter| lower(*limit, stricter));
            }
            joint.jerk = lower_of(joint.jerk, stricter.jerk);
        }
        if let Some(stricter) = by.workspace {
            within.workspace = within.workspace.intersected(&stricter);
            if (0..3).any(|axis| within.workspace.min[axis] >= within.workspace.max[axis]) {
                wrong.push(format!("nothing of the workspace {stricter} is in the robot's {}", self.workspace));
                within.workspace = self.workspace;
            }
        }
        within.forbidden.extend(&by.forbidden);
        for ForceTightening { sensor, newtons } in &by.force_limits {
            match within.force_limits.iter_mut().find(|limit| limit.sensor == *sensor) {
                Some(limit) => limit.newtons = lower(limit.newtons, *newtons),
                None => wrong.push(format!("{} has no force limit for a sensor {sensor}", self.name)),
            }
        }
        within.command_age_s = lower_of(self.command_age_s, by.command_age_s);
        within.discontinuity_rad = lower_of(self.discontinuity_rad, by.discontinuity_rad);
        wrong.extend(within.contradictions());
        if wrong.is_empty() {
            Ok(within)
        } else {
            Err(EmbodimentError::Invalid { path: origin.into(), what: wrong.join("; ") })
        }
    }
}

impl Workspace {
    /// What is in both.
    pub(crate) fn intersected(&self, other: &Self) -> Self {
        Self {
            min: std::array::from_fn(|axis| higher(self.min[axis], other.min[axis])),
            max: std::array::from_fn(|axis| lower(self.max[axis], other.max[axis])),
        }
    }
}

impl std::fmt::Display for Workspace {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:?} to {:?}", self.min, self.max)
    }
}

/// The lower, or what is not a number if either is none: `f32::min` would take the other, and lose a limit.
fn lower(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::NAN } else { a.min(b) }
}

/// The stricter of two limits, either of which may be none.
fn lower_of(limit: Option<f32>, stricter: Option<f32>) -> Option<f32> {
    match (limit, stricter) {
        (Some(limit), Some(stricter)) => Some(lower(limit, stricter)),
        (limit, stricter) => limit.or(stricter),
    }
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
            JointTightening { name: name.into(), position, velocity: Some(velocity), ..JointTightening::default() };
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
            (by.command_age_s, by.discontinuity_rad) = (Some(age), Some(age));
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
            prop_assert!(within.discontinuity_rad <= robot.discontinuity_rad);
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
            (
                stricter("gripper", Some([2.0, 3.0]), 1.0),
                "joint gripper: nothing of [2, 3] is in the robot's [-0.17453, 1.74533]",
            ),
            (stricter("gripper", None, f32::NAN), "joint gripper: velocity, acceleration and effort must be above 0"),
            (
                stricter("tail", None, 1.0),
                "there is no joint tail, so101-tabletop has shoulder_pan, shoulder_lift, elbow_flex, wrist_flex, \
                 wrist_roll, gripper",
            ),
            (
                Tightening { workspace: Some(Workspace { min: [1.0; 3], max: [2.0; 3] }), ..Tightening::default() },
                "nothing of the workspace [1.0, 1.0, 1.0] to [2.0, 2.0, 2.0] is in the robot's [-0.1, -0.4, 0.002] to \
                 [0.45, 0.4, 0.5]",
            ),
        ] {
            let error = robot.tightened(&by, "site.toml").unwrap_err().to_string();
            assert_eq!(error, format!("site.toml: {expected}"));
        }
    }

    #[test]
    fn a_file_of_limits_is_read_or_refused_with_its_name_and_the_place() {
        let folder = std::env::temp_dir().join(format!("waza-limits-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let site = Tightening::open(&file("site.toml", "command_age_s = 1.0\n")).unwrap();
        assert_eq!(site, Tightening { command_age_s: Some(1.0), ..Tightening::default() });
        let with_model = "command_age_s = 1.0\n[model]\nunits = \"degrees\"\n";
        assert_eq!(Tightening::open(&file("model.toml", with_model)).unwrap(), site);
        for (path, expected) in [
            (folder.join("missing.toml"), "cannot read the limits in "),
            (file("long.toml", &"#".repeat(64 * 1024 + 1)), "long.toml is longer than 65536 bytes"),
            (file("typo.toml", "command_age_s = 1.0\nworkspce = 3\n"), "typo.toml: line 2: unknown field `workspce`"),
        ] {
            let error = Tightening::open(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
