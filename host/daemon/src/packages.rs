//! What became of the packages in the watched folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use waza_runtime::manifest::FILE;
use waza_runtime::{Change, Manifest, RuntimeError};

use crate::wire::Refused;

/// Packages that were refused, with the reason, for as long as it holds.
#[derive(Default)]
pub(crate) struct Packages(Mutex<BTreeMap<PathBuf, Refusal>>);

struct Refusal {
    why: String,
    holds: While,
}

/// How long a reason holds, where nobody says that it does not any more.
enum While {
    /// While there is a package.
    Package,
    /// While there is one, and the other package of that name.
    Rival(PathBuf),
    /// While there are more packages than this.
    Over(usize),
}

impl Packages {
    pub fn note(&self, change: &Change) {
        match change {
            Change::Refused { folder, error } => {
                let holds = match error {
                    RuntimeError::Duplicate { first, .. } => While::Rival(first.clone()),
                    RuntimeError::TooMany { most, .. } => While::Over(*most),
                    _ => While::Package,
                };
                self.0.lock().insert(folder.clone(), Refusal { why: error.to_string(), holds });
            }
            // Of two packages of one name the other stays refused.
            Change::Loaded(id) => self.0.lock().retain(|folder, refusal| {
                let is_it = Manifest::open(folder).is_ok_and(|manifest| manifest.id == *id);
                !is_it || matches!(&refusal.holds, While::Rival(first) if is_package(first))
            }),
            Change::Removed(_) => {}
        }
    }

    pub fn refused(&self) -> Vec<Refused> {
        let mut refused = self.0.lock();
        refused.retain(|folder, refusal| match &refusal.holds {
            While::Package => is_package(folder),
            While::Rival(first) => is_package(folder) && is_package(first),
            While::Over(most) => std::fs::read_dir(folder).is_ok_and(|entries| entries.count() > *most),
        });
        let shown = |(folder, refusal): (&PathBuf, &Refusal)| Refused {
            folder: folder.display().to_string(),
            why: refusal.why.clone(),
        };
        refused.iter().map(shown).collect()
    }
}

fn is_package(folder: &Path) -> bool {
    folder.join(FILE).is_file()
}
