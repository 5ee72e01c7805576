//! From a run to the flight recorder, and back.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use waza_record::header::Budgets as Kept;
use waza_record::{Header, Package, Record, Recorder, WriteError, Written};
use waza_robot::Observation;
use waza_runtime::manifest::{self, WIT};
use waza_runtime::replay::Recorded;
use waza_runtime::{Budgets, Entry, Host, Journal, Layout, Manifest, SkillId, Source, TaskRequest};

use crate::fault::{OrBadInput, bad_input};

/// A run that is being recorded.
pub struct Recording {
    recorder: Recorder,
    path: PathBuf,
}

impl Recording {
    /// Begins the record of a run of the package in `folder`, which is loaded.
    pub fn start(path: &Path, folder: &Path, request: &TaskRequest, host: &Host) -> Result<Self> {
        let manifest = Manifest::open(folder).or_bad_input()?;
        let text = manifest::text(folder).or_bad_input()?;
        // It is loaded from there, by the digest.
        let component = Source::open(folder, &manifest, Layout::BuildTree).and_then(|it| it.to_vec()).or_bad_input()?;
        let package = Package { component, manifest: text };
        if !host.skills().iter().any(|loaded| loaded.digest.to_string() == package.digest()) {
            let place = folder.join(&manifest.component);
            return Err(bad_input("the component was replaced while it was loaded", place.display(), "run again"));
        }
        let (model, embodiment) = (host.model(), host.robot().embodiment());
        let header = Header {
            skill: manifest.id.to_string(),
            version: manifest.version.to_string(),
            component: package.digest(),
            wit: WIT.to_string(),
            instruction: request.instruction.clone(),
            parameters: request.parameters.clone(),
            resume: request.resume.clone(),
            seed: request.seed,
            embodiment: embodiment.name.clone(),
            model: model.name.clone(),
            model_digest: model.digest.clone(),
            budgets: kept(&Budgets::default()),
        };
        let recorder = Recorder::create(path, &header, package, embodiment.clone()).or_bad_input()?;
        Ok(Self { recorder, path: path.into() })
    }

    /// Waits for the disk.
    pub fn finish(&self) -> Result<Written, WriteError> {
        self.recorder.finish()
    }
}

impl Journal for Recording {
    fn entry(&self, at_ns: u64, entry: &Entry) {
        self.recorder.entry(at_ns, entry.to_string());
    }

    fn observed(&self, observation: u32, seen: &Arc<Observation>) {
        self.recorder.observed(observation, seen.clone());
    }
}

impl waza_daemon::Record for Recording {
    fn path(&self) -> &Path {
        &self.path
    }

    fn finish(&self) -> Option<String> {
        match self.recorder.finish() {
            Ok(Written { cut, .. }) => cut,
            Err(error) => Some(error.to_string()),
        }
    }

    fn discard(&self) {
        // Whatever came of it, it is not wanted.
        let _ = self.recorder.finish();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A folder of records, one file a run.
pub struct RecordFolder {
    folder: PathBuf,
    /// Where the packages of the skills are.
    skills: PathBuf,
}

impl RecordFolder {
    /// Makes the folder if it is not there.
    pub fn open(folder: &Path, skills: &Path) -> Result<Self> {
        let refused = |error| bad_input(error, folder.display(), "name a folder that can be written with --records");
        std::fs::create_dir_all(folder).map_err(refused)?;
        Ok(Self { folder: std::path::absolute(folder).or_bad_input()?, skills: skills.into() })
    }

    /// A file that nobody has yet: the skill's name and the next number.
    fn next(&self, skill: &SkillId) -> Result<PathBuf> {
        let name = skill.as_str().replace('/', "-");
        let mut number = 1u64;
        loop {
            let path = self.folder.join(format!("{name}-{number}.mcap"));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(_) => return Ok(path),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(bad_input(error, path.display(), "make room, or let it be written")),
            }
        }
    }

    /// The package of a skill that is loaded.
    fn package(&self, skill: &SkillId) -> Result<PathBuf> {
        let entries = std::fs::read_dir(&self.skills).with_context(|| self.skills.display().to_string())?;
        let mut folders = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let is_it = |folder: &PathBuf| Manifest::open(folder).is_ok_and(|manifest| manifest.id == *skill);
        let gone = || bad_input("its package is gone", self.skills.display(), "bring the package back");
        folders.find(is_it).ok_or_else(gone)
    }
}

impl waza_daemon::Records for RecordFolder {
    fn begin(
        &self,
        host: &Host,
        skill: &SkillId,
        request: &TaskRequest,
    ) -> Result<Arc<dyn waza_daemon::Record>, String> {
        let begin = || {
            let package = self.package(skill)?;
            let path = self.next(skill)?;
            Recording::start(&path, &package, request, host).inspect_err(|_| {
                // It holds nothing.
                let _ = std::fs::remove_file(&path);
            })
        };
        match begin() {
            Ok(recording) => Ok(Arc::new(recording)),
            Err(error) => Err(format!("{error:#}")),
        }
    }
}

fn kept(budgets: &Budgets) -> Kept {
    Kept {
        cpu_burst_ms: budgets.cpu_burst.as_millis() as u64,
        cpu_time_ms: budgets.cpu_time.as_millis() as u64,
        memory_bytes: budgets.memory_bytes as u64,
        table_elements: budgets.table_elements as u64,
        handles: budgets.handles as u64,
        call_bytes: budgets.call_bytes as u64,
        log_bytes: budgets.log_bytes,
    }
}

/// The budgets that held when it was recorded, within what this host gives anybody.
pub fn budgets(header: &Header) -> Budgets {
    let most = Budgets::default();
    let within = |kept: u64, most: usize| usize::try_from(kept).unwrap_or(most).min(most);
    let Kept { cpu_burst_ms, cpu_time_ms, memory_bytes, table_elements, handles, call_bytes, log_bytes } =
        header.budgets;
    Budgets {
        cpu_burst: Duration::from_millis(cpu_burst_ms).min(most.cpu_burst),
        cpu_time: Duration::from_millis(cpu_time_ms).min(most.cpu_time),
        memory_bytes: within(memory_bytes, most.memory_bytes),
        table_elements: within(table_elements, most.table_elements),
        handles: within(handles, most.handles),
        call_bytes: within(call_bytes, most.call_bytes),
        log_bytes: log_bytes.min(most.log_bytes),
        ..most
    }
}

/// What can be replayed of a record, and why it is not more.
pub fn recorded(record: &Record) -> Result<(Recorded, Option<String>)> {
    let header = &record.header;
    let skill = SkillId::try_from(header.skill.clone()).map_err(anyhow::Error::msg).or_bad_input()?;
    let request = TaskRequest {
        instruction: header.instruction.clone(),
        parameters: header.parameters.clone(),
        resume: header.resume.clone(),
        seed: header.seed,
        // Of no meaning without a robot.
        priority: 0,
    };
    let mut cut = record.cut.clone();
    let mut entries = Vec::with_capacity(record.entries.len());
    for (index, (at_ns, text)) in record.entries.iter().enumerate() {
        match text.parse::<Entry>() {
            Ok(entry) => entries.push((*at_ns, entry)),
            Err(error) => {
                cut = Some(format!("entry {index} is damaged: {error}"));
                break;
            }
        }
    }
    Ok((Recorded { skill, request, entries }, cut))
}
