//! The folder in which a host keeps what survives it: compiled components and the checkpoints of runs.
//!
//! Compiled components are machine code that the host runs as it finds it, so the folder must be the host's own: nobody else
//! may write there, and one host uses it at a time.

pub(crate) mod checkpoints;
pub(crate) mod disk_writer;
pub mod quarantine;

use std::fs::{DirBuilder, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::RuntimeError;

/// How long a host that is ending may keep the folder from the next.
const ENDING: Duration = Duration::from_secs(2);

/// A folder that belongs to this host until it is dropped.
pub(crate) struct StateFolder {
    path: PathBuf,
    _lock: File,
}

impl StateFolder {
    /// Makes the folder where it is missing, and takes it.
    pub fn open(path: &Path) -> Result<Self, RuntimeError> {
        let wrong = |what: String| RuntimeError::State { path: path.into(), what };
        make(path).map_err(|error| wrong(format!("{error}; choose a folder that can be written")))?;
        private(path).map_err(wrong)?;
        let lock = File::create(path.join("lock")).map_err(|error| wrong(error.to_string()))?;
        let since = Instant::now();
        let mut locked = lock.try_lock();
        while matches!(locked, Err(TryLockError::WouldBlock)) && since.elapsed() < ENDING {
            std::thread::sleep(ENDING / 100);
            locked = lock.try_lock();
        }
        match locked {
            Ok(()) => Ok(Self { path: path.into(), _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                Err(wrong("another host uses it; stop that one, or choose another folder".into()))
            }
            Err(TryLockError::Error(error)) => Err(wrong(error.to_string())),
        }
    }

    /// A folder inside, made where it is missing.
    pub fn folder(&self, name: &str) -> Result<PathBuf, RuntimeError> {
        let path = self.path.join(name);
        let wrong = |what: String| RuntimeError::State { path: path.clone(), what };
        make(&path).map_err(|error| wrong(error.to_string()))?;
        private(&path).map_err(wrong)?;
        Ok(path)
    }
}

fn make(path: &Path) -> std::io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Refuses a folder that others may write.
#[cfg(unix)]
fn private(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt;
    let about = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if about.mode() & 0o022 != 0 {
        return Err(format!("others may write there; run `chmod go-w {}`", path.display()));
    }
    Ok(())
}

#[cfg(not(unix))]
fn private(_: &Path) -> Result<(), String> {
    Ok(())
}

/// Writes a file, whole or not at all, and lets it reach the disk.
pub(crate) fn write(path: &Path, parts: &[&[u8]]) -> std::io::Result<()> {
    let folder = path.parent().ok_or(std::io::ErrorKind::InvalidInput)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.as_file().sync_data()?;
    file.persist(path)?;
    Ok(())
}
