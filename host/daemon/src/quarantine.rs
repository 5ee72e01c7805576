//! Which versions it was said of that they are not run any more: each is news once.

use parking_lot::Mutex;
use waza_runtime::{Host, Quarantined};

/// What is known to be quarantined.
#[derive(Default)]
pub(crate) struct Known(Mutex<Vec<Quarantined>>);

impl Known {
    /// What a host has quarantined since this was last asked.
    pub fn news(&self, host: &Host) -> Vec<Quarantined> {
        let mut known = self.0.lock();
        let now = host.quarantined();
        let is_known = |version: &Quarantined| known.iter().any(|known| is_same(known, version));
        let news = now.iter().filter(|version| !is_known(version)).cloned().collect();
        *known = now;
        news
    }
}

/// Whether they are the same version, whatever else it has done since.
fn is_same(one: &Quarantined, other: &Quarantined) -> bool {
    (&one.skill, &one.version, one.digest) == (&other.skill, &other.version, other.digest)
}
