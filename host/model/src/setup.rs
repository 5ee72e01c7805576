//! What is said of a policy besides its files, and the robot that it is to move: whose joints, in which units, how fast,
//! through which cameras.

use std::fmt;
use std::str::FromStr;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// What a checkpoint is opened for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Setup {
    /// The robot that it is to move. Without one its numbers stay in the units of the training data.
    pub robot: Option<RobotSide>,
    /// What is said of it on the command line and in the site file. It goes before what its files say.
    pub said: Said,
}

/// A robot, as far as a policy has to do with it.
#[derive(Clone, Debug, PartialEq)]
pub struct RobotSide {
    /// What a card calls it.
    pub name: String,
    /// In the order of states and actions.
    pub joints: Vec<Joint>,
    /// What it sees with.
    pub cameras: Vec<String>,
    /// Rows that it plays a second where nothing is said.
    pub rate_hz: f32,
}

/// A joint that turns.
#[derive(Clone, Debug, PartialEq)]
pub struct Joint {
    /// LeRobot's motor name.
    pub name: String,
    /// Lowest and highest position, rad: what 0 and 100 percent are.
    pub travel_rad: [f32; 2],
}

/// What may be said of a policy in its card, in the site file and on the command line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Said {
    /// Of its states and actions.
    pub units: Option<Units>,
    /// Actions of a chunk per second, 0.1 to 1000.
    pub action_rate_hz: Option<f32>,
    /// From what the policy calls a camera to what the robot calls it.
    pub cameras: IndexMap<String, String>,
    /// Which data set's statistics it normalises by, where its files have those of several.
    pub statistics: Option<String>,
}

impl Said {
    /// This, and what `other` says besides.
    pub fn or(self, other: Self) -> Self {
        Self {
            units: self.units.or(other.units),
            action_rate_hz: self.action_rate_hz.or(other.action_rate_hz),
            cameras: other.cameras.into_iter().chain(self.cameras).collect(),
            statistics: self.statistics.or(other.statistics),
        }
    }

    /// The rate, if it is in bounds.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn rate_hz(&self) -> Result<Option<f32>, String> {
        match self.action_rate_hz {
            Some(rate) if !is_rate(rate) => Err(format!("`action_rate_hz` is {rate}, must be 0.1 to 1000")),
            rate => Ok(rate),
        }
    }
}

pub(crate) fn is_rate(rate_hz: f32) -> bool {
    (0.1..=1000.0).contains(&rate_hz)
}

/// What one number of a state or an action is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// rad, as the robot has it.
    Rad,
    /// Degrees from the same zero.
    Degrees,
    /// 0 to 100 of the joint's travel.
    Percent,
    /// -100 to 100 of the joint's travel.
    SignedPercent,
}

impl Unit {
    const ALL: [(&str, Self); 4] = [
        ("rad", Self::Rad),
        ("degrees", Self::Degrees),
        ("percent", Self::Percent),
        ("signed-percent", Self::SignedPercent),
    ];

    /// How a position in rad comes of a number: times the first, plus the second.
    fn to_rad(self, [low, high]: [f32; 2]) -> (f32, f32) {
        match self {
            Self::Rad => (1.0, 0.0),
            Self::Degrees => (1f32.to_radians(), 0.0),
            Self::Percent => ((high - low) / 100.0, low),
            Self::SignedPercent => ((high - low) / 200.0, (low + high) / 2.0),
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(Self::ALL.iter().find(|(_, unit)| unit == self).map_or("", |(name, _)| name))
    }
}

impl FromStr for Unit {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, unit)| *unit).ok_or_else(|| {
            let name: String = name.chars().take(40).collect();
            format!("`{name}` is no unit, they are {}", Self::ALL.map(|(name, _)| name).join(", "))
        })
    }
}

/// The units of a policy's states and actions: one for all numbers, or one each.
///
/// One for all is LeRobot's way for its arms: where the others are in degrees or -100 to 100, the `gripper` is 0 to 100.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Spelled", into = "Spelled")]
pub enum Units {
    /// Of all but the gripper.
    All(Unit),
    /// Of each number, in order.
    Each(Vec<Unit>),
}

/// How files spell units.
#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Spelled {
    One(String),
    Many(Vec<String>),
}

impl Units {
    /// Of one joint's numbers; none if there are fewer.
    pub fn of(&self, index: usize, joint: &str) -> Option<Unit> {
        match self {
            Self::All(Unit::Degrees | Unit::SignedPercent) if joint == "gripper" => Some(Unit::Percent),
            Self::All(unit) => Some(*unit),
            Self::Each(units) => units.get(index).copied(),
        }
    }
}

impl FromStr for Units {
    type Err = String;

    /// A unit, or one each with commas between.
    fn from_str(names: &str) -> Result<Self, String> {
        match names.contains(',') {
            true => Ok(Self::Each(names.split(',').map(|name| name.trim().parse()).collect::<Result<_, _>>()?)),
            false => Ok(Self::All(names.trim().parse()?)),
        }
    }
}

impl TryFrom<Spelled> for Units {
    type Error = String;

    fn try_from(spelled: Spelled) -> Result<Self, String> {
        match spelled {
            Spelled::One(name) => name.parse(),
            Spelled::Many(names) => Ok(Self::Each(names.iter().map(|name| name.parse()).collect::<Result<_, _>>()?)),
        }
    }
}

impl From<Units> for Spelled {
    fn from(units: Units) -> Self {
        match units {
            Units::All(unit) => Self::One(unit.to_string()),
            Units::Each(units) => Self::Many(units.iter().map(Unit::to_string).collect()),
        }
    }
}

/// From a policy's units to the robot's and back, number by number.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Conversion {
    /// A position in rad is a number times the first, plus the second.
    to_rad: Vec<(f32, f32)>,
}

impl Conversion {
    pub fn new(units: &Units, joints: &[Joint]) -> Self {
        let to_rad = joints.iter().enumerate().map(|(index, joint)| {
            let unit = units.of(index, &joint.name).unwrap_or(Unit::Rad);
            unit.to_rad(joint.travel_rad)
        });
        Self { to_rad: to_rad.collect() }
    }

    /// The policy's units to rad.
    pub fn to_robot(&self, values: &mut [f32]) {
        for (value, (scale, offset)) in values.iter_mut().zip(&self.to_rad) {
            *value = *value * scale + offset;
        }
    }

    /// Rad to the policy's units.
    pub fn to_policy(&self, values: &mut [f32]) {
        for (value, (scale, offset)) in values.iter_mut().zip(&self.to_rad) {
            *value = (*value - offset) / scale;
        }
    }

    /// A mean and a deviation in the policy's units, in rad.
    pub fn spread(&self, index: usize, (mean, deviation): (f32, f32)) -> (f32, f32) {
        let (scale, offset) = self.to_rad.get(index).copied().unwrap_or((1.0, 0.0));
        (mean * scale + offset, deviation * scale.abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joints() -> Vec<Joint> {
        let joint = |name: &str, travel_rad| Joint { name: name.into(), travel_rad };
        vec![joint("elbow", [-1.0, 3.0]), joint("gripper", [-0.5, 1.5])]
    }

    #[test]
    fn numbers_in_any_unit_are_positions_in_rad_and_come_back() {
        for (units, numbers, rad) in [
            ("rad", [0.5, 0.25], [0.5, 0.25]),
            ("degrees", [90.0, 50.0], [std::f32::consts::FRAC_PI_2, 0.5]),
            ("signed-percent", [50.0, 25.0], [2.0, 0.0]),
            ("percent", [0.0, 100.0], [-1.0, 1.5]),
            ("degrees,degrees", [-180.0, 90.0], [-std::f32::consts::PI, std::f32::consts::FRAC_PI_2]),
        ] {
            let conversion = Conversion::new(&units.parse().unwrap(), &joints());
            let mut values = numbers;
            conversion.to_robot(&mut values);
            assert!(values.iter().zip(rad).all(|(a, b)| (a - b).abs() < 1e-6), "{units}: {values:?}");
            conversion.to_policy(&mut values);
            assert!(values.iter().zip(numbers).all(|(a, b)| (a - b).abs() < 1e-4), "{units}: {values:?}");
        }
    }

    #[test]
    fn units_are_read_as_they_are_written_and_others_are_refused_with_those_there_are() {
        for text in [r#""degrees""#, r#"["rad","percent"]"#] {
            let units: Units = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&units).unwrap(), text);
        }
        let error = serde_json::from_str::<Units>(r#""furlongs""#).unwrap_err().to_string();
        assert!(error.contains("`furlongs` is no unit") && error.contains("degrees"), "{error}");
    }

    #[test]
    fn what_is_said_first_goes_before_what_is_said_later() {
        let said = |units: &str, robot: &str| Said {
            units: Some(units.parse().unwrap()),
            cameras: IndexMap::from([("camera1".to_owned(), robot.to_owned())]),
            ..Said::default()
        };
        let both = said("degrees", "front").or(Said { action_rate_hz: Some(30.0), ..said("rad", "wrist") });
        assert_eq!(both, Said { action_rate_hz: Some(30.0), ..said("degrees", "front") });
    }
}
