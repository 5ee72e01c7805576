//! The checkpoints of runs on disk: what a host that was killed leaves for the next.
//!
//! One file a run, written whole or not at all: a line of JSON that says what the run was, and the state after it. A file that
//! is damaged is set aside, with a warning.

use std::collections::BTreeMap;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::contract::TaskRequest;
use crate::error::RuntimeError;
use crate::ids::{Digest, RunId, SkillId};
use crate::package::Package;
use crate::run::Job;
use crate::state::StateFolder;
use crate::state::disk_writer::{Desk, Scribe, Written};

/// The most that a file may have: a checkpoint of 1 MiB, and what the run was.
const MOST_BYTES: u64 = 4 << 20;

/// How a file ends that was damaged.
const ASIDE: &str = "damaged";

/// A run that its host did not live to end.
#[derive(Debug, Clone, PartialEq)]
pub struct Interrupted {
    /// As it was then; a run that is resumed keeps it.
    pub id: RunId,
    /// The skill.
    pub skill: SkillId,
    /// The version that left the checkpoint.
    pub version: semver::Version,
    /// What it was to do, with the state from which it can go on.
    pub request: TaskRequest,
}

#[derive(Serialize, Deserialize)]
struct Header {
    run: RunId,
    skill: SkillId,
    version: semver::Version,
    digest: Digest,
    instruction: String,
    parameters: String,
    seed: u64,
    priority: u8,
    state_bytes: u64,
    state_digest: Digest,
}

/// Where runs leave their checkpoints.
pub(crate) struct RunFiles {
    folder: PathBuf,
    scribe: Scribe,
}

/// Where one run does.
#[derive(Clone)]
pub(crate) struct RunFile {
    path: PathBuf,
    desk: Arc<Desk>,
}

impl RunFiles {
    pub fn open(state: &StateFolder) -> Result<Self, RuntimeError> {
        let folder = state.folder("runs")?;
        let scribe = Scribe::start().map_err(|error| RuntimeError::Engine(error.to_string()))?;
        Ok(Self { folder, scribe })
    }

    pub fn of(&self, run: RunId) -> RunFile {
        RunFile { path: self.folder.join(format!("{run}.run")), desk: self.scribe.desk() }
    }

    /// What earlier hosts left.
    pub fn interrupted(&self) -> BTreeMap<RunId, Interrupted> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().filter_map(Result::ok);
        let files = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|it| it == "run"));
        files
            .filter_map(|path| match Interrupted::read(&path) {
                Ok(found) => Some((found.id, found)),
                Err(what) => {
                    tracing::warn!("{} is no checkpoint of a run ({what}); it is set aside", path.display());
                    // Where even that fails it is found again, with the same warning.
                    let _ = std::fs::rename(&path, path.with_extension(ASIDE));
                    None
                }
            })
            .collect()
    }
}

impl RunFile {
    /// Keeps a checkpoint in place of the one before.
    pub fn keep(&self, job: &Job, skill: &Package, checkpoint: &[u8]) -> std::io::Result<Written> {
        let header = Header {
            run: job.id,
            skill: skill.manifest.id.clone(),
            version: skill.manifest.version.clone(),
            digest: skill.digest,
            instruction: job.request.instruction.clone(),
            parameters: job.request.parameters.clone(),
            seed: job.request.seed,
            priority: job.request.priority,
            state_bytes: checkpoint.len() as u64,
            state_digest: Digest::of(checkpoint),
        };
        let mut content = serde_json::to_vec(&header)?;
        content.push(b'\n');
        content.extend_from_slice(checkpoint);
        Ok(self.desk.write(&self.path, content))
    }

    /// The run is over.
    pub fn remove(&self) {
        if let Err(error) = self.desk.remove(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("{} could not be removed: {error}", self.path.display());
        }
    }
}

impl Interrupted {
    /// Reads what a host left of a run.
    ///
    /// # Errors
    /// In one sentence: the file cannot be read, or is not what a host wrote.
    pub fn read(path: &Path) -> Result<Self, String> {
        let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
        let mut file = std::io::BufReader::new(file.take(MOST_BYTES));
        let mut line = Vec::new();
        file.read_until(b'\n', &mut line).map_err(|error| error.to_string())?;
        let header: Header = serde_json::from_slice(&line).map_err(|error| error.to_string())?;
        let mut checkpoint = Vec::new();
        file.read_to_end(&mut checkpoint).map_err(|error| error.to_string())?;
        if checkpoint.len() as u64 != header.state_bytes || Digest::of(&checkpoint) != header.state_digest {
            return Err("its state is not the one that it announces".into());
        }
        let Header { run, skill, version, instruction, parameters, seed, priority, .. } = header;
        let request = TaskRequest { instruction, parameters, resume: Some(checkpoint), seed, priority };
        Ok(Self { id: run, skill, version, request })
    }
}
