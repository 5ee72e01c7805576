//! The folder in which a host keeps what survives it, and whose it is.
//!
//! Compiled components are machine code that the host runs as it finds it, so the folder must be the host's own: it belongs to
//! the user that the host runs as, nobody else may write there, and one host uses it at a time.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::disk::{DRAFT, Disk};
use crate::error::StateError;
use crate::writer::{DiskWriter, Writer};

/// How long a host that is ending may keep the folder from the next.
const ENDING: Duration = Duration::from_secs(2);

/// A folder that belongs to this host until it is dropped, which waits for what is to be written there.
pub struct StateFolder {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    // Before the lock: what was ordered is written before another host may look.
    writer: DiskWriter,
    _lock: File,
}

impl StateFolder {
    /// Makes the folder where it is missing, takes it, and removes what earlier hosts had begun to write.
    ///
    /// # Errors
    /// [`StateError`]: it is no folder of this user's alone, another host uses it, or it cannot be written.
    pub fn open(path: &Path, disk: Arc<dyn Disk>) -> Result<Self, StateError> {
        let wrong = |what: String| StateError { path: path.into(), what };
        make(path).map_err(|error| wrong(format!("{error}; choose a folder that can be written")))?;
        check(path).map_err(wrong)?;
        let lock = lock(&path.join("lock")).map_err(|error| wrong(error.to_string()))?;
        let since = Instant::now();
        let mut locked = lock.try_lock();
        while matches!(locked, Err(TryLockError::WouldBlock)) && since.elapsed() < ENDING {
            std::thread::sleep(ENDING / 100);
            locked = lock.try_lock();
        }
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(wrong("another host uses it; stop that one, or choose another folder".into()));
            }
            Err(TryLockError::Error(error)) => return Err(wrong(error.to_string())),
        }
        sweep(path);
        let writer = DiskWriter::start(disk.clone()).map_err(|error| wrong(error.to_string()))?;
        Ok(Self { path: path.into(), disk, writer, _lock: lock })
    }

    /// A folder inside, made where it is missing.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn folder(&self, name: &str) -> Result<PathBuf, StateError> {
        let path = self.path.join(name);
        let wrong = |what: String| StateError { path: path.clone(), what };
        make(&path).map_err(|error| wrong(error.to_string()))?;
        check(&path).map_err(wrong)?;
        sweep(&path);
        Ok(path)
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Who writes there.
    pub fn writer(&self) -> Writer {
        self.writer.writer()
    }

    /// Where it lies, for whoever may wait.
    pub fn disk(&self) -> &dyn Disk {
        &*self.disk
    }
}

/// Makes a folder where it is missing, for this user alone.
///
/// # Errors
/// The system's.
pub fn make(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Opens the file by which hosts know that a folder is taken. Who may open it can keep every host out, so nobody else may.
#[cfg(unix)]
fn lock(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(no_follow());
    let file = options.open(path)?;
    // Earlier hosts made it as they made any file.
    file.set_permissions(PermissionsExt::from_mode(0o600))?;
    Ok(file)
}

#[cfg(not(unix))]
fn lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).open(path)
}

/// Refuses a folder that is another user's, that others may write, or that a link only leads to.
#[cfg(unix)]
pub(crate) fn check(path: &Path) -> Result<(), String> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| {
        if path.is_symlink() {
            "it is a symbolic link, which could lead elsewhere tomorrow; name the folder itself".into()
        } else {
            error.to_string()
        }
    })?;
    let about = File::from(opened).metadata().map_err(|error| error.to_string())?;
    check_owner(&about).map_err(|what| match what {
        NotOurs::Owner { owner, user } => {
            format!("it belongs to user {owner}, and this host runs as user {user}; choose a folder of its own")
        }
        NotOurs::Writable => format!("others may write there; run `chmod go-w {}`", path.display()),
    })
}

#[cfg(not(unix))]
pub(crate) fn check(_: &Path) -> Result<(), String> {
    Ok(())
}

/// Opens a file, unless it is anything else than a regular one that is this user's, and that nobody else may write.
#[cfg(unix)]
pub(crate) fn open_own(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(no_follow() | flags).open(path)?;
    let about = file.metadata()?;
    if !about.is_file() || check_owner(&about).is_err() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is no file of this host's own"));
    }
    Ok(file)
}

#[cfg(not(unix))]
pub(crate) fn open_own(path: &Path) -> io::Result<File> {
    File::open(path)
}

#[cfg(unix)]
fn no_follow() -> i32 {
    rustix::fs::OFlags::NOFOLLOW.bits() as i32
}

#[cfg(unix)]
enum NotOurs {
    Owner { owner: u32, user: u32 },
    Writable,
}

#[cfg(unix)]
fn check_owner(about: &std::fs::Metadata) -> Result<(), NotOurs> {
    use std::os::unix::fs::MetadataExt;
    let (owner, user) = (about.uid(), rustix::process::geteuid().as_raw());
    if owner != user {
        return Err(NotOurs::Owner { owner, user });
    }
    if about.mode() & 0o022 != 0 { Err(NotOurs::Writable) } else { Ok(()) }
}

/// Removes what hosts that were killed had begun to write. What cannot be removed is in nobody's way.
fn sweep(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        if entry.file_name().as_encoded_bytes().starts_with(DRAFT.as_bytes()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
