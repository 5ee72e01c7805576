//! Compiled components, kept by the digest of what they were compiled from and by what compiled them.
//!
//! What is stale, damaged or of another host's making is a miss, never an error: then the component is compiled.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use wasmtime::Engine;
use wasmtime::component::Component;
use waza_package::{Code, Digest};

use crate::disk::DRAFT;
use crate::error::StateError;
use crate::folder::{self, StateFolder};

/// Compiled components that are kept; those that were not used for longest go first.
const MOST: usize = 2048;

/// A folder with a folder for each component and engine, in which is one file, named by its own digest. A folder's time is that
/// of its last use.
#[derive(Clone)]
pub struct Cache(PathBuf);

impl Cache {
    /// In a state folder.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn open(state: &StateFolder) -> Result<Self, StateError> {
        state.folder("compiled").map(Self)
    }

    /// The component with that digest, compiled by this engine before.
    pub fn find(&self, engine: &Engine, digest: Digest) -> Option<Code> {
        let folder = self.place(engine, digest);
        let file = std::fs::read_dir(&folder).ok()?.next()?.ok()?.path();
        let found = Self::load(engine, &file).inspect_err(|what| {
            tracing::warn!("{} is damaged or stale ({what}); it is compiled again", file.display());
            let _ = std::fs::remove_dir_all(&folder);
        });
        let code = found.ok()?;
        // Where that fails it only counts as unused.
        let _ = File::open(&folder).and_then(|folder| folder.set_modified(SystemTime::now()));
        Some(code)
    }

    fn load(engine: &Engine, path: &Path) -> io::Result<Code> {
        let mut file = folder::open_own(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        if path.file_stem().and_then(|name| name.to_str()) != Some(&Digest::of(&bytes).to_string()) {
            return Err(io::Error::other("its name is not its digest"));
        }
        // The open file, not what may lie there by its name a moment later.
        #[cfg(target_os = "linux")]
        let path = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)));
        // SAFETY: `open_own` has seen that the open file is a regular one of the user that this host runs as and that nobody else
        // may write, `StateFolder` the same of the folder above it, where only `keep` makes such files; its digest says that it
        // is whole. Files are replaced and never changed, so nobody who follows that changes it while it is mapped.
        unsafe { Component::deserialize_file(engine, path) }.map(Code::Mapped).map_err(io::Error::other)
    }

    /// Keeps a compiled component, and gives it back as it lies in the file: its code is then in memory only where it has
    /// run, and the system may take that back. Where keeping fails it stays as it is, and the next host compiles it again.
    pub fn keep(&self, engine: &Engine, digest: Digest, component: Component) -> Code {
        let kept = component.serialize().map_err(io::Error::other).and_then(|bytes| {
            let folder = self.place(engine, digest);
            folder::make(&folder)?;
            let file = folder.join(format!("{}.cwasm", Digest::of(&bytes)));
            // It need not reach the disk: what a power cut leaves of it is a miss.
            let mut draft = tempfile::Builder::new().prefix(DRAFT).tempfile_in(&self.0)?;
            draft.write_all(&bytes)?;
            draft.persist(&file)?;
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
        let folders = entries.filter_map(|entry| {
            let about = entry.metadata().ok().filter(|about| about.is_dir())?;
            Some((about.modified().ok()?, entry.path()))
        });
        let mut folders: Vec<_> = folders.collect();
        if folders.len() > MOST {
            folders.sort();
            let unused = folders.len() - MOST;
            folders.into_iter().take(unused).for_each(|(_, path)| drop(std::fs::remove_dir_all(path)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::disk::RealDisk;

    fn cache(state: &Path) -> (StateFolder, Cache) {
        let folder = StateFolder::open(state, Arc::new(RealDisk)).unwrap();
        let cache = Cache::open(&folder).unwrap();
        (folder, cache)
    }

    fn keep(cache: &Cache, engine: &Engine, name: &str) -> Digest {
        let component = Component::new(engine, wat::parse_str(format!("(component ${name})")).unwrap()).unwrap();
        let digest = Digest::of(name.as_bytes());
        assert!(matches!(cache.keep(engine, digest, component), Code::Mapped(_)));
        digest
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let state = tempfile::tempdir().unwrap();
        let (_folder, cache) = cache(state.path());
        let engine = Engine::default();
        let [first, second] = ["first", "second"].map(|name| {
            let digest = keep(&cache, &engine, name);
            let long_ago = SystemTime::now() - Duration::from_secs(3600);
            File::open(cache.place(&engine, digest)).unwrap().set_modified(long_ago).unwrap();
            digest
        });
        for other in 2..MOST {
            std::fs::create_dir(cache.0.join(other.to_string())).unwrap();
        }
        assert!(cache.find(&engine, first).is_some());
        keep(&cache, &engine, "third");
        assert!(cache.find(&engine, first).is_some(), "it was used a moment ago");
        assert!(cache.find(&engine, second).is_none());
    }

    #[cfg(unix)]
    #[test]
    fn code_that_others_could_write_or_that_a_link_leads_to_is_not_run() {
        use std::os::unix::fs::PermissionsExt;
        let state = tempfile::tempdir().unwrap();
        let (_folder, cache) = cache(state.path());
        let engine = Engine::default();
        type Spoil = fn(&Path);
        let spoilt: [(&str, Spoil); 2] = [
            ("writable", |file| std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o666)).unwrap()),
            ("link", |file| {
                let elsewhere = file.parent().unwrap().with_extension("elsewhere");
                std::fs::rename(file, &elsewhere).unwrap();
                std::os::unix::fs::symlink(elsewhere, file).unwrap();
            }),
        ];
        for (name, spoil) in spoilt {
            let digest = keep(&cache, &engine, name);
            assert!(cache.find(&engine, digest).is_some());
            let place = cache.place(&engine, digest);
            spoil(&std::fs::read_dir(&place).unwrap().next().unwrap().unwrap().path());
            assert!(cache.find(&engine, digest).is_none(), "{name}");
            assert!(!place.exists(), "it is made anew");
        }
    }
}
