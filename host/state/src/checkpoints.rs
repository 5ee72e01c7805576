//! The checkpoints of runs on disk: from where a run can go on that its host did not live to end, or that the host stop ended.
//!
//! One file a run, written whole or not at all: a line of JSON that says what the run was, and the state after it. It is there
//! from the first checkpoint until the run has come to its own end, or until somebody wants it no more. A file that is damaged
//! is set aside, with a warning.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use waza_package::{Digest, SkillId, VersionId};

use crate::error::StateError;
use crate::folder::StateFolder;
use crate::run::{RunId, TaskRequest};
use crate::writer::{Writer, Written};

/// The most that a file may have: a checkpoint of 1 MiB, and what the run was.
const MOST_BYTES: usize = 4 << 20;

/// Runs that can go on and that are remembered; beyond, the oldest are forgotten.
const MOST_LEFT: usize = 256;

/// How a file ends.
const EXTENSION: &str = "run";

/// How one ends that was damaged.
const ASIDE: &str = "damaged";

/// A run that can go on from its last checkpoint: its host did not live to end it, or it was ended with the host or by the
/// host stop.
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

/// Where runs leave their checkpoints, and the runs that can go on.
pub struct RunFiles {
    folder: PathBuf,
    writer: Writer,
    /// What nobody has decided about.
    left: Mutex<BTreeMap<RunId, Arc<Interrupted>>>,
}

/// Where one run leaves its checkpoints.
pub struct RunFile {
    run: RunId,
    files: Arc<RunFiles>,
    /// Which version left the one that is in the file, if any did.
    left_by: Mutex<Option<semver::Version>>,
}

impl RunFiles {
    /// With what earlier hosts left.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn open(state: &StateFolder) -> Result<Arc<Self>, StateError> {
        let folder = state.folder("runs")?;
        let left = Mutex::new(left(&folder));
        Ok(Arc::new(Self { folder, writer: state.writer(), left }))
    }

    /// Of a run that begins.
    pub fn of(self: &Arc<Self>, run: RunId) -> RunFile {
        RunFile { run, files: self.clone(), left_by: Mutex::default() }
    }

    /// The runs that can go on, by number.
    pub fn interrupted(&self) -> Vec<Arc<Interrupted>> {
        self.left.lock().values().cloned().collect()
    }

    /// The newest of them.
    pub fn last(&self) -> Option<RunId> {
        self.left.lock().keys().next_back().copied()
    }

    /// One of them.
    pub fn find(&self, run: RunId) -> Option<Arc<Interrupted>> {
        self.left.lock().get(&run).cloned()
    }

    /// A run that was interrupted goes on. None: there is none, any more.
    pub fn resume(self: &Arc<Self>, run: RunId) -> Option<RunFile> {
        let left = self.left.lock().remove(&run)?;
        Some(RunFile { left_by: Mutex::new(Some(left.version.clone())), ..self.of(run) })
    }

    /// Forgets a run that was interrupted. False: there is none.
    pub fn forget(&self, run: RunId) -> bool {
        let found = self.left.lock().remove(&run).is_some();
        if found {
            self.writer.remove(&self.path(run));
        }
        found
    }

    fn leave(&self, interrupted: Interrupted) {
        let mut left = self.left.lock();
        left.insert(interrupted.id, Arc::new(interrupted));
        while left.len() > MOST_LEFT
            && let Some((run, _)) = left.pop_first()
        {
            tracing::warn!(%run, "forgotten: more than {MOST_LEFT} runs were interrupted");
            self.writer.remove(&self.path(run));
        }
    }

    fn path(&self, run: RunId) -> PathBuf {
        self.folder.join(format!("{run}.{EXTENSION}"))
    }
}

impl RunFile {
    /// Lets a checkpoint be kept in place of the one before.
    ///
    /// # Errors
    /// If the file would be larger than one is read.
    pub fn keep(&self, left_by: VersionId, request: &TaskRequest, state: &[u8]) -> io::Result<Written> {
        let version = left_by.version.clone();
        let content = spell(self.run, left_by, request, state)?;
        *self.left_by.lock() = Some(version);
        Ok(self.files.writer.write(&self.files.path(self.run), move || Ok(content)))
    }

    /// The run has come to its end.
    pub fn remove(&self) {
        self.files.writer.remove(&self.files.path(self.run));
    }

    /// The run is over, and can go on from its last checkpoint, if it left one.
    pub fn leave(&self, skill: SkillId, request: &TaskRequest, state: Option<Vec<u8>>) {
        let Some((version, state)) = self.left_by.lock().clone().zip(state) else { return };
        let request = TaskRequest { resume: Some(state), ..request.clone() };
        self.files.leave(Interrupted { id: self.run, skill, version, request });
    }
}

impl Interrupted {
    /// Reads what a host left of a run.
    ///
    /// # Errors
    /// In one sentence: the file cannot be read, or is not what a host wrote.
    pub fn read(path: &Path) -> Result<Self, String> {
        let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
        let mut bytes = Vec::new();
        file.take(MOST_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        Self::parse(&bytes)
    }

    /// Of the bytes of a file.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > MOST_BYTES {
            return Err(format!("it has more than {MOST_BYTES} bytes"));
        }
        let end = bytes.iter().position(|byte| *byte == b'\n').ok_or("its first line has no end")?;
        let (line, checkpoint) = (&bytes[..end], &bytes[end + 1..]);
        let header: Header = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        if checkpoint.len() as u64 != header.state_bytes || Digest::of(checkpoint) != header.state_digest {
            return Err("its state is not the one that it announces".into());
        }
        let Header { run, skill, version, instruction, parameters, seed, priority, .. } = header;
        let request = TaskRequest { instruction, parameters, resume: Some(checkpoint.into()), seed, priority };
        Ok(Self { id: run, skill, version, request })
    }
}

/// What earlier hosts left in a folder.
fn left(folder: &Path) -> BTreeMap<RunId, Arc<Interrupted>> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let files = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|it| it == EXTENSION));
    let read = |path: &Path| {
        let found = Interrupted::read(path)?;
        // What is forgotten under one name must not come back under another.
        let named = path.file_stem().is_some_and(|name| name.to_str() == Some(&found.id.to_string()));
        if named { Ok(found) } else { Err(format!("it is of run {}", found.id)) }
    };
    files
        .filter_map(|path| match read(&path) {
            Ok(found) => Some((found.id, Arc::new(found))),
            Err(what) => {
                tracing::warn!("{} is no checkpoint of a run ({what}); it is set aside", path.display());
                // Where even that fails it is found again, with the same warning.
                let _ = std::fs::rename(&path, path.with_extension(ASIDE));
                None
            }
        })
        .collect()
}

/// What [`Interrupted::parse`] takes.
fn spell(run: RunId, left_by: VersionId, request: &TaskRequest, state: &[u8]) -> io::Result<Vec<u8>> {
    let header = Header {
        run,
        skill: left_by.id,
        version: left_by.version,
        digest: left_by.digest,
        instruction: request.instruction.clone(),
        parameters: request.parameters.clone(),
        seed: request.seed,
        priority: request.priority,
        state_bytes: state.len() as u64,
        state_digest: Digest::of(state),
    };
    let content = bytes(&header, state)?;
    if content.len() > MOST_BYTES {
        let (bytes, all) = (request.instruction.len() + request.parameters.len(), content.len());
        let what = format!(
            "the run's instruction and parameters have {bytes} bytes, and with them the checkpoint {all}; it may have \
             {MOST_BYTES}, so give the run less to begin with"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    Ok(content)
}

fn bytes(header: &Header, state: &[u8]) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(header)?;
    bytes.push(b'\n');
    bytes.extend_from_slice(state);
    Ok(bytes)
}

/// What is read is no larger than what it came from, and is the same when it was written and read again.
#[cfg(fuzzing)]
pub(crate) fn check(file: &[u8]) {
    let Ok(found) = Interrupted::parse(file) else { return };
    let TaskRequest { instruction, parameters, resume, .. } = &found.request;
    let state = resume.as_deref().unwrap_or_default();
    assert!(instruction.len() + parameters.len() + state.len() <= file.len());
    let line = file.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let header: Header = serde_json::from_slice(line).expect("it was read before");
    let again = bytes(&header, state).expect("it is in memory");
    if again.len() <= MOST_BYTES {
        assert_eq!(Interrupted::parse(&again).as_ref(), Ok(&found));
    }
}

/// What a host leaves of a run.
#[cfg(fuzzing)]
pub(crate) fn real() -> Vec<u8> {
    let id = SkillId::try_from("acme/wave".to_owned()).expect("it is an id");
    let left_by = VersionId { id, version: semver::Version::new(1, 2, 3), digest: Digest::of(b"component") };
    let request = TaskRequest { instruction: "wave".into(), seed: 7, ..TaskRequest::default() };
    spell(RunId(3), left_by, &request, b"state").expect("it is small")
}
