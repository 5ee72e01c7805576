//! A package: from its folder to a checked component, and what everybody may know of it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use waza_model::About;
use waza_package::{
    Ability, Code, Compiler, Digest, Engines, Grants, Layout, Manifest, PackageError, Patience, Permission, SkillId,
    Source, VersionId, World, compiler, inspect,
};
use waza_robot::{Embodiment, Tightening, Within};
use waza_state::Cache;

use crate::error::RuntimeError;
use crate::model::abilities;

/// A version of a skill or a controller, as it was loaded.
pub(crate) struct Package {
    pub manifest: Manifest,
    /// Of its component.
    pub digest: Digest,
    pub grants: Grants,
    /// The limits of its manifest over this robot's; `None`: it has none.
    pub within: Option<Arc<Within>>,
    pub code: Code,
    pub world: World,
    /// Its component.
    pub path: PathBuf,
}

impl Package {
    pub fn id(&self) -> &SkillId {
        &self.manifest.id
    }

    /// Which version it is.
    pub fn version(&self) -> VersionId {
        VersionId { id: self.manifest.id.clone(), version: self.manifest.version.clone(), digest: self.digest }
    }

    /// The robot as this package may use it.
    pub fn robot<'a>(&'a self, whole: &'a Embodiment) -> &'a Embodiment {
        self.within.as_ref().map_or(whole, |within| within.embodiment())
    }

    pub fn summary(&self) -> SkillSummary {
        let Manifest { id, version, permissions, .. } = self.manifest.clone();
        SkillSummary { id, version, digest: self.digest, permissions }
    }
}

/// A loaded skill or controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkillSummary {
    /// `vendor/name`.
    pub id: SkillId,
    /// Of the skill.
    pub version: semver::Version,
    /// Of its component.
    pub digest: Digest,
    /// What it asks to be allowed.
    pub permissions: BTreeSet<Permission>,
}

/// What a package must fit.
pub(crate) struct Fits<'a> {
    pub robot: &'a Arc<Embodiment>,
    pub model: &'a About,
    /// Permissions that no package gets, whatever it declares.
    pub withheld: &'a BTreeSet<Permission>,
}

/// How the components of a host's packages are compiled, and where that is kept.
pub(crate) struct Workshop {
    pub engines: Engines,
    pub compiler: Compiler,
    pub cache: Cache,
}

impl Workshop {
    /// A component's code, compiled unless it was before.
    pub fn code(&self, source: &Source, patience: Patience) -> Result<(World, Code), PackageError> {
        if let Some(found) = self.cache.find(&self.engines, source.digest) {
            return Ok(found);
        }
        let unkept = |error: io::Error| {
            let what = format!("its code cannot be kept ({error}); make room, or choose another folder");
            PackageError::Compiler { path: source.path.clone(), what }
        };
        let mut draft = self.cache.draft().map_err(unkept)?;
        let world = self.compiler.compile(source, self.engines.limits, patience, draft.as_file_mut())?;
        let kept = self.cache.keep(&self.engines, source.digest, world, draft).map_err(unkept)?;
        let code = kept.map_err(|error| compiler::unusable(&error).of(&source.path))?;
        Ok((world, code))
    }
}

impl Package {
    /// Reads, compiles and checks the component that a manifest in `folder` names.
    pub fn open(
        folder: &Path,
        manifest: Manifest,
        layout: Layout,
        fits: &Fits<'_>,
        workshop: &Workshop,
        patience: Patience,
    ) -> Result<Self, RuntimeError> {
        let mismatch = |what: String| RuntimeError::Mismatch { id: manifest.id.clone(), what };
        let lacking = mismatches(&manifest, fits.robot, fits.model);
        if !lacking.is_empty() {
            return Err(mismatch(lacking.join("; ")));
        }
        let source = Source::open(folder, &manifest, layout)?;
        let (world, code) = workshop.code(&source, patience)?;
        let Source { digest, path, .. } = source;
        let engine = workshop.engines.of(world);
        inspect::world(engine, code.component()).map_err(|flaw| flaw.of(&path))?;
        inspect::check_imports(engine, code.component(), &manifest).map_err(|flaw| flaw.of(&path))?;
        let grants = Grants::new(&manifest.permissions, fits.withheld);
        let within = match &manifest.limits {
            none if *none == Tightening::default() => None,
            limits => Some(fits.robot.within(limits, "its [limits]").map_err(|error| mismatch(error.to_string()))?),
        };
        Ok(Self { manifest, digest, grants, within, code, world, path })
    }
}

/// What the skill needs or asks for, and robot and model lack; each with both sides. Empty: it fits.
fn mismatches(manifest: &Manifest, robot: &Embodiment, model: &About) -> Vec<String> {
    let parts: Vec<_> = robot.parts.iter().map(|it| it.name.as_str()).collect();
    let cameras: Vec<_> = robot.cameras.iter().map(|it| it.name.as_str()).collect();
    let sensors: Vec<_> = robot.sensors.iter().map(|it| it.name.as_str()).collect();
    let mut needed: Vec<(&str, &str, &[&str])> = Vec::new();
    needed.extend(manifest.needs.parts.iter().map(|it| ("part", it.as_str(), parts.as_slice())));
    needed.extend(manifest.needs.cameras.iter().map(|it| ("camera", it.as_str(), cameras.as_slice())));
    needed.extend(manifest.needs.sensors.iter().map(|it| ("sensor", it.as_str(), sensors.as_slice())));
    needed.extend(manifest.permissions.iter().filter_map(|permission| match permission {
        Permission::Motion(part) => Some(("part", part.as_str(), parts.as_slice())),
        Permission::Pixels(camera) => Some(("camera", camera.as_str(), cameras.as_slice())),
        _ => None,
    }));
    let mut lacking: BTreeSet<String> = needed
        .into_iter()
        .filter(|(_, name, has)| !has.contains(name))
        .map(|(kind, name, has)| format!("it needs the {kind} `{name}`, the robot {} has {}", robot.name, listed(has)))
        .collect();
    let able: Vec<_> = abilities(model).map(Ability::name).collect();
    for ability in manifest.needs.abilities.iter().filter(|it| !able.contains(&it.name())) {
        let able = listed(&able);
        lacking.insert(format!("it needs a model that can {ability}, {} can {able}", model.name));
    }
    lacking.extend(robot.tightened(&manifest.limits, "its [limits]").err().map(|error| error.to_string()));
    lacking.into_iter().collect()
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}
