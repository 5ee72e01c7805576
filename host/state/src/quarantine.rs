//! Which versions of skills and controllers are not run any more, and why.
//!
//! A version is an id, a version number and the digest of its component. Each of its runs that ends by a crash, a budget that
//! was used up or a power that it was not granted is a strike; with the third it is quarantined. Strikes do not wear off: a
//! skill that behaves in between is not to be trusted more. Another component starts afresh, whatever it calls itself.
//! What an operator stopped, what a skill refused itself and what robot or model could not do is no strike. A controller
//! gets one also for an answer that is no position; one that the machine kept from answering in time does not.
//!
//! All of it is kept in one file of the host's state folder, so that neither a reload nor a restart forgets it. What counts is
//! in memory at once and nobody waits for the file: it follows as soon as the disk takes it, at the latest when the host ends.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use waza_package::{Digest, SkillId, VersionId};

use crate::folder::StateFolder;
use crate::writer::Writer;

/// With which strike a version is quarantined.
pub const STRIKES: usize = 3;

/// The name of the file in the state folder.
pub const FILE: &str = "quarantine.json";

/// Versions that are remembered; beyond, those that were not quarantined are forgotten first, then the oldest.
const MOST_RECORDS: usize = 1024;

/// Of one reason. A skill's last words may be long.
const LONGEST_REASON: usize = 400;

/// Far more than the most records have.
const MOST_BYTES: u64 = 4 << 20;

/// A version of a skill that is not run any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// `vendor/name`.
    pub skill: SkillId,
    /// Of the skill.
    pub version: semver::Version,
    /// Of its component.
    pub digest: Digest,
    /// Its last strikes in words, or what was found wrong with it, oldest first.
    pub why: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Record {
    skill: String,
    version: semver::Version,
    digest: Digest,
    quarantined: bool,
    why: Vec<String>,
}

impl Record {
    fn is_of(&self, of: &VersionId) -> bool {
        self.digest == of.digest && self.skill == of.id.as_str() && self.version == of.version
    }
}

/// The records of all versions that have a strike, oldest first, and where they are kept.
pub struct Quarantine {
    records: Mutex<Vec<Arc<Record>>>,
    file: Option<(PathBuf, Writer)>,
}

impl Quarantine {
    /// As the state folder has it. A file that is damaged is moved aside: losing strikes is better than a robot that does
    /// not start.
    pub fn open(state: Option<&StateFolder>) -> Self {
        let file = state.map(|folder| (folder.file(FILE), folder.writer()));
        let records = file.as_ref().map(|(path, _)| recall(path)).unwrap_or_default();
        Self { records: Mutex::new(records.into_iter().map(Arc::new).collect()), file }
    }

    /// Why a version is not run any more. None: it may be run.
    pub fn why(&self, version: &VersionId) -> Option<String> {
        let records = self.records.lock();
        let record = records.iter().find(|record| record.quarantined && record.is_of(version))?;
        Some(record.why.join("; "))
    }

    /// Counts a failure.
    pub fn strike(&self, version: &VersionId, why: String) {
        self.add(version, why, |record| record.why.len() >= STRIKES);
    }

    /// Quarantines a version whatever its runs came to.
    pub fn condemn(&self, version: &VersionId, why: &str) {
        self.add(version, why.into(), |_| true);
    }

    /// Forgets every strike of a skill, whichever version's. Says whether one of them was quarantined.
    pub fn pardon(&self, skill: &SkillId) -> bool {
        let mut records = self.records.lock();
        let forgotten: Vec<_> = records.extract_if(.., |record| record.skill == skill.as_str()).collect();
        if !forgotten.is_empty() {
            self.keep(&records);
        }
        forgotten.iter().any(|record| record.quarantined)
    }

    /// What is quarantined, oldest first.
    pub fn list(&self) -> Vec<Quarantined> {
        let shown = |record: &Arc<Record>| {
            let Record { skill, version, digest, why, .. } = Record::clone(record);
            // Only ids get in, here or by the file's check.
            Some(Quarantined { skill: skill.try_into().ok()?, version, digest, why })
        };
        self.records.lock().iter().filter(|record| record.quarantined).filter_map(shown).collect()
    }

    fn add(&self, version: &VersionId, why: String, quarantines: impl FnOnce(&Record) -> bool) {
        let mut records = self.records.lock();
        let mut record = match records.iter().position(|record| record.is_of(version)) {
            Some(index) => Arc::unwrap_or_clone(records.remove(index)),
            None => Record {
                skill: version.id.as_str().into(),
                version: version.version.clone(),
                digest: version.digest,
                quarantined: false,
                why: Vec::new(),
            },
        };
        record.why.push(shortened(why));
        if !record.quarantined && quarantines(&record) {
            record.quarantined = true;
            tracing::error!(skill = record.skill, version = %record.version, why = ?record.why, "quarantined");
        }
        let oldest = record.why.len().saturating_sub(STRIKES);
        record.why.drain(..oldest);
        records.push(Arc::new(record));
        if records.len() > MOST_RECORDS {
            let forgotten = records.iter().position(|record| !record.quarantined).unwrap_or(0);
            records.remove(forgotten);
        }
        self.keep(&records);
    }

    /// Lets the records be written as they are now. Under the records' lock, so that the newest are written last.
    fn keep(&self, records: &[Arc<Record>]) {
        let Some((path, writer)) = &self.file else { return };
        let records = records.to_vec();
        // Nobody waits for it; where it fails, whoever writes says so, and the next change is written with this one.
        drop(writer.write(path, move || spell(&records)));
    }
}

fn shortened(mut why: String) -> String {
    if why.len() > LONGEST_REASON {
        why.truncate(why.floor_char_boundary(LONGEST_REASON));
        why.push_str(" ...");
    }
    why
}

fn recall(file: &Path) -> Vec<Record> {
    match read(file) {
        Ok(records) => records,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            let aside = file.with_extension("json.damaged");
            let moved = std::fs::rename(file, &aside);
            let (from, to) = (file.display(), aside.display());
            tracing::warn!(moved = moved.is_ok(), "{from} is damaged ({error}); nothing is quarantined, see {to}");
            Vec::new()
        }
    }
}

fn read(file: &Path) -> io::Result<Vec<Record>> {
    let bytes = std::fs::metadata(file)?.len();
    if bytes > MOST_BYTES {
        return Err(io::Error::other(format!("it has {bytes} bytes")));
    }
    parse(&std::fs::read(file)?)
}

fn parse(json: &[u8]) -> io::Result<Vec<Record>> {
    let records: Vec<Record> = serde_json::from_slice(json)?;
    match records.iter().find_map(|record| SkillId::try_from(record.skill.clone()).err()) {
        Some(wrong) => Err(io::Error::other(wrong)),
        None => Ok(records),
    }
}

fn spell(records: &[Arc<Record>]) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec_pretty(&records.iter().map(|record| &**record).collect::<Vec<_>>())?)
}

/// What is read is the same when it was written and read again, and nobody is quarantined whose name is no id.
#[cfg(fuzzing)]
pub(crate) fn check(file: &[u8]) {
    let Ok(found) = parse(file) else { return };
    let records: Vec<_> = found.iter().cloned().map(Arc::new).collect();
    assert_eq!(parse(&spell(&records).expect("it is in memory")).ok(), Some(found));
    let quarantined = records.iter().filter(|record| record.quarantined).count();
    assert_eq!(Quarantine { records: Mutex::new(records), file: None }.list().len(), quarantined);
}

/// What a host has of its versions.
#[cfg(fuzzing)]
pub(crate) fn real() -> Vec<u8> {
    let record = |version, quarantined| Record {
        skill: "acme/wave".into(),
        version: semver::Version::new(version, 0, 0),
        digest: Digest::of(b"component"),
        quarantined,
        why: vec!["it crashed".into(); STRIKES],
    };
    spell(&[record(1, true), record(2, false)].map(Arc::new)).expect("it is in memory")
}
