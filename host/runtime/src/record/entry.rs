//! What a record holds, line by line.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::contract::{Outcome, Refusal, types};
use crate::error::SkillError;
use crate::record::value::{Canonical, Members};

/// One line of a run's record. Values are in their canonical spelling, which is JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// The skill called an import.
    Call {
        /// Counted from 0, in the order of the calls.
        number: u64,
        /// `interface.function`, as the contract spells it.
        name: String,
        /// A list.
        arguments: String,
    },
    /// A call returned.
    Answer {
        /// The call's.
        number: u64,
        /// The skill had to wait for it.
        waited: bool,
        /// `{"ok":...}`, `{"refused":...}`, or `{"fatal":...}`: the run ended with it.
        value: String,
    },
    /// Something came through a stream.
    Stream {
        /// Of the call that opened it.
        number: u64,
        /// The skill had to wait for it.
        waited: bool,
        /// What.
        what: Delivery,
    },
    /// What a call of `monotonic-clock.subscribe-...` announced has come, and the skill was told.
    Alarm {
        /// The call's.
        number: u64,
        /// The skill had to wait for it.
        waited: bool,
    },
    /// The skill wrote a line to standard output or error.
    Log {
        /// Without its end.
        line: String,
    },
    /// The run ended; the last entry.
    End(Ending),
}

/// What came through a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    /// The skill asked whether something is there; something was.
    Ready,
    /// An item, or why the run ended instead.
    #[serde(skip)] // It is a member of its own.
    Item(String),
    /// It ended.
    End,
    /// The skill stopped waiting before anything came.
    Cancelled,
    /// The skill closed it.
    Closed,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The skill returned: `{"ok":...}` or `{"refused":...}`.
    Returned(String),
    /// It crashed, or used up a budget of its own; in words.
    Failed(String),
    /// It was ended from outside, wherever it stood: by the operator, or because its time was up; in words.
    Stopped(String),
}

impl Ending {
    pub(crate) fn of(ended: &Result<Outcome, SkillError>) -> Self {
        let returned = |value: Result<types::Outcome, Refusal>| Self::Returned(value.spelt());
        match ended {
            Ok(outcome) => returned(Ok(outcome.clone().into())),
            Err(SkillError::Returned { refusal, .. }) => returned(Err(refusal.clone())),
            Err(error) if error.is_from_outside() => Self::Stopped(error.to_string()),
            Err(error) => Self::Failed(error.to_string()),
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Returned(value) => write!(formatter, "it returned {value}"),
            Self::Failed(why) | Self::Stopped(why) => formatter.write_str(why),
        }
    }
}

impl fmt::Display for Entry {
    /// One line of JSON.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.spelt())
    }
}

impl FromStr for Entry {
    type Err = serde_json::Error;

    /// Takes what [`Display`](fmt::Display) writes and no other spelling of it.
    fn from_str(text: &str) -> Result<Self, serde_json::Error> {
        Self::parse(text)
    }
}

impl Canonical for Entry {
    fn spelt(&self) -> String {
        match self {
            Self::Call { number, name, arguments } => {
                format!("{{\"call\":{number},\"name\":{},\"arguments\":{arguments}}}", name.spelt())
            }
            Self::Answer { number, waited, value } => {
                format!("{{\"answer\":{number},\"waited\":{waited},\"value\":{value}}}")
            }
            Self::Stream { number, waited, what: Delivery::Item(item) } => {
                format!("{{\"stream\":{number},\"waited\":{waited},\"item\":{item}}}")
            }
            Self::Stream { number, waited, what } => {
                format!("{{\"stream\":{number},\"waited\":{waited},\"what\":{}}}", what.spelt())
            }
            Self::Alarm { number, waited } => format!("{{\"alarm\":{number},\"waited\":{waited}}}"),
            Self::Log { line } => format!("{{\"log\":{}}}", line.spelt()),
            Self::End(Ending::Returned(value)) => format!("{{\"returned\":{value}}}"),
            Self::End(Ending::Failed(why)) => format!("{{\"failed\":{}}}", why.spelt()),
            Self::End(Ending::Stopped(why)) => format!("{{\"stopped\":{}}}", why.spelt()),
        }
    }

    fn read(text: &str) -> serde_json::Result<Self> {
        let it = Members::of(text)?;
        let waited = || it.value("waited");
        Ok(if let Ok(number) = it.value("call") {
            Self::Call { number, name: it.value("name")?, arguments: it.text("arguments")?.into() }
        } else if let Ok(number) = it.value("answer") {
            Self::Answer { number, waited: waited()?, value: it.text("value")?.into() }
        } else if let Ok(number) = it.value("stream") {
            let what = match it.text("item") {
                Ok(item) => Delivery::Item(item.into()),
                Err(_) => it.value("what")?,
            };
            Self::Stream { number, waited: waited()?, what }
        } else if let Ok(number) = it.value("alarm") {
            Self::Alarm { number, waited: waited()? }
        } else if let Ok(line) = it.value("log") {
            Self::Log { line }
        } else if let Ok(value) = it.text("returned") {
            Self::End(Ending::Returned(value.into()))
        } else if let Ok(why) = it.value("failed") {
            Self::End(Ending::Failed(why))
        } else {
            Self::End(Ending::Stopped(it.value("stopped")?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_reads_back_and_is_json() {
        let stream = |what| Entry::Stream { number: 3, waited: true, what };
        let entries = [
            Entry::Call { number: 1, name: "lease.play".into(), arguments: r#"["lease 2","chunk 3"]"#.into() },
            Entry::Answer { number: 1, waited: false, value: r#"{"refused":{"stopped":null}}"#.into() },
            stream(Delivery::Ready),
            stream(Delivery::Item(r#"{"ok":"observation 7"}"#.into())),
            stream(Delivery::End),
            stream(Delivery::Cancelled),
            stream(Delivery::Closed),
            Entry::Alarm { number: 9, waited: true },
            Entry::Log { line: "it \"says\"".into() },
            Entry::End(Ending::Returned(r#"{"ok":{"summary":"","data":""}}"#.into())),
            Entry::End(Ending::Failed("it crashed".into())),
            Entry::End(Ending::Stopped("by the operator".into())),
        ];
        for entry in entries {
            let text = entry.to_string();
            assert_eq!(text.parse::<Entry>().unwrap(), entry, "{text}");
            serde_json::from_str::<serde_json::Value>(&text).unwrap();
            for end in 0..text.len() {
                assert!(text[..end].parse::<Entry>().is_err(), "{}", &text[..end]);
            }
        }
    }
}
