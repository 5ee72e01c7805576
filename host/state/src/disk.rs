//! What it takes of a file system to keep a file: so little that a test can put one in its place that is slow, or that loses
//! its power.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use tempfile::NamedTempFile;

/// How the names of drafts begin. What has such a name when a host starts was left by one that was killed.
pub const DRAFT: &str = ".tmp";

/// Where files are kept.
pub trait Disk: Send + Sync {
    /// Makes an empty file in a folder, under a name that nobody reads.
    ///
    /// # Errors
    /// The system's.
    fn create(&self, folder: &Path) -> io::Result<Box<dyn Draft>>;

    /// Returns when the names of a folder's files are on the disk, and those that were removed are not.
    ///
    /// # Errors
    /// The system's.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// A file that nobody reads yet. Dropping this removes it.
pub trait Draft {
    /// Adds to its content.
    ///
    /// # Errors
    /// The system's.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Returns when its content is on the disk.
    ///
    /// # Errors
    /// The system's.
    fn sync(&mut self) -> io::Result<()>;

    /// Gives it its name, in place of a file that has it.
    ///
    /// # Errors
    /// The system's.
    fn rename(self: Box<Self>, path: &Path) -> io::Result<()>;
}

/// The system's own.
#[derive(Debug, Clone, Copy)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create(&self, folder: &Path) -> io::Result<Box<dyn Draft>> {
        Ok(Box::new(tempfile::Builder::new().prefix(DRAFT).tempfile_in(folder)?))
    }

    #[cfg(unix)]
    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        match File::open(folder)?.sync_all() {
            // A file system that knows no such thing.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            synced => synced,
        }
    }

    #[cfg(not(unix))]
    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }
}

impl Draft for NamedTempFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.as_file().sync_data()
    }

    fn rename(self: Box<Self>, path: &Path) -> io::Result<()> {
        self.persist(path)?;
        Ok(())
    }
}

/// Writes a file, whole or not at all. When this returns it outlives a power cut: the content is on the disk before the name
/// is, and the name is too.
///
/// # Errors
/// The system's.
pub fn write_whole(disk: &dyn Disk, path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut draft = disk.create(folder)?;
    draft.write(content)?;
    draft.sync()?;
    draft.rename(path)?;
    disk.sync_folder(folder)
}

/// Removes a file, if it is there, so that a power cut does not bring it back.
///
/// # Errors
/// The system's.
pub fn remove(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    match disk.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| disk.sync_folder(folder)),
    }
}
