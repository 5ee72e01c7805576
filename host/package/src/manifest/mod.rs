//! `skill.toml`: what a skill is, needs, and asks to be allowed.

pub mod permission;

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use waza_robot::Tightening;

use crate::ability::Ability;
use crate::ids::SkillId;
use crate::manifest::permission::Permission;
use crate::source::{lies_inside, open_regular};

/// The name of a skill package's manifest.
pub const FILE: &str = "skill.toml";

/// The version of the contract that this host speaks.
pub const WIT: semver::Version = semver::Version::new(0, 1, 0);

const LONGEST_BYTES: u64 = 64 * 1024;

/// A skill's manifest.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// `vendor/name`.
    pub id: SkillId,
    /// Of the skill.
    pub version: semver::Version,
    /// Of the contract that the component was built for.
    pub wit: semver::Version,
    /// The component, relative to the manifest.
    pub component: PathBuf,
    /// What it asks to be allowed.
    #[serde(default)]
    pub permissions: BTreeSet<Permission>,
    /// What robot and model must have.
    #[serde(default)]
    pub needs: Needs,
    /// Stricter limits than the robot's, for everything that it plays.
    #[serde(default)]
    pub limits: Tightening,
}

/// What a skill cannot work without.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Needs {
    /// Parts of the embodiment.
    pub parts: Vec<String>,
    /// Cameras of the embodiment.
    pub cameras: Vec<String>,
    /// Sensors of the embodiment.
    pub sensors: Vec<String>,
    /// Abilities of the model.
    pub abilities: Vec<Ability>,
}

/// Why a manifest was refused. Each message is one line with the place and a way out.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file could not be read.
    #[error("cannot read {path}: {source}; a skill package is a folder with a skill.toml in it", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A link leads elsewhere.
    #[error("{path} leads out of its package; a package's files lie inside its folder, so copy it there", path = .path.display())]
    Outside {
        /// The file.
        path: PathBuf,
    },
    /// The file is far larger than any manifest.
    #[error("{path} has {bytes} bytes, a manifest has at most {LONGEST_BYTES}; is it really a skill.toml?", path = .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The file is not TOML of the expected form.
    #[error("{path}: {what}", path = .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why, in one line.
        what: String,
    },
    /// The skill was built for a contract that this host does not speak.
    #[error("{path}: {id} is built for version {wit} of the contract, this host speaks {WIT}; build it against wit/v{WIT}", path = .path.display())]
    WrongWit {
        /// The file.
        path: PathBuf,
        /// The skill.
        id: SkillId,
        /// Its contract's version.
        wit: semver::Version,
    },
}

impl Manifest {
    /// Reads and checks the manifest in a skill package.
    ///
    /// # Errors
    /// [`ManifestError`] names the file and what is wrong with it.
    pub fn open(folder: &Path) -> Result<Self, ManifestError> {
        Self::parse(&text(folder)?, &folder.join(FILE))
    }

    /// Checks a manifest's text; `path` is named in errors.
    ///
    /// # Errors
    /// As [`Manifest::open`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ManifestError> {
        let this: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            let what = format!("line {line}: {}", error.message().replace('\n', " "));
            ManifestError::Parse { path: path.into(), what }
        })?;
        if this.wit != WIT {
            return Err(ManifestError::WrongWit { path: path.into(), id: this.id, wit: this.wit });
        }
        Ok(this)
    }
}

/// The text of the manifest in a skill package, unchecked.
///
/// # Errors
/// [`ManifestError`] if it cannot be read, is too long or lies elsewhere.
pub fn text(folder: &Path) -> Result<String, ManifestError> {
    let path = folder.join(FILE);
    let unreadable = |source| ManifestError::Read { path: path.clone(), source };
    if !lies_inside(folder, Path::new(FILE)).map_err(unreadable)? {
        return Err(ManifestError::Outside { path });
    }
    let file = open_regular(&path).map_err(unreadable)?;
    let bytes = file.metadata().map_err(unreadable)?.len();
    if bytes > LONGEST_BYTES {
        return Err(ManifestError::TooLarge { path, bytes });
    }
    let mut text = Vec::with_capacity(bytes as usize);
    // It may grow while it is read, and some files of the system say that they are empty.
    file.take(LONGEST_BYTES + 1).read_to_end(&mut text).map_err(unreadable)?;
    let bytes = text.len() as u64;
    if bytes > LONGEST_BYTES {
        return Err(ManifestError::TooLarge { path, bytes });
    }
    String::from_utf8(text).map_err(|error| unreadable(io::Error::other(error)))
}
