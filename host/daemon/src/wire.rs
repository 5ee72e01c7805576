//! What goes over HTTP as JSON. The client reads what the server writes: one definition for both.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use waza_runtime::RunId;

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The embodiment's name.
    pub robot: String,
    /// `real time` or `lockstep`.
    pub pace: String,
    /// Ticks a second.
    pub control_hz: f32,
    /// The newest tick that is over.
    pub tick: u64,
    /// Control periods in which no tick could start.
    pub missed_ticks: u64,
    /// Reads and writes of the robot link that failed.
    pub link_errors: u64,
    /// How often each rule of the safety filter began to act.
    pub interventions: BTreeMap<String, u64>,
    /// The number of the host stop that is latched: what `POST /v1/reset` must name.
    pub stopped: Option<u64>,
    /// Whether the robot's link works and every declared stop source has been seen alive; nothing moves before.
    pub armed: bool,
    /// Whether the robot can be moved at all.
    pub condition: Condition,
    /// In the order of their declaration.
    pub stop_sources: Vec<StopSource>,
    /// What the skills ask.
    pub model: Model,
    /// Runs in flight.
    pub running: usize,
}

/// Whether a robot can be moved at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// The control loop ticks and its link works.
    #[default]
    Works,
    /// The control loop ticks, but its link answers nothing or only errors. It holds, and tries again.
    LinkDown,
    /// There is no control loop any more; only another start of the host brings one.
    Ended,
}

/// One way in which the robot may be stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopSource {
    /// As `--stop` names it.
    pub name: String,
    /// Whether it has been seen alive.
    pub seen: bool,
}

/// The model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it runs on, for people.
    pub device: String,
}

/// `GET /v1/skills`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skills {
    /// By id.
    pub loaded: Vec<Skill>,
    /// By folder.
    pub refused: Vec<Refused>,
    /// Versions that are not run any more, oldest first.
    pub quarantined: Vec<Quarantined>,
}

/// A loaded skill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skill {
    /// `vendor/name`.
    pub id: String,
    /// Of the skill.
    pub version: String,
    /// `skill` runs when it is asked to; `controller` works in the control loop, for a skill that engages it.
    pub world: String,
    /// What it asks to be allowed.
    pub permissions: Vec<String>,
}

/// A package that was not loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Where it is.
    pub folder: String,
    /// One line with the cause, the place and a way out.
    pub why: String,
}

/// A version that is not run any more, until it is pardoned or another takes its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// `vendor/name`.
    pub skill: String,
    /// Of the skill.
    pub version: String,
    /// What it did, oldest first.
    pub why: Vec<String>,
}

/// `POST /v1/runs`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartRun {
    /// `vendor/name`.
    pub skill: String,
    /// In words.
    #[serde(default)]
    pub instruction: String,
    /// Of the form that the skill documents; `null` for none.
    #[serde(default)]
    pub parameters: Value,
    /// Of the model's noise and of the skill's random numbers.
    #[serde(default)]
    pub seed: u64,
    /// It gives way to a run of higher priority that wants its joints.
    #[serde(default)]
    pub priority: u8,
    /// Write down every call and every observation; such a run keeps its version.
    #[serde(default)]
    pub record: bool,
}

/// One run. `GET /v1/runs/{id}` and the last of its events have all of it; lists, and what is answered to whoever starts or
/// ends a run, are [brief](Run::brief).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its number.
    pub id: RunId,
    /// The skill.
    pub skill: String,
    /// The version of it that works, or worked last.
    pub version: String,
    /// What it was asked to do.
    pub instruction: String,
    /// Of its noise.
    pub seed: u64,
    /// How far it is.
    pub state: RunState,
    /// What it came to, if it succeeded.
    pub outcome: Option<Outcome>,
    /// Why it failed, if it did.
    pub error: Option<Problem>,
    /// What it said last about how far it is.
    pub progress: Option<Progress>,
    /// Events by kind.
    pub events: BTreeMap<String, u64>,
    /// The file on the host that has its record; whole when the run has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
}

impl Run {
    /// The same in few words: without the outcome's data, and with no sentence longer than [`LONGEST_BRIEF`].
    pub fn brief(mut self) -> Self {
        let sentences = [
            Some(&mut self.instruction),
            self.outcome.as_mut().map(|outcome| &mut outcome.summary),
            self.error.as_mut().map(|error| &mut error.cause),
            self.progress.as_mut().map(|progress| &mut progress.note),
        ];
        sentences.into_iter().flatten().for_each(shorten);
        if let Some(outcome) = &mut self.outcome {
            outcome.data = None;
        }
        self
    }
}

/// Bytes of a sentence where it is shown briefly.
pub const LONGEST_BRIEF: usize = 400;

/// Leaves the beginning of what is too long to be shown briefly.
pub(crate) fn shorten(sentence: &mut String) {
    if sentence.len() > LONGEST_BRIEF {
        sentence.truncate(sentence.floor_char_boundary(LONGEST_BRIEF));
        sentence.push_str(" ...");
    }
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// It works.
    Running,
    /// It ended with an outcome.
    Succeeded,
    /// It ended with an error.
    Failed,
    /// An earlier host did not live to end it; `POST /v1/runs/{id}/resume` lets it go on from its checkpoint.
    Interrupted,
}

/// What a task came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// One sentence for people.
    pub summary: String,
    /// JSON for programs; may be empty. `None` where the run is shown briefly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
}

/// What a skill says about how far it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// In [0, 1].
    pub fraction: f32,
    /// One sentence.
    pub note: String,
}

/// `POST /v1/reset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reset {
    /// The stop that was seen.
    pub stop: u64,
}

/// `POST /v1/leases/revoke` and `POST /v1/quarantine/pardon`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfSkill {
    /// `vendor/name`.
    pub skill: String,
}

/// What `POST /v1/stop` and `POST /v1/reset` answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latch {
    /// The number of the host stop that is latched.
    pub stopped: Option<u64>,
}

/// What a request that fails is answered: `{"error": {...}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Why.
    pub error: Problem,
}

/// Why a request or a run failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// For programs: a word that does not change.
    pub kind: String,
    /// One sentence.
    pub cause: String,
    /// What to do about it.
    pub way_out: String,
}
