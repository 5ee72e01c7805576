//! Compiled components, kept by the digest of what they were compiled from and by what compiled them.
//!
//! What is stale, damaged or of another host's making is a miss, never an error: then the component is compiled.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hmac::{Hmac, Mac};
use sha2::Sha256;
use tempfile::{NamedTempFile, TempDir};
use wasmtime::Engine;
use wasmtime::component::Component;
use waza_package::{Code, Digest, Engines, World};

use crate::disk::DRAFT;
use crate::error::StateError;
use crate::folder;

/// Compiled components that are kept; those that were not used for longest go first.
const MOST: usize = 2048;

/// A draft that is older was left by a host that was killed.
const LONGEST_DRAFT: Duration = Duration::from_secs(3600);

/// Where the key lies.
const KEY: &str = "key";

/// A folder with a folder for each component and engine, in which is one file, named by its world and by a digest that nobody
/// can make who has not the cache's key. A folder's time is that of its last use. Several hosts may share it.
#[derive(Clone)]
pub struct Cache {
    path: PathBuf,
    key: [u8; 32],
    /// Of one that ends with this host.
    _temporary: Option<Arc<TempDir>>,
}

impl Cache {
    /// In a folder of this user's alone, which is made where it is missing.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let wrong = |what: String| StateError { path: path.into(), what };
        folder::make(path).map_err(|error| wrong(format!("{error}; choose a folder that can be written")))?;
        folder::check(path).map_err(wrong)?;
        let key = key(path).map_err(|error| wrong(error.to_string()))?;
        Ok(Self { path: path.into(), key, _temporary: None })
    }

    /// The same, or one that ends with this host where that folder cannot be used.
    ///
    /// # Errors
    /// [`StateError`] if there can be none at all.
    pub fn shared(path: &Path) -> Result<Self, StateError> {
        Self::open(path).or_else(|error| {
            tracing::warn!("what is compiled now is compiled again next time: {error}");
            Self::temporary()
        })
    }

    /// One that ends with its last clone.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn temporary() -> Result<Self, StateError> {
        let made = tempfile::Builder::new().prefix("waza-compiled-").tempdir();
        let folder = made.map_err(|error| StateError { path: std::env::temp_dir(), what: error.to_string() })?;
        let cache = Self::open(folder.path())?;
        Ok(Self { _temporary: Some(folder.into()), ..cache })
    }

    /// The component with that digest, compiled for these engines before.
    pub fn find(&self, engines: &Engines, digest: Digest) -> Option<(World, Code)> {
        let folder = self.place(engines, digest);
        let file = std::fs::read_dir(&folder).ok()?.next()?.ok()?.path();
        let found = self.load(engines, &folder, &file).inspect_err(|what| {
            tracing::warn!("{} is damaged or stale ({what}); it is compiled again", file.display());
            let _ = std::fs::remove_dir_all(&folder);
        });
        let found = found.ok()?;
        // Where that fails it only counts as unused.
        let _ = File::open(&folder).and_then(|folder| folder.set_modified(SystemTime::now()));
        Some(found)
    }

    fn load(&self, engines: &Engines, folder: &Path, path: &Path) -> io::Result<(World, Code)> {
        let mut file = folder::open_own(path)?;
        let named = path.file_stem().and_then(|name| name.to_str()).and_then(|name| name.split_once('-'));
        let (world, digest) = named.ok_or_else(|| io::Error::other("its name is no digest"))?;
        let worlds = [World::Skill, World::Controller];
        let world = worlds.into_iter().find(|it| it.name() == world).ok_or_else(|| io::Error::other("of no world"))?;
        let mac = self.mac(folder, world, &mut file)?;
        mac.verify_slice(&hex::decode(digest).unwrap_or_default())
            .map_err(|_| io::Error::other("its name is not the digest that this host would give it"))?;
        // SAFETY: `open_own` has seen that the open file is a regular one of the user that this host runs as and that nobody else
        // may write, `open` the same of the folder; its name says that a host with the key has kept it so. Files are replaced and
        // never changed, so nobody who follows that changes it while it is mapped.
        let code = unsafe { map(engines.of(world), &file, path) }.map_err(io::Error::other)?;
        Ok((world, code))
    }

    /// What a file in that folder would be named for. It is read from its start.
    fn mac(&self, folder: &Path, world: World, file: &mut File) -> io::Result<Hmac<Sha256>> {
        // A key of any length is taken.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).map_err(io::Error::other)?;
        let of = folder.file_name().unwrap_or_default().as_encoded_bytes();
        mac.update(of);
        mac.update(world.name().as_bytes());
        file.seek(SeekFrom::Start(0))?;
        let mut chunk = vec![0; 64 << 10];
        loop {
            match file.read(&mut chunk)? {
                0 => return Ok(mac),
                read => mac.update(&chunk[..read]),
            }
        }
    }

    /// A file for the machine code of a component that is about to be compiled.
    ///
    /// # Errors
    /// The system's.
    pub fn draft(&self) -> io::Result<NamedTempFile> {
        tempfile::Builder::new().prefix(DRAFT).tempfile_in(&self.path)
    }

    /// Keeps compiled code, and maps it: its code is in memory only where it has run, and the system may take that back.
    ///
    /// # Errors
    /// The folder cannot be written; or the engine does not take the code, which is the component's fault.
    pub fn keep(
        &self,
        engines: &Engines,
        digest: Digest,
        world: World,
        mut draft: NamedTempFile,
    ) -> io::Result<wasmtime::Result<Code>> {
        let folder = self.place(engines, digest);
        let mac = self.mac(&folder, world, draft.as_file_mut())?.finalize().into_bytes();
        // SAFETY: as in `load`: it was written by this host's own compiler, in a folder that is this host's own.
        let code = match unsafe { map(engines.of(world), draft.as_file(), draft.path()) } {
            Ok(code) => code,
            Err(error) => return Ok(Err(error)),
        };
        folder::make(&folder)?;
        // It need not reach the disk: what a power cut leaves of it is a miss.
        draft.persist(folder.join(format!("{world}-{}.cwasm", hex::encode(mac))))?;
        self.evict();
        Ok(Ok(code))
    }

    fn place(&self, engines: &Engines, digest: Digest) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        for world in [World::Skill, World::Controller] {
            engines.of(world).precompile_compatibility_hash().hash(&mut hasher);
        }
        self.path.join(format!("{digest}-{:016x}", hasher.finish()))
    }

    fn evict(&self) {
        let entries = std::fs::read_dir(&self.path).into_iter().flatten().filter_map(Result::ok);
        let (mut folders, mut drafts) = (Vec::new(), Vec::new());
        for entry in entries {
            let Ok(about) = entry.metadata() else { continue };
            let Ok(modified) = about.modified() else { continue };
            if about.is_dir() {
                folders.push((modified, entry.path()));
            } else if entry.file_name().as_encoded_bytes().starts_with(DRAFT.as_bytes())
                && modified.elapsed().is_ok_and(|age| age > LONGEST_DRAFT)
            {
                drafts.push(entry.path());
            }
        }
        drafts.into_iter().for_each(|path| drop(std::fs::remove_file(path)));
        if folders.len() > MOST {
            folders.sort();
            let unused = folders.len() - MOST;
            folders.into_iter().take(unused).for_each(|(_, path)| drop(std::fs::remove_dir_all(path)));
        }
    }
}

/// Maps machine code from an open file: not from what may lie there by its name a moment later.
///
/// # Safety
/// As [`Component::deserialize_file`].
unsafe fn map(engine: &Engine, file: &File, path: &Path) -> wasmtime::Result<Code> {
    #[cfg(target_os = "linux")]
    let path = {
        let _ = path;
        PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file)))
    };
    #[cfg(not(target_os = "linux"))]
    let _ = file;
    // SAFETY: the caller's.
    unsafe { Component::deserialize_file(engine, path) }.map(Code::mapped)
}

/// The key of a cache, made where it is missing or no key that is this user's secret.
fn key(folder: &Path) -> io::Result<[u8; 32]> {
    let path = folder.join(KEY);
    if let Some(key) = read_key(&path) {
        return Ok(key);
    }
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    let mut draft = tempfile::Builder::new().prefix(DRAFT).tempfile_in(folder)?;
    draft.write_all(&key)?;
    let _ = std::fs::remove_file(&path);
    // Where two hosts make one at once the second takes that of the first.
    match draft.persist_noclobber(&path) {
        Ok(_) => Ok(key),
        Err(error) => read_key(&path).ok_or(error.error),
    }
}

fn read_key(path: &Path) -> Option<[u8; 32]> {
    let mut file = folder::open_own(path).ok()?;
    #[cfg(unix)]
    if std::os::unix::fs::MetadataExt::mode(&file.metadata().ok()?) & 0o077 != 0 {
        return None;
    }
    let (mut key, mut more) = ([0; 32], [0]);
    file.read_exact(&mut key).ok()?;
    (file.read(&mut more).ok()? == 0).then_some(key)
}

#[cfg(test)]
mod tests {
    use waza_package::{Compiler, MemoryLimits, Patience, Source};

    use super::*;

    fn engines() -> Engines {
        Engines::new(MemoryLimits { memory_bytes: 1 << 20, table_elements: 100 }).unwrap()
    }

    fn keep(cache: &Cache, engines: &Engines, name: &str) -> Digest {
        let component = wat::parse_str(format!("(component ${name})")).unwrap();
        let source = Source::of(&component, Path::new(name)).unwrap();
        let mut draft = cache.draft().unwrap();
        let compiled = Compiler::Here.compile(&source, engines.limits, Patience::Long, draft.as_file_mut());
        cache.keep(engines, source.digest, compiled.unwrap(), draft).unwrap().unwrap();
        source.digest
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let state = tempfile::tempdir().unwrap();
        let (cache, engines) = (Cache::open(state.path()).unwrap(), engines());
        let [first, second] = ["first", "second"].map(|name| {
            let digest = keep(&cache, &engines, name);
            let long_ago = SystemTime::now() - Duration::from_secs(3600);
            File::open(cache.place(&engines, digest)).unwrap().set_modified(long_ago).unwrap();
            digest
        });
        for other in 2..MOST {
            std::fs::create_dir(cache.path.join(other.to_string())).unwrap();
        }
        assert!(cache.find(&engines, first).is_some());
        keep(&cache, &engines, "third");
        assert!(cache.find(&engines, first).is_some(), "it was used a moment ago");
        assert!(cache.find(&engines, second).is_none());
    }

    #[cfg(unix)]
    #[test]
    fn code_that_was_changed_that_others_could_write_or_that_a_link_leads_to_is_not_run() {
        use std::os::unix::fs::PermissionsExt;
        let state = tempfile::tempdir().unwrap();
        let (cache, engines) = (Cache::open(state.path()).unwrap(), engines());
        type Spoil = fn(&Path);
        let spoilt: [(&str, Spoil); 4] = [
            ("longer", |file| std::fs::write(file, [std::fs::read(file).unwrap(), vec![0]].concat()).unwrap()),
            ("world", |file| std::fs::rename(file, file.to_str().unwrap().replace("skill-", "controller-")).unwrap()),
            ("writable", |file| std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o666)).unwrap()),
            ("link", |file| {
                let elsewhere = file.parent().unwrap().with_extension("elsewhere");
                std::fs::rename(file, &elsewhere).unwrap();
                std::os::unix::fs::symlink(elsewhere, file).unwrap();
            }),
        ];
        for (name, spoil) in spoilt {
            let digest = keep(&cache, &engines, name);
            assert!(cache.find(&engines, digest).is_some());
            let place = cache.place(&engines, digest);
            spoil(&std::fs::read_dir(&place).unwrap().next().unwrap().unwrap().path());
            assert!(cache.find(&engines, digest).is_none(), "{name}");
            assert!(!place.exists(), "it is made anew");
        }
    }

    #[test]
    fn code_of_another_component_or_of_a_host_with_another_key_is_not_run() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (cache, other) = (Cache::open(first.path()).unwrap(), Cache::open(second.path()).unwrap());
        let engines = engines();
        let [this, that] = ["this", "that"].map(|name| keep(&cache, &engines, name));
        assert!(Cache::open(first.path()).unwrap().find(&engines, this).is_some(), "the key is kept");

        let (this_place, that_place) = (cache.place(&engines, this), cache.place(&engines, that));
        std::fs::create_dir(other.place(&engines, this)).unwrap();
        for entry in std::fs::read_dir(&this_place).unwrap() {
            let (path, name) = {
                let entry = entry.unwrap();
                (entry.path(), entry.file_name())
            };
            std::fs::copy(&path, other.place(&engines, this).join(name)).unwrap();
        }
        assert!(other.find(&engines, this).is_none(), "of another host");

        std::fs::remove_dir_all(&that_place).unwrap();
        std::fs::rename(&this_place, &that_place).unwrap();
        assert!(cache.find(&engines, that).is_none(), "of another component");
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_can_read_or_that_is_none_is_replaced() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let key = Cache::open(folder.path()).unwrap().key;
        let path = folder.path().join(KEY);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let second = Cache::open(folder.path()).unwrap().key;
        assert_ne!(key, second);
        std::fs::write(&path, b"short").unwrap();
        assert_ne!(Cache::open(folder.path()).unwrap().key, second);
    }
}
