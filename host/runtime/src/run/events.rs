//! What a run tells whoever started it, as it happens.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use waza_package::SkillId;
use waza_robot::Intervention;

/// Something happened in a run, or in a skill that it invoked. Reported on the run's thread, under lockstep while robot
/// time stands still; whoever listens must not wait.
///
/// As JSON it is an object with its `kind` in it, as text one line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Event {
    /// The skill reports how far it is.
    Progress {
        /// In [0, 1].
        fraction: f32,
        /// One sentence.
        note: String,
    },
    /// The model answered.
    Inference {
        /// Device time, without waiting for it.
        #[serde(rename = "seconds", with = "seconds")]
        elapsed: Duration,
    },
    /// The safety filter changed a command.
    #[serde(skip_deserializing)]
    Intervention(Intervention),
    /// A question was answered.
    Confirmed {
        /// The skill's.
        question: String,
        /// Yes or no.
        answer: bool,
    },
    /// The skill left a checkpoint.
    Checkpoint {
        /// Its size.
        bytes: usize,
    },
    /// A version of the skill is ready to take the place of the one that works, at its next checkpoint.
    SwapOffered {
        /// The skill: the run's own, or one that it invoked.
        skill: SkillId,
        /// The new one.
        version: semver::Version,
    },
    /// Another version goes on with the run. It is on probation.
    Swapped {
        /// The skill.
        skill: SkillId,
        /// The old one.
        from: semver::Version,
        /// The new one.
        to: semver::Version,
        /// From when it was asked for to its first call.
        #[serde(rename = "seconds", with = "seconds")]
        took: Duration,
    },
    /// A version has passed its probation.
    SwapSettled {
        /// The skill.
        skill: SkillId,
        /// Which.
        version: semver::Version,
    },
    /// A version did not prove itself; the one before goes on.
    RolledBack {
        /// The skill.
        skill: SkillId,
        /// The one that failed.
        from: semver::Version,
        /// The one that goes on.
        to: semver::Version,
        /// One sentence.
        why: String,
    },
    /// Something became of a controller that the skill engaged.
    Controller {
        /// Its id.
        controller: SkillId,
        /// What.
        change: ControllerChange,
    },
    /// The skill wrote a line to standard output or error.
    Log {
        /// Without its end.
        line: String,
    },
}

/// What became of a controller that drives joints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControllerChange {
    /// A newer version took over between two ticks, on probation.
    Swapped {
        /// The version that is kept until then.
        from: semver::Version,
        /// The version that answers from here on.
        to: semver::Version,
    },
    /// A newer version refused the state, or failed in its probation. The older one goes on, and the newer is withdrawn.
    Kept {
        /// The older.
        version: semver::Version,
        /// The newer.
        refused: semver::Version,
        /// What was wrong with it.
        why: String,
    },
    /// It drives no more, though nothing else took its joints: it crashed, took too long or answered nonsense, or the link
    /// failed. The joints hold.
    Ended {
        /// Of the controller.
        version: semver::Version,
        /// What was wrong.
        why: String,
    },
}

impl Event {
    /// Whether it says what became of a version: of the run's skill, of a skill that it invoked or of a controller that it
    /// engaged. A version that is only offered has become nothing yet.
    pub fn is_of_versions(&self) -> bool {
        match self {
            Self::Swapped { .. } | Self::SwapSettled { .. } | Self::RolledBack { .. } | Self::Controller { .. } => true,
            Self::Progress { .. }
            | Self::Inference { .. }
            | Self::Intervention(_)
            | Self::Confirmed { .. }
            | Self::Checkpoint { .. }
            | Self::SwapOffered { .. }
            | Self::Log { .. } => false,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = |time: &Duration| time.as_secs_f64() * 1e3;
        match self {
            Self::Progress { fraction, note } => write!(formatter, "{:.0} %: {note}", fraction * 100.0),
            Self::Inference { elapsed } => write!(formatter, "the model answered in {:.1} ms", milliseconds(elapsed)),
            Self::Intervention(Intervention { rule, ticks, .. }) => {
                write!(formatter, "the safety filter changed the command by the rule {rule} in {ticks} ticks")
            }
            Self::Confirmed { question, answer } => {
                write!(formatter, "{question} {}", if *answer { "yes" } else { "no" })
            }
            Self::Checkpoint { bytes } => write!(formatter, "left a checkpoint of {bytes} bytes"),
            Self::SwapOffered { skill, version } => {
                write!(formatter, "{skill} {version} is ready to go on at the next checkpoint")
            }
            Self::Swapped { skill, from, to, took } => {
                let took = milliseconds(took);
                write!(formatter, "{skill} {to} goes on in place of {from}, {took:.1} ms after it was asked for")
            }
            Self::SwapSettled { skill, version } => write!(formatter, "{skill} {version} has proved itself"),
            Self::RolledBack { skill, from, to, why } => {
                write!(formatter, "{skill} {to} goes on again, {from} did not prove itself: {why}")
            }
            Self::Controller { controller, change } => write!(formatter, "controller {controller} {change}"),
            Self::Log { line } => formatter.write_str(line),
        }
    }
}

impl fmt::Display for ControllerChange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Swapped { from, to } => write!(formatter, "{to} drives in place of {from}"),
            Self::Kept { version, refused, why } => {
                write!(formatter, "{version} drives on, {refused} did not prove itself: {why}")
            }
            Self::Ended { version, why } => write!(formatter, "{version} drives no more: {why}"),
        }
    }
}

/// Durations as JSON has them.
mod seconds {
    use std::time::Duration;

    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(time.as_secs_f64())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use waza_robot::{Response, Rule};

    use super::*;

    /// Every kind once, as it goes over HTTP and as a person reads it.
    fn each() -> Vec<(Event, Value, &'static str)> {
        let skill: SkillId = String::from("test/relay").try_into().unwrap();
        let (old, new) = (semver::Version::new(1, 0, 0), semver::Version::new(1, 1, 0));
        let took = Duration::from_micros(12_500);
        let (id, from, to) = (|| skill.clone(), || old.clone(), || new.clone());
        let why = || String::from("it crashed");
        let intervention = Intervention {
            rule: Rule::Velocity,
            response: Response::Slow,
            joint: Some(2),
            first_tick: 7,
            ticks: 3,
            excess: 0.5,
        };
        let controller = |change, json: Value| {
            let json = json!({ "kind": "controller", "controller": "test/relay", "change": json });
            (Event::Controller { controller: id(), change }, json)
        };
        let swapped = controller(
            ControllerChange::Swapped { from: from(), to: to() },
            json!({ "swapped": { "from": "1.0.0", "to": "1.1.0" } }),
        );
        let kept = controller(
            ControllerChange::Kept { version: from(), refused: to(), why: why() },
            json!({ "kept": { "version": "1.0.0", "refused": "1.1.0", "why": "it crashed" } }),
        );
        let ended = controller(
            ControllerChange::Ended { version: from(), why: why() },
            json!({ "ended": { "version": "1.0.0", "why": "it crashed" } }),
        );
        vec![
            (
                Event::Progress { fraction: 0.5, note: "half way".into() },
                json!({ "kind": "progress", "fraction": 0.5, "note": "half way" }),
                "50 %: half way",
            ),
            (
                Event::Inference { elapsed: took },
                json!({ "kind": "inference", "seconds": 0.0125 }),
                "the model answered in 12.5 ms",
            ),
            (
                Event::Intervention(intervention),
                json!({
                    "kind": "intervention", "rule": "velocity", "response": "slow", "joint": 2, "first_tick": 7,
                    "ticks": 3, "excess": 0.5,
                }),
                "the safety filter changed the command by the rule velocity in 3 ticks",
            ),
            (
                Event::Confirmed { question: "go on?".into(), answer: true },
                json!({ "kind": "confirmed", "question": "go on?", "answer": true }),
                "go on? yes",
            ),
            (
                Event::Checkpoint { bytes: 12 },
                json!({ "kind": "checkpoint", "bytes": 12 }),
                "left a checkpoint of 12 bytes",
            ),
            (
                Event::SwapOffered { skill: id(), version: to() },
                json!({ "kind": "swap-offered", "skill": "test/relay", "version": "1.1.0" }),
                "test/relay 1.1.0 is ready to go on at the next checkpoint",
            ),
            (
                Event::Swapped { skill: id(), from: from(), to: to(), took },
                json!({ "kind": "swapped", "skill": "test/relay", "from": "1.0.0", "to": "1.1.0", "seconds": 0.0125 }),
                "test/relay 1.1.0 goes on in place of 1.0.0, 12.5 ms after it was asked for",
            ),
            (
                Event::SwapSettled { skill: id(), version: to() },
                json!({ "kind": "swap-settled", "skill": "test/relay", "version": "1.1.0" }),
                "test/relay 1.1.0 has proved itself",
            ),
            (
                Event::RolledBack { skill: id(), from: to(), to: from(), why: why() },
                json!({
                    "kind": "rolled-back", "skill": "test/relay", "from": "1.1.0", "to": "1.0.0", "why": "it crashed",
                }),
                "test/relay 1.0.0 goes on again, 1.1.0 did not prove itself: it crashed",
            ),
            (swapped.0, swapped.1, "controller test/relay 1.1.0 drives in place of 1.0.0"),
            (kept.0, kept.1, "controller test/relay 1.0.0 drives on, 1.1.0 did not prove itself: it crashed"),
            (ended.0, ended.1, "controller test/relay 1.0.0 drives no more: it crashed"),
            (Event::Log { line: "a word".into() }, json!({ "kind": "log", "line": "a word" }), "a word"),
        ]
    }

    #[test]
    fn every_event_is_the_json_that_clients_know_and_one_line_for_people() {
        for (event, json, line) in each() {
            assert_eq!(serde_json::to_value(&event).unwrap(), json);
            assert_eq!(event.to_string(), line);
            if !matches!(event, Event::Intervention(_)) {
                assert_eq!(serde_json::from_value::<Event>(json).unwrap(), event);
            }
        }
    }
}
