//! The numbers of runs: none is given twice by the hosts that use a state folder, however they end.
//!
//! A file has a number from which on none was given. It runs ahead of them by a block, so that a run waits for no disk to have
//! its number; a host that ends in order takes back what it did not use, one that is killed leaves a gap.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk;
use crate::folder::StateFolder;
use crate::run::RunId;
use crate::writer::Writer;

/// The file's name in the state folder.
const FILE: &str = "next_run";

/// How far the file runs ahead. A disk that takes longer than half of these runs, in a host that is then killed, is how a
/// number could be given twice.
const BLOCK: u64 = 1024;

/// More than all hosts will need, and a whole number to every reader of JSON.
const MOST: u64 = 1 << 53;

/// Gives runs their numbers.
pub struct RunNumbers {
    next: AtomicU64,
    reserve: Option<Reserve>,
}

struct Reserve {
    path: PathBuf,
    writer: Writer,
    /// What the file says, or is about to.
    until: Arc<AtomicU64>,
}

impl RunNumbers {
    /// Numbers that begin after what the folder says, and after the last that is known otherwise. Without a folder they begin
    /// at 1.
    pub fn open(state: Option<&StateFolder>, last: Option<RunId>) -> Self {
        let known = last.map_or(1, |last| last.0.saturating_add(1).min(MOST));
        let Some(state) = state else { return Self { next: AtomicU64::new(known), reserve: None } };
        let path = state.file(FILE);
        let next = recall(&path).unwrap_or(1).max(known);
        let until = next + BLOCK;
        // A host that starts may wait. One that cannot write has a robot to serve all the same.
        if let Err(error) = disk::write_whole(state.disk(), &path, &spelled(until)) {
            tracing::warn!("{}: {error}; the next host may give the numbers of this one's runs again", path.display());
        }
        let reserve = Reserve { path, writer: state.writer(), until: Arc::new(until.into()) };
        Self { next: AtomicU64::new(next), reserve: Some(reserve) }
    }

    /// A number that no other run has.
    pub fn next(&self) -> RunId {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if let Some(reserve) = &self.reserve
            && reserve.until.load(Ordering::Relaxed).saturating_sub(number) <= BLOCK / 2
        {
            reserve.until.fetch_max(number + BLOCK, Ordering::Relaxed);
            reserve.order();
        }
        RunId(number)
    }
}

impl Drop for RunNumbers {
    fn drop(&mut self) {
        if let Some(reserve) = &self.reserve {
            reserve.until.store(*self.next.get_mut(), Ordering::Relaxed);
            reserve.order();
        }
    }
}

impl Reserve {
    fn order(&self) {
        let until = self.until.clone();
        // Nobody waits for it; where it fails, whoever writes says so.
        drop(self.writer.write(&self.path, move || Ok(spelled(until.load(Ordering::Relaxed)))));
    }
}

fn spelled(number: u64) -> Vec<u8> {
    format!("{number}\n").into_bytes()
}

/// What a file says. One that is damaged is set aside: then only the checkpoints that are left say which numbers were given.
fn recall(path: &Path) -> Option<u64> {
    let found = match std::fs::read(path) {
        Ok(bytes) => std::str::from_utf8(&bytes).ok().and_then(|text| text.trim_end().parse().ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!("{} cannot be read: {error}", path.display());
            return None;
        }
    };
    let found = found.filter(|number| *number <= MOST);
    if found.is_none() {
        let aside = path.with_extension("damaged");
        let moved = std::fs::rename(path, &aside).is_ok();
        tracing::warn!(moved, "{} is no number; see {}", path.display(), aside.display());
    }
    found
}
