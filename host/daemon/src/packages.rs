//! What became of the packages in the watched folder.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use waza_runtime::manifest::FILE;
use waza_runtime::{Change, Manifest};

use crate::wire::Refused;

/// Packages that were refused, with the reason, for as long as it holds.
#[derive(Default)]
pub(crate) struct Packages(Mutex<BTreeMap<PathBuf, String>>);

impl Packages {
    pub fn note(&self, change: &Change) {
        match change {
            Change::Refused { folder, error } => {
                self.lock().insert(folder.clone(), error.to_string());
            }
            Change::Loaded(id) => {
                self.lock().retain(|folder, _| Manifest::open(folder).ok().is_none_or(|manifest| manifest.id != *id));
            }
            Change::Removed(_) => {}
        }
    }

    pub fn refused(&self) -> Vec<Refused> {
        let mut refused = self.lock();
        refused.retain(|folder, _| folder.join(FILE).is_file());
        let shown =
            |(folder, why): (&PathBuf, &String)| Refused { folder: folder.display().to_string(), why: why.clone() };
        refused.iter().map(shown).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, String>> {
        // Every change under this lock is a single step, so a panic cannot leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
