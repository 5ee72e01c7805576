//! From a run to the flight recorder, and back.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use waza_record::header::Budgets as Kept;
use waza_record::{Header, Package, Record, Recorder, WriteError, Written};
use waza_robot::Observation;
use waza_runtime::manifest::{FILE, WIT};
use waza_runtime::replay::Recorded;
use waza_runtime::{Budgets, Entry, Host, Journal, Manifest, SkillId, TaskRequest};

use crate::episode::Stage;
use crate::fault::{OrBadInput, bad_input};

/// A run that is being recorded.
pub struct Recording(Recorder);

impl Recording {
    /// Begins the record of a run of the package in `folder`, which is loaded.
    pub fn start(path: &Path, folder: &Path, request: &TaskRequest, stage: &Stage, host: &Host) -> Result<Self> {
        let manifest = Manifest::open(folder).or_bad_input()?;
        let read = |file: &Path| std::fs::read(file).with_context(|| format!("reading {}", file.display()));
        let text = String::from_utf8_lossy(&read(&folder.join(FILE))?).into_owned();
        let package = Package { component: read(&folder.join(&manifest.component))?, manifest: text };
        if !host.skills().iter().any(|loaded| loaded.digest.to_string() == package.digest()) {
            let place = folder.join(&manifest.component);
            return Err(bad_input("the component was replaced while it was loaded", place.display(), "run again"));
        }
        let model = stage.model.about();
        let header = Header {
            skill: manifest.id.to_string(),
            version: manifest.version.to_string(),
            component: package.digest(),
            wit: WIT.to_string(),
            instruction: request.instruction.clone(),
            parameters: request.parameters.clone(),
            resume: request.resume.clone(),
            seed: request.seed,
            embodiment: stage.embodiment.name.clone(),
            model: model.name.clone(),
            model_digest: model.digest.clone(),
            budgets: kept(&Budgets::default()),
        };
        Ok(Self(Recorder::create(path, &header, package, stage.embodiment.clone()).or_bad_input()?))
    }

    /// Waits for the disk.
    pub fn finish(&self) -> Result<Written, WriteError> {
        self.0.finish()
    }
}

impl Journal for Recording {
    fn entry(&self, at_ns: u64, entry: &Entry) {
        self.0.entry(at_ns, entry.to_string());
    }

    fn observed(&self, observation: u32, seen: &Arc<Observation>) {
        self.0.observed(observation, seen.clone());
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
