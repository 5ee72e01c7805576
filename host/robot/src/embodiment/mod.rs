//! The embodiment file: one description of a robot that the control loop, the safety filter, skills and models share.

pub(crate) mod capsules;
mod narrowing;

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::trajectory::jerk_average::LONGEST_WINDOW_S;
use crate::trajectory::limits::Limits;
pub use narrowing::{ForceTightening, JointTightening, Tightening, TighteningError, Within};

/// A robot, as its embodiment file describes it. Units are SI, frames follow ROS REP 103.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Embodiment {
    /// What a skill's manifest and a model card call this robot.
    pub name: String,
    /// Ticks of the control loop per second, 1 to 2000.
    pub control_hz: f32,
    /// The oldest observation that a play may act on, seconds; without, any.
    #[serde(default)]
    pub command_age_s: Option<f32>,
    /// How far out of reach a play's first rows may be before it is refused, rad; without, however far.
    #[serde(default)]
    pub discontinuity_rad: Option<f32>,
    /// In the order of every vector of joint values, action rows included.
    pub joints: Vec<Joint>,
    /// What can be leased: a tree, parents before their children.
    pub parts: Vec<Part>,
    /// What the robot sees with.
    #[serde(default)]
    pub cameras: Vec<Camera>,
    /// What else it senses.
    #[serde(default)]
    pub sensors: Vec<Sensor>,
    /// The meaning of an action chunk's rows.
    pub action: ActionSpace,
    /// Where the tool centre point may be.
    pub workspace: Workspace,
    /// Where no capsule may be.
    #[serde(default)]
    pub forbidden: Vec<Workspace>,
    /// The robot's shape.
    #[serde(default)]
    pub capsules: Vec<Capsule>,
    /// Names of two capsules each that may not touch.
    #[serde(default)]
    pub collisions: Vec<[String; 2]>,
    /// What may be felt.
    #[serde(default)]
    pub force_limits: Vec<ForceLimit>,
    /// What the host does when nothing feeds it.
    pub fallback: Fallback,
}

/// One actuated joint and its limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Joint {
    /// LeRobot's motor name.
    pub name: String,
    /// Lowest and highest position, rad.
    pub position: [f32; 2],
    /// Highest speed, rad/s.
    pub velocity: f32,
    /// Highest acceleration, rad/s².
    pub acceleration: f32,
    /// Highest jerk where nothing brakes, rad/s³, at least four times the acceleration a second; without, any.
    #[serde(default)]
    pub jerk: Option<f32>,
    /// Highest torque, N m.
    pub effort: f32,
    /// Where it is on the robot; needed once there are capsules.
    #[serde(default)]
    pub mount: Option<Mount>,
}

/// Where a revolute joint is, in the frame of the link that the joint before it carries, or in the base frame. Joints
/// with a mount form one chain, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Origin of the frame of the link that it carries, metres.
    pub origin: [f32; 3],
    /// What it turns about, a unit vector.
    pub axis: [f32; 3],
    /// The link's angle about the axis at joint position 0, rad.
    #[serde(default)]
    pub zero: f32,
}

/// All points within a radius of a segment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capsule {
    /// Unique.
    pub name: String,
    /// The joint whose link it is part of; without, of the base.
    #[serde(default)]
    pub link: Option<String>,
    /// One end of the segment in the link's frame, metres.
    pub from: [f32; 3],
    /// The other end.
    pub to: [f32; 3],
    /// Metres.
    pub radius: f32,
}

/// The most force that a sensor may feel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForceLimit {
    /// Its first three channels are the force that the surroundings exert on the link, in the link's frame, N.
    pub sensor: String,
    /// The joint whose link it is on.
    pub link: String,
    /// Of the force's magnitude.
    pub newtons: f32,
}

/// A part that can be leased. Its lease covers its own joints and those of its children.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Unique.
    pub name: String,
    /// The part that contains this one.
    #[serde(default)]
    pub parent: Option<String>,
    /// Names of this part's own joints.
    pub joints: Vec<String>,
}

/// A colour camera.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Camera {
    /// LeRobot's camera key: `observation.images.<name>`.
    pub name: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Frames per second.
    pub rate_hz: f32,
}

/// A sensor that yields a vector of samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sensor {
    /// Unique.
    pub name: String,
    /// One name a channel, in the order of a sample's values.
    pub channels: Vec<String>,
    /// Of the values, in SI.
    pub unit: String,
    /// Samples per second.
    pub rate_hz: f32,
}

/// What a row of an action chunk means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionSpace {
    /// What the values are.
    pub kind: ActionKind,
    /// Rows per second, 0.1 to as many as there are ticks.
    pub rate_hz: f32,
}

/// The kinds of action that the control loop executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionKind {
    /// Absolute joint positions, rad, in the joints' order.
    JointPosition,
}

/// An axis-aligned box in the base frame, metres.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workspace {
    /// Lowest x, y, z.
    pub min: [f32; 3],
    /// Highest x, y, z.
    pub max: [f32; 3],
}

/// What the host does when nothing feeds it or something is wrong. Never "zeros".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "kind", rename_all = "snake_case")]
pub enum Fallback {
    /// Position-controlled robots stay where they are.
    Hold,
}

/// Why an embodiment file was refused.
#[derive(Debug, thiserror::Error)]
pub enum EmbodimentError {
    /// The file could not be read.
    #[error("cannot read the embodiment file {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML of the expected form.
    #[error("{path}: not an embodiment file: {source}")]
    Parse {
        /// The file.
        path: String,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// The file's values contradict each other.
    #[error("{path}: {what}")]
    Invalid {
        /// The file.
        path: String,
        /// Every contradiction found.
        what: String,
    },
}

/// The filter looks tick by tick: a thinner box than what a fast hand crosses in one could be passed unseen, metres.
const THINNEST_BOX_M: f32 = 0.02;

/// Ticks and rows are counted: what is far slower than any robot is a slip, and lasts longer than clocks can say.
const SLOWEST_CONTROL_HZ: f32 = 1.0;
const SLOWEST_ACTION_HZ: f32 = 0.1;

const SO101: &str = include_str!("../../embodiments/so101.toml");

impl Joint {
    /// What it can do in whole ticks.
    pub(crate) fn limits(&self, control_hz: f32) -> Limits {
        let hz = f64::from(control_hz);
        Limits {
            low: self.position[0].into(),
            high: self.position[1].into(),
            speed: f64::from(self.velocity) / hz,
            change: f64::from(self.acceleration) / (hz * hz),
            effort: self.effort.into(),
            jerk: self.jerk.map(|jerk| f64::from(jerk) / hz.powi(3)),
        }
    }
}

impl Embodiment {
    /// The simulated SO-101-like tabletop arm that ships with Waza.
    pub fn so101() -> Self {
        #[allow(clippy::expect_used)] // bundled and covered by a test
        Self::parse(SO101, "so101.toml").expect("the bundled embodiment file is valid")
    }

    /// Reads and checks an embodiment file.
    ///
    /// # Errors
    /// [`EmbodimentError`] names the file and everything that is wrong with it.
    pub fn open(path: &Path) -> Result<Self, EmbodimentError> {
        let shown = path.display().to_string();
        let text =
            std::fs::read_to_string(path).map_err(|source| EmbodimentError::Read { path: shown.clone(), source })?;
        Self::parse(&text, &shown)
    }

    /// Checks an embodiment file's text; `path` is named in errors.
    ///
    /// # Errors
    /// As [`Embodiment::open`].
    pub fn parse(text: &str, path: &str) -> Result<Self, EmbodimentError> {
        let this: Self = toml::from_str(text)
            .map_err(|source| EmbodimentError::Parse { path: path.into(), source: Box::new(source) })?;
        let wrong = this.contradictions();
        if wrong.is_empty() {
            Ok(this)
        } else {
            Err(EmbodimentError::Invalid { path: path.into(), what: wrong.join("; ") })
        }
    }

    /// Where a joint stands in every vector of joint values.
    pub fn joint_index(&self, name: &str) -> Option<usize> {
        self.joints.iter().position(|joint| joint.name == name)
    }

    /// The indices of all joints that a lease of `part` covers, or `None` if there is no such part.
    pub fn part_joints(&self, part: &str) -> Option<BTreeSet<usize>> {
        let own = self.parts.iter().find(|candidate| candidate.name == part)?;
        let mut joints: BTreeSet<usize> = own.joints.iter().filter_map(|name| self.joint_index(name)).collect();
        for child in self.parts.iter().filter(|child| child.parent.as_deref() == Some(part)) {
            joints.extend(self.part_joints(&child.name)?);
        }
        Some(joints)
    }

    pub(crate) fn contradictions(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let positive = |value: f32| value.is_finite() && value > 0.0;
        if !(SLOWEST_CONTROL_HZ..=2000.0).contains(&self.control_hz) {
            wrong.push(format!("control_hz is {}, it must lie in [{SLOWEST_CONTROL_HZ}, 2000]", self.control_hz));
        }
        if !(SLOWEST_ACTION_HZ..=self.control_hz).contains(&self.action.rate_hz) {
            let rate = self.action.rate_hz;
            wrong.push(format!("action.rate_hz is {rate}, it must lie in [{SLOWEST_ACTION_HZ}, control_hz]"));
        }
        if self.command_age_s.is_some_and(|age| !positive(age)) {
            wrong.push("command_age_s must be above 0".into());
        }
        if self.discontinuity_rad.is_some_and(|beyond| !positive(beyond)) {
            wrong.push("discontinuity_rad must be above 0".into());
        }
        if self.joints.is_empty() {
            wrong.push("joints is empty".into());
        }
        for joint in &self.joints {
            let [low, high] = joint.position;
            if !(low.is_finite() && high.is_finite() && low < high) {
                wrong.push(format!("joint {}: position limits [{low}, {high}] are not ordered", joint.name));
            }
            if ![joint.velocity, joint.acceleration, joint.effort].into_iter().all(positive) {
                wrong.push(format!("joint {}: velocity, acceleration and effort must be above 0", joint.name));
            }
        }
        for (joint, jerk) in self.joints.iter().filter_map(|joint| Some((joint, joint.jerk?))) {
            let least = 2.0 * joint.acceleration / LONGEST_WINDOW_S;
            if !(jerk.is_finite() && jerk >= least) {
                wrong.push(format!("joint {}: jerk is {jerk} rad/s³, it must be at least {least}", joint.name));
            }
        }
        let mut seen = BTreeSet::new();
        for (index, part) in self.parts.iter().enumerate() {
            if !seen.insert(part.name.as_str()) {
                wrong.push(format!("part {} is described twice", part.name));
            }
            if let Some(parent) = &part.parent
                && !self.parts[..index].iter().any(|earlier| &earlier.name == parent)
            {
                wrong.push(format!("part {}: its parent {parent} must be described before it", part.name));
            }
            for joint in part.joints.iter().filter(|joint| self.joint_index(joint).is_none()) {
                wrong.push(format!("part {}: there is no joint {joint}", part.name));
            }
        }
        for camera in &self.cameras {
            if !(1..=4096).contains(&camera.width) || !(1..=4096).contains(&camera.height) || !positive(camera.rate_hz)
            {
                wrong.push(format!("camera {}: sides must lie in 1..=4096 and rate_hz above 0", camera.name));
            }
        }
        for sensor in &self.sensors {
            if sensor.channels.is_empty() || !positive(sensor.rate_hz) {
                wrong.push(format!("sensor {}: it needs a channel and a rate_hz above 0", sensor.name));
            }
        }
        let unique = |names: Vec<&str>| names.iter().collect::<BTreeSet<_>>().len() == names.len();
        if !unique(self.joints.iter().map(|joint| joint.name.as_str()).collect()) {
            wrong.push("two joints have one name".into());
        }
        if !unique(self.cameras.iter().map(|camera| camera.name.as_str()).collect()) {
            wrong.push("two cameras have one name".into());
        }
        if !unique(self.sensors.iter().map(|sensor| sensor.name.as_str()).collect()) {
            wrong.push("two sensors have one name".into());
        }
        self.contradictions_of_the_body(&mut wrong);
        for limit in &self.force_limits {
            let ForceLimit { sensor, link, newtons } = limit;
            if !self.sensors.iter().any(|it| it.name == *sensor && it.channels.len() >= 3) {
                wrong.push(format!("force_limits: there is no sensor {sensor} of at least three channels"));
            }
            if self.joint_index(link).is_none() {
                wrong.push(format!("force_limits: there is no joint {link}"));
            }
            if !positive(*newtons) {
                wrong.push(format!("force_limits: newtons is {newtons} for {sensor}, it must be above 0"));
            }
        }
        if !unique(self.capsules.iter().map(|capsule| capsule.name.as_str()).collect()) {
            wrong.push("two capsules have one name".into());
        }
        if self
            .workspace
            .min
            .iter()
            .zip(self.workspace.max)
            .any(|(low, high)| !(low.is_finite() && *low < high && high.is_finite()))
        {
            wrong.push("workspace.min must lie below workspace.max on every axis".into());
        }
        wrong
    }

    fn contradictions_of_the_body(&self, wrong: &mut Vec<String>) {
        if !(self.capsules.is_empty() && self.force_limits.is_empty()) {
            for joint in &self.joints {
                let length = joint.mount.map(|mount| mount.axis.iter().map(|it| it * it).sum::<f32>().sqrt());
                if !length.is_some_and(|length| (length - 1.0).abs() < 1e-3) {
                    wrong.push(format!(
                        "joint {}: where there are capsules or force limits, it needs a mount with a unit axis",
                        joint.name
                    ));
                }
            }
        }
        for (joint, mount) in self.joints.iter().filter_map(|joint| Some((joint, joint.mount?))) {
            if !mount.origin.iter().chain([&mount.zero]).all(|value| value.is_finite()) {
                wrong.push(format!("joint {}: its mount's origin and zero must be finite", joint.name));
            }
        }
        for capsule in &self.capsules {
            let mut numbers = capsule.from.iter().chain(&capsule.to).chain([&capsule.radius]);
            if !(capsule.radius > 0.0 && numbers.all(|value| value.is_finite())) {
                wrong.push(format!("capsule {}: its ends and radius must be finite, the radius above 0", capsule.name));
            }
            if let Some(link) = capsule.link.as_deref().filter(|link| self.joint_index(link).is_none()) {
                wrong.push(format!("capsule {}: there is no joint {link}", capsule.name));
            }
        }
        let known = |name: &str| self.capsules.iter().any(|capsule| capsule.name == name);
        for name in self.collisions.iter().flatten().filter(|name| !known(name)) {
            wrong.push(format!("collisions: there is no capsule {name}"));
        }
        if !self.forbidden.is_empty() && self.capsules.is_empty() {
            wrong.push("forbidden boxes are kept by capsules, and there are none".into());
        }
        for place in &self.forbidden {
            if !place.min.iter().zip(place.max).all(|(low, high)| low.is_finite() && high - low >= THINNEST_BOX_M) {
                wrong.push(format!("forbidden: every side of a box must measure at least {THINNEST_BOX_M} m"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_embodiment_has_the_so101s_joints_in_lerobots_order() {
        let robot = Embodiment::so101();
        let names: Vec<_> = robot.joints.iter().map(|joint| joint.name.as_str()).collect();
        assert_eq!(names, ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]);
    }

    #[test]
    fn a_lease_of_a_part_covers_its_children() {
        let robot = Embodiment::so101();
        assert_eq!(robot.part_joints("body").unwrap().len(), 6);
        assert_eq!(robot.part_joints("gripper").unwrap(), BTreeSet::from([5]));
        assert_eq!(robot.part_joints("leg"), None);
    }

    #[test]
    fn every_contradiction_is_reported_at_once() {
        let text = SO101
            .replace("control_hz = 100.0", "control_hz = 0.0")
            .replace("parent = \"body\"\njoints = [\"gripper\"]", "parent = \"torso\"\njoints = [\"claw\"]");
        let error = Embodiment::parse(&text, "bad.toml").unwrap_err().to_string();
        for expected in ["bad.toml", "control_hz is 0", "parent torso", "no joint claw"] {
            assert!(error.contains(expected), "{expected} is missing in: {error}");
        }
    }

    #[test]
    fn a_place_that_is_no_number_is_refused_because_nothing_there_would_ever_be_seen_to_touch() {
        for (number, slip) in [
            ("origin = [0.0, 0.0, 0.064]", "origin = [0.0, nan, 0.064]"),
            ("zero = -0.339837", "zero = nan"),
            ("radius = 0.05", "radius = inf"),
        ] {
            assert!(SO101.contains(number), "{number}");
            let error = Embodiment::parse(&SO101.replacen(number, slip, 1), "nan.toml").unwrap_err().to_string();
            assert!(error.contains("must be finite"), "{error}");
        }
    }

    #[test]
    fn a_rate_that_no_clock_can_keep_is_refused() {
        for (rate, slip) in [("control_hz = 100.0", "control_hz = 1e-25"), ("rate_hz = 10.0", "rate_hz = 1e-26")] {
            assert!(SO101.contains(rate), "{rate}");
            let error = Embodiment::parse(&SO101.replace(rate, slip), "slow.toml").unwrap_err().to_string();
            assert!(error.contains("it must lie in ["), "{error}");
        }
    }
}
