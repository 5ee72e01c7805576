//! From a file to a component of one of the contract's worlds, with its imports checked against the manifest.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

use crate::error::RuntimeError;
use crate::manifest::permission::Permission;
use crate::manifest::{Manifest, WIT};
use crate::package::cache::Cache;
use crate::package::code::Code;
use crate::package::engines::Engines;

const MOST_BYTES: u64 = 64 << 20;

/// The SHA-256 of a component's file: what makes two builds of one version two things. Displays as 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of a file's bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let byte = |at: usize| text.get(2 * at..2 * at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        let mut digest = [0; 32];
        for (at, place) in digest.iter_mut().enumerate() {
            *place = byte(at).ok_or_else(|| format!("`{text}` is no SHA-256 of 64 hexadecimal digits"))?;
        }
        if text.len() == 64 { Ok(Self(digest)) } else { Err(format!("`{text}` has more than 64 digits")) }
    }
}

/// A component by the world that it is of.
pub(crate) enum Loaded {
    Skill(Code),
    Controller(Code),
}

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
pub(crate) struct Interfaces(BTreeSet<&'static str>);

impl Interfaces {
    pub fn of(manifest: &Manifest) -> Self {
        let declared = INTERFACES.iter().filter(|(name, _)| undeclared(name, manifest).is_none());
        Self(declared.map(|(name, _)| *name).collect())
    }

    pub fn contains(&self, interface: &str) -> bool {
        self.0.contains(interface)
    }
}

/// What of WASI is there. Linked as described in [`crate::imports::wasi`].
const WASI: [&str; 4] = ["wasi:cli/", "wasi:clocks/", "wasi:io/", "wasi:random/"];

impl Loaded {
    /// Reads, compiles and checks the component that a manifest in `folder` names; with the digest of its bytes.
    pub fn open(
        engines: &Engines,
        cache: Option<&Cache>,
        folder: &Path,
        manifest: &Manifest,
    ) -> Result<(Self, Digest), RuntimeError> {
        let path = folder.join(&manifest.component);
        let bytes = read(&path)?;
        let digest = Digest::of(&bytes);
        let compiled = |engine: &Engine| -> Result<Code, RuntimeError> {
            if let Some(component) = cache.and_then(|cache| cache.find(engine, digest)) {
                return Ok(component);
            }
            crate::package::inspect::check(&bytes, &path, engines.memory_bytes, engines.table_elements)?;
            let component = compile(engine, &bytes, &path)?;
            Ok(match cache {
                Some(cache) => cache.keep(engine, digest, component),
                None => Code::Made(component),
            })
        };
        // Exports decide about the engine, so look at them with the one that takes both worlds.
        let code = compiled(&engines.skill)?;
        let world = world(&engines.skill, code.component(), &path)?;
        check_imports(&engines.skill, code.component(), &path, manifest)?;
        let loaded = match world {
            World::Skill => Self::Skill(code),
            World::Controller => Self::Controller(compiled(&engines.controller)?),
        };
        Ok((loaded, digest))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, RuntimeError> {
    let unreadable = |source| RuntimeError::Read { path: path.into(), source };
    let too_large = |bytes| RuntimeError::TooLarge { path: path.into(), bytes, most: MOST_BYTES };
    let about = std::fs::metadata(path).map_err(unreadable)?;
    if !about.is_file() {
        // Opening a pipe waits for somebody to write, and a device has no end.
        return Err(unreadable(io::Error::other("it is no file")));
    }
    if about.len() > MOST_BYTES {
        return Err(too_large(about.len()));
    }
    let mut bytes = Vec::with_capacity(about.len() as usize);
    // It may grow while it is read.
    File::open(path).and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > MOST_BYTES { Err(too_large(bytes.len() as u64)) } else { Ok(bytes) }
}

pub(crate) fn compile(engine: &Engine, bytes: &[u8], path: &Path) -> Result<Component, RuntimeError> {
    let no = |what: String| Err(RuntimeError::NotAComponent { path: path.into(), what });
    match bytes {
        [b'\0', b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Component::from_binary(engine, bytes).or_else(|error| {
            let cause = format!("{error:#}").replace('\n', " ");
            no(format!("it is damaged, or more than this host takes ({cause}); build or copy it again"))
        }),
        [b'\0', b'a', b's', b'm', 1, 0, 0, 0, ..] => {
            no("it is a core module; build it for the target wasm32-wasip2, which makes components".into())
        }
        [] => no("the file is empty; build or copy it again".into()),
        bytes if bytes.len() < 8 => no("the file is truncated; build or copy it again".into()),
        bytes if std::str::from_utf8(bytes).is_ok() => {
            no("it is text; build it with `cargo build --release --target wasm32-wasip2`".into())
        }
        _ => no("it does not begin as WebAssembly does; is it the right file?".into()),
    }
}

enum World {
    Skill,
    Controller,
}

fn world(engine: &Engine, component: &Component, path: &Path) -> Result<World, RuntimeError> {
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
            Some(function) => {
                Err(RuntimeError::MissingExport { path: path.into(), missing: format!("{name}#{function}"), world })
            }
            None => Ok(Some(())),
        }
    };
    if has("task", &["run"], "skill")?.is_some() {
        return Ok(World::Skill);
    }
    if has("control", &["start", "tick", "state"], "controller")?.is_some() {
        return Ok(World::Controller);
    }
    let foreign = this.exports(engine).find(|(export, _)| export.starts_with("waza:skill/"));
    Err(match foreign {
        Some((found, _)) => RuntimeError::WrongWit { path: path.into(), found: found.into() },
        None => {
            RuntimeError::MissingExport { path: path.into(), missing: format!("waza:skill/task@{WIT}"), world: "skill" }
        }
    })
}

fn check_imports(engine: &Engine, component: &Component, path: &Path, manifest: &Manifest) -> Result<(), RuntimeError> {
    let this = component.component_type();
    for (import, item) in this.imports(engine) {
        let forbidden =
            |what: &str| Err(RuntimeError::Forbidden { path: path.into(), import: import.into(), what: what.into() });
        if let Some(of_ours) = import.strip_prefix("waza:skill/") {
            let (interface, version) = of_ours.split_once('@').unwrap_or((of_ours, ""));
            if version != WIT.to_string() {
                return Err(RuntimeError::WrongWit { path: path.into(), found: import.into() });
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
                return Err(RuntimeError::Undeclared { path: path.into(), import: import.into(), permission });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_that_of_the_standard_and_reads_back_as_it_is_written() {
        // FIPS 180-4's example of one block.
        let digest = Digest::of(b"abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_string(), text);
        assert_eq!(Digest::try_from(text.to_owned()), Ok(digest));
        for wrong in ["", &text[..63], &format!("{text}0"), &text.replace('b', "g")] {
            assert!(Digest::try_from(wrong.to_owned()).is_err(), "{wrong:?} was taken");
        }
    }
}
