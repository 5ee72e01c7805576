//! What an operator can grant a skill, and the set of what one was granted.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use waza_robot::Embodiment;

/// One power of a skill, spelled in `skill.toml` as it is displayed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub enum Permission {
    /// `sensing`: cameras, joints and sensors, without pixels.
    Sensing,
    /// `pixels:<camera>`: that camera's pixels.
    Pixels(String),
    /// `model`: asking the foundation model.
    Model,
    /// `motion:<part>`: moving that part and the parts inside it.
    Motion(String),
    /// `operator`: reporting to the person in charge, and asking them.
    Operator,
    /// `durable`: leaving checkpoints.
    Durable,
    /// `skills:<vendor/name>`: running that skill.
    Skills(String),
}

/// A permission that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no permission `{0}`; there are sensing, pixels:<camera>, model, motion:<part>, operator, durable and \
     skills:<vendor/name>"
)]
pub struct UnknownPermission(String);

impl FromStr for Permission {
    type Err = UnknownPermission;

    fn from_str(text: &str) -> Result<Self, UnknownPermission> {
        let (kind, of) = text.split_once(':').unwrap_or((text, ""));
        match (kind, of.is_empty()) {
            ("sensing", true) => Ok(Self::Sensing),
            ("model", true) => Ok(Self::Model),
            ("operator", true) => Ok(Self::Operator),
            ("durable", true) => Ok(Self::Durable),
            ("pixels", false) => Ok(Self::Pixels(of.into())),
            ("motion", false) => Ok(Self::Motion(of.into())),
            ("skills", false) => Ok(Self::Skills(of.into())),
            _ => Err(UnknownPermission(text.into())),
        }
    }
}

impl TryFrom<String> for Permission {
    type Error = UnknownPermission;

    fn try_from(text: String) -> Result<Self, UnknownPermission> {
        text.parse()
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sensing => formatter.write_str("sensing"),
            Self::Pixels(camera) => write!(formatter, "pixels:{camera}"),
            Self::Model => formatter.write_str("model"),
            Self::Motion(part) => write!(formatter, "motion:{part}"),
            Self::Operator => formatter.write_str("operator"),
            Self::Durable => formatter.write_str("durable"),
            Self::Skills(id) => write!(formatter, "skills:{id}"),
        }
    }
}

/// What a skill may do: what its manifest asks for, less what the operator withholds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grants(BTreeSet<Permission>);

/// The skill was not granted something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the permission `{0}` is not granted; it must stand in skill.toml and the operator must not withhold it")]
pub struct NotGranted(pub Permission);

impl Grants {
    /// What remains of `declared` without `withheld`.
    pub fn new(declared: &BTreeSet<Permission>, withheld: &BTreeSet<Permission>) -> Self {
        Self(declared.difference(withheld).cloned().collect())
    }

    /// # Errors
    /// [`NotGranted`] names the permission.
    pub fn check(&self, permission: &Permission) -> Result<(), NotGranted> {
        if self.0.contains(permission) { Ok(()) } else { Err(NotGranted(permission.clone())) }
    }

    /// Whether `part` may be moved: itself, or a part that contains it, is granted.
    ///
    /// # Errors
    /// [`NotGranted`] names `motion:<part>`.
    pub fn check_motion(&self, part: &str, embodiment: &Embodiment) -> Result<(), NotGranted> {
        let mut at = Some(part);
        while let Some(name) = at {
            if self.0.contains(&Permission::Motion(name.into())) {
                return Ok(());
            }
            at = embodiment.parts.iter().find(|it| it.name == name).and_then(|it| it.parent.as_deref());
        }
        Err(NotGranted(Permission::Motion(part.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_permission_reads_back_as_it_is_written() {
        for text in ["sensing", "pixels:front", "model", "motion:arm", "operator", "durable", "skills:waza/touch"] {
            assert_eq!(text.parse::<Permission>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_permission_without_its_object_or_with_one_too_many_is_refused() {
        for text in ["pixels", "pixels:", "motion", "model:big", "everything", ""] {
            assert!(text.parse::<Permission>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn a_grant_of_a_part_covers_the_parts_inside_it_and_no_others() {
        let robot = Embodiment::so101();
        let grants = |part: &str| Grants::new(&BTreeSet::from([Permission::Motion(part.into())]), &BTreeSet::new());
        assert!(grants("body").check_motion("gripper", &robot).is_ok());
        assert!(grants("arm").check_motion("arm", &robot).is_ok());
        assert!(grants("arm").check_motion("gripper", &robot).is_err());
        assert!(grants("arm").check_motion("body", &robot).is_err());
    }

    #[test]
    fn what_the_operator_withholds_is_not_granted_though_declared() {
        let declared = BTreeSet::from([Permission::Sensing, Permission::Model]);
        let grants = Grants::new(&declared, &BTreeSet::from([Permission::Model]));
        assert!(grants.check(&Permission::Sensing).is_ok());
        assert_eq!(grants.check(&Permission::Model), Err(NotGranted(Permission::Model)));
    }
}
