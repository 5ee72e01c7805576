//! The bytes of a component, as they were when its package was read.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Component, Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::error::PackageError;
use crate::ids::Digest;
use crate::manifest::Manifest;

/// The longest component that is read.
const MOST_BYTES: u64 = 64 << 20;

/// Where the files of a package lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// Inside its folder: a package as a vendor hands it over.
    #[default]
    Package,
    /// The manifest may name a component anywhere: a package as a build leaves it.
    BuildTree,
}

/// A component's bytes in a file that nobody else has: what is compiled is what has the digest, whatever becomes of the
/// package meanwhile. The host's memory never holds the whole of it.
#[derive(Debug)]
pub struct Source {
    /// Of the bytes.
    pub digest: Digest,
    /// Where they are from, for errors.
    pub path: PathBuf,
    bytes: u64,
    copy: File,
}

impl Source {
    /// Reads the component that a manifest in `folder` names.
    ///
    /// # Errors
    /// [`PackageError::Read`], [`PackageError::TooLarge`], [`PackageError::Outside`].
    pub fn open(folder: &Path, manifest: &Manifest, layout: Layout) -> Result<Self, PackageError> {
        let path = folder.join(&manifest.component);
        let unread = |source| PackageError::Read { path: path.clone(), source };
        if layout == Layout::Package && !lies_inside(folder, &manifest.component).map_err(unread)? {
            return Err(PackageError::Outside { path });
        }
        Self::file(&path)
    }

    /// Reads a component from a file.
    ///
    /// # Errors
    /// [`PackageError::Read`], [`PackageError::TooLarge`].
    pub fn file(path: &Path) -> Result<Self, PackageError> {
        let opened = open_regular(path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (bytes, file) = opened.map_err(|source| PackageError::Read { path: path.into(), source })?;
        if bytes > MOST_BYTES {
            return Err(PackageError::TooLarge { path: path.into(), bytes, most: MOST_BYTES });
        }
        Self::read(file, path)
    }

    /// Takes bytes that are here already; `path` is named in errors.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn of(bytes: &[u8], path: &Path) -> Result<Self, PackageError> {
        Self::read(bytes, path)
    }

    fn read(from: impl Read, path: &Path) -> Result<Self, PackageError> {
        let copied = || {
            let (mut copy, mut hasher) = (tempfile::tempfile()?, Sha256::new());
            // It may grow while it is read, and some files of the system say that they are empty.
            let mut from = from.take(MOST_BYTES + 1);
            let mut chunk = vec![0; 64 << 10];
            let mut bytes = 0;
            loop {
                match from.read(&mut chunk)? {
                    0 => return Ok((copy, hasher, bytes)),
                    read => {
                        hasher.update(&chunk[..read]);
                        copy.write_all(&chunk[..read])?;
                        bytes += read as u64;
                    }
                }
            }
        };
        let (copy, hasher, bytes) = copied().map_err(|source| PackageError::Read { path: path.into(), source })?;
        if bytes > MOST_BYTES {
            return Err(PackageError::TooLarge { path: path.into(), bytes, most: MOST_BYTES });
        }
        Ok(Self { digest: Digest::finish(hasher), path: path.into(), bytes, copy })
    }

    /// How many bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All of them.
    ///
    /// # Errors
    /// [`PackageError::Read`].
    pub fn to_vec(&self) -> Result<Vec<u8>, PackageError> {
        let mut bytes = Vec::with_capacity(self.bytes as usize);
        let read = self.reader().and_then(|mut file| file.read_to_end(&mut bytes));
        read.map_err(|source| PackageError::Read { path: self.path.clone(), source })?;
        Ok(bytes)
    }

    /// A file to read them from, once at a time.
    pub(crate) fn reader(&self) -> io::Result<File> {
        let mut file = self.copy.try_clone()?;
        file.rewind()?;
        Ok(file)
    }
}

/// Whether a path that a package names stays in its folder, wherever links lead.
pub(crate) fn lies_inside(folder: &Path, named: &Path) -> io::Result<bool> {
    let is_plain = named.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    Ok(is_plain && folder.join(named).canonicalize()?.starts_with(folder.canonicalize()?))
}

/// Opens a file, and nothing that waits or has no end: a pipe, a device.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let no_file = || io::Error::other("it is no file");
    if !fs::metadata(path)?.is_file() {
        return Err(no_file());
    }
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, rustix::fs::OFlags::NONBLOCK.bits() as i32);
    let file = options.open(path)?;
    // Something else may have taken its place.
    if file.metadata()?.is_file() { Ok(file) } else { Err(no_file()) }
}
