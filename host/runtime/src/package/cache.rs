//! Compiled components, kept by the digest of what they were compiled from and by what compiled them.
//!
//! What is stale, damaged or of another host's making is a miss, never an error: then the component is compiled.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use wasmtime::Engine;
use wasmtime::component::Component;

use crate::error::RuntimeError;
use crate::ids::Digest;
use crate::package::compile::Code;
use crate::state::{self, StateFolder};

/// Compiled components that are kept; the oldest go first.
const MOST: usize = 2048;

/// A folder with a folder for each component and engine, in which is one file, named by its own digest.
#[derive(Clone)]
pub(crate) struct Cache(PathBuf);

impl Cache {
    pub fn open(state: &StateFolder) -> Result<Self, RuntimeError> {
        state.folder("compiled").map(Self)
    }

    /// The component with that digest, compiled by this engine before.
    pub fn find(&self, engine: &Engine, digest: Digest) -> Option<Code> {
        let folder = self.place(engine, digest);
        let file = std::fs::read_dir(&folder).ok()?.next()?.ok()?.path();
        let found = Self::load(engine, &file);
        if found.is_none() {
            tracing::warn!("{} is damaged or stale; it is compiled again", file.display());
            let _ = std::fs::remove_dir_all(&folder);
        }
        found
    }

    fn load(engine: &Engine, file: &Path) -> Option<Code> {
        let bytes = std::fs::read(file).ok()?;
        let name = file.file_stem()?.to_str()?;
        if Digest::of(&bytes).to_string() != name {
            return None;
        }
        // SAFETY: the folder is this host's own, so the file is what `keep` wrote, and its digest says that it is whole.
        unsafe { Component::deserialize_file(engine, file) }.ok().map(Code::Mapped)
    }

    /// Keeps a compiled component, and gives it back as it lies in the file: its code is then in memory only where it has
    /// run, and the system may take that back. Where keeping fails it stays as it is, and the next host compiles it again.
    pub fn keep(&self, engine: &Engine, digest: Digest, component: Component) -> Code {
        let kept = component.serialize().map_err(std::io::Error::other).and_then(|bytes| {
            let folder = self.place(engine, digest);
            std::fs::create_dir_all(&folder)?;
            let file = folder.join(format!("{}.cwasm", Digest::of(&bytes)));
            state::write(&file, &[&bytes])?;
            Ok(file)
        });
        match kept {
            Ok(file) => {
                self.evict();
                Self::load(engine, &file).unwrap_or(Code::Made(component))
            }
            Err(error) => {
                tracing::warn!("a compiled component could not be kept in {}: {error}", self.0.display());
                Code::Made(component)
            }
        }
    }

    fn place(&self, engine: &Engine, digest: Digest) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        self.0.join(format!("{digest}-{:016x}", hasher.finish()))
    }

    fn evict(&self) {
        let entries = std::fs::read_dir(&self.0).into_iter().flatten().filter_map(Result::ok);
        let dated = entries.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())));
        let mut dated: Vec<_> = dated.collect();
        if dated.len() > MOST {
            dated.sort();
            let oldest = dated.len() - MOST;
            dated.into_iter().take(oldest).for_each(|(_, path)| drop(std::fs::remove_dir_all(path)));
        }
    }
}
