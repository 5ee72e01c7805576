//! Which of the contract's worlds a component is of, and what it imports, against what its manifest asks for.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

use crate::error::Flaw;
use crate::manifest::permission::Permission;
use crate::manifest::{Manifest, WIT};

/// Which interfaces of the contract a skill may import.
const INTERFACES: [(&str, Needs); 9] = [
    ("types", Needs::Nothing),
    ("clock", Needs::Nothing),
    ("actions", Needs::Nothing),
    ("sensing", Needs::One(Permission::Sensing)),
    ("model", Needs::One(Permission::Model)),
    ("operator", Needs::One(Permission::Operator)),
    ("durable", Needs::One(Permission::Durable)),
    ("motion", Needs::Any("motion:<part>", |it| matches!(it, Permission::Motion(_)))),
    ("skills", Needs::Any("skills:<vendor/name>", |it| matches!(it, Permission::Skills(_)))),
];

enum Needs {
    Nothing,
    One(Permission),
    Any(&'static str, fn(&Permission) -> bool),
}

/// Whether a manifest declares what an interface of the contract needs; if not, the permission to add.
fn undeclared(interface: &str, manifest: &Manifest) -> Option<String> {
    let (_, needs) = INTERFACES.iter().find(|(name, _)| *name == interface)?;
    let declared = &manifest.permissions;
    match needs {
        Needs::Nothing => None,
        Needs::One(permission) => (!declared.contains(permission)).then(|| permission.to_string()),
        Needs::Any(spelled, matches) => (!declared.iter().any(matches)).then(|| (*spelled).into()),
    }
}

/// The interfaces of the contract that a manifest declares what is needed for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interfaces(BTreeSet<&'static str>);

impl Interfaces {
    /// Of a manifest.
    pub fn of(manifest: &Manifest) -> Self {
        let declared = INTERFACES.iter().filter(|(name, _)| undeclared(name, manifest).is_none());
        Self(declared.map(|(name, _)| *name).collect())
    }

    /// Every one.
    pub fn all() -> Self {
        Self(INTERFACES.iter().map(|(name, _)| *name).collect())
    }

    /// Whether an interface is among them, by its name in the contract.
    pub fn contains(&self, interface: &str) -> bool {
        self.0.contains(interface)
    }
}

/// What of WASI a host links: without files, sockets, arguments and environment.
const WASI: [&str; 4] = ["wasi:cli/", "wasi:clocks/", "wasi:io/", "wasi:random/"];

/// How the name of the interface begins that a controller exports.
pub(crate) const CONTROL: &str = "waza:skill/control@";

/// A world of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum World {
    /// Skills, which run beside the control loop.
    Skill,
    /// Controllers, which it calls.
    Controller,
}

impl World {
    /// By its name in the contract.
    pub fn name(self) -> &'static str {
        match self {
            Self::Skill => "skill",
            Self::Controller => "controller",
        }
    }
}

impl fmt::Display for World {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The world of a component.
///
/// # Errors
/// [`Flaw`] if it is of none, or of another version's.
pub fn world(engine: &Engine, component: &Component) -> Result<World, Flaw> {
    let this = component.component_type();
    let has = |interface: &str, functions: &[&str], world| {
        let name = format!("waza:skill/{interface}@{WIT}");
        let Some((_, item)) = this.exports(engine).find(|(export, _)| *export == name) else { return Ok(None) };
        let ComponentItem::ComponentInstance(instance) = item.ty else { return Ok(None) };
        let missing = functions.iter().find(|function| {
            let found = instance.exports(engine).find(|(export, _)| *export == **function);
            !matches!(found, Some((_, item)) if matches!(item.ty, ComponentItem::ComponentFunc(_)))
        });
        match missing {
            Some(function) => Err(Flaw::MissingExport { missing: format!("{name}#{function}"), world }),
            None => Ok(Some(())),
        }
    };
    if has("task", &["run"], World::Skill)?.is_some() {
        return Ok(World::Skill);
    }
    if has("control", &["start", "tick", "state"], World::Controller)?.is_some() {
        return Ok(World::Controller);
    }
    let foreign = this.exports(engine).find(|(export, _)| export.starts_with("waza:skill/"));
    Err(match foreign {
        Some((found, _)) => Flaw::WrongWit(found.into()),
        None => Flaw::MissingExport { missing: format!("waza:skill/task@{WIT}"), world: World::Skill },
    })
}

/// Refuses a component that imports what its manifest does not ask for, or what no skill gets.
///
/// # Errors
/// [`Flaw`] names the import.
pub fn check_imports(engine: &Engine, component: &Component, manifest: &Manifest) -> Result<(), Flaw> {
    let this = component.component_type();
    for (import, item) in this.imports(engine) {
        let forbidden = |what: &str| Err(Flaw::Forbidden { import: import.into(), what: what.into() });
        if let Some(of_ours) = import.strip_prefix("waza:skill/") {
            let (interface, version) = of_ours.split_once('@').unwrap_or((of_ours, ""));
            if version != WIT.to_string() {
                return Err(Flaw::WrongWit(import.into()));
            }
            if !INTERFACES.iter().any(|(name, _)| *name == interface) {
                return forbidden("is no interface of the contract; build it against the released WIT");
            }
            // An interface of which only types are used gives no power.
            let calls = match &item.ty {
                ComponentItem::ComponentInstance(instance) => {
                    instance.exports(engine).any(|(_, item)| matches!(item.ty, ComponentItem::ComponentFunc(_)))
                }
                _ => true,
            };
            if calls && let Some(permission) = undeclared(interface, manifest) {
                return Err(Flaw::Undeclared { import: import.into(), permission });
            }
        } else if import.starts_with("wasi:filesystem/") {
            return forbidden("no skill gets: there are no files; keep data in the component or in checkpoints");
        } else if import.starts_with("wasi:sockets/") || import.starts_with("wasi:http/") {
            return forbidden("no skill gets: there is no network; ask the host's model or another skill instead");
        } else if !WASI.iter().any(|has| import.starts_with(has)) {
            return forbidden("this host does not know; a skill imports waza:skill and a little of WASI 0.2");
        }
    }
    Ok(())
}
