//! What a run can write down, so that it can be run again without robot, model or clock: every call that the skill made
//! and every answer that it got, in the order in which it met them.

pub(crate) mod value;

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;

use wasmtime::component::Resource;
use waza_robot::{Observation, Robot};

use crate::contract::Fault;
use crate::contract::Outcome;
use crate::contract::{Refusal, types};
use crate::error::SkillError;
use crate::imports::Run;
use crate::record::value::{Canonical, Misspelt, Reader};

/// Takes what a run writes down. Called on the run's thread, under lockstep while robot time stands still: it must neither
/// wait nor fail.
pub trait Journal: Send + Sync {
    /// The next entry, at an instant of robot time, ns.
    fn entry(&self, at_ns: u64, entry: &Entry);

    /// An observation was handed to the skill, which the entry before names by this number.
    fn observed(&self, observation: u32, seen: &Arc<Observation>);
}

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// The skill asked whether something is there; something was.
    Ready,
    /// An item, or why the run ended instead.
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
        let quoted = |text: &str| text.to_owned().spelt();
        match self {
            Self::Call { number, name, arguments } => {
                write!(formatter, "{{\"call\":{number},\"name\":{},\"arguments\":{arguments}}}", quoted(name))
            }
            Self::Answer { number, waited, value } => {
                write!(formatter, "{{\"answer\":{number},\"waited\":{waited},\"value\":{value}}}")
            }
            Self::Stream { number, waited, what } => {
                write!(formatter, "{{\"stream\":{number},\"waited\":{waited},")?;
                match what {
                    Delivery::Ready => formatter.write_str("\"what\":\"ready\"}"),
                    Delivery::Item(item) => write!(formatter, "\"item\":{item}}}"),
                    Delivery::End => formatter.write_str("\"what\":\"end\"}"),
                    Delivery::Cancelled => formatter.write_str("\"what\":\"cancelled\"}"),
                    Delivery::Closed => formatter.write_str("\"what\":\"closed\"}"),
                }
            }
            Self::Alarm { number, waited } => write!(formatter, "{{\"alarm\":{number},\"waited\":{waited}}}"),
            Self::Log { line } => write!(formatter, "{{\"log\":{}}}", quoted(line)),
            Self::End(Ending::Returned(value)) => write!(formatter, "{{\"returned\":{value}}}"),
            Self::End(Ending::Failed(why)) => write!(formatter, "{{\"failed\":{}}}", quoted(why)),
            Self::End(Ending::Stopped(why)) => write!(formatter, "{{\"stopped\":{}}}", quoted(why)),
        }
    }
}

impl std::str::FromStr for Entry {
    type Err = Misspelt;

    fn from_str(text: &str) -> Result<Self, Misspelt> {
        let mut from = Reader::new(text);
        let entry = entry(&mut from)?;
        from.expect("}")?;
        from.end()?;
        Ok(entry)
    }
}

fn entry(from: &mut Reader<'_>) -> Result<Entry, Misspelt> {
    let next = &mut false;
    if from.accept("{\"call\":") {
        let number = u64::read(from)?;
        from.member(next, "name")?;
        let name = String::read(from)?;
        from.member(next, "arguments")?;
        return Ok(Entry::Call { number, name, arguments: from.any()?.into() });
    }
    if from.accept("{\"answer\":") {
        let number = u64::read(from)?;
        from.member(next, "waited")?;
        let waited = bool::read(from)?;
        from.member(next, "value")?;
        return Ok(Entry::Answer { number, waited, value: from.any()?.into() });
    }
    if from.accept("{\"stream\":") {
        let number = u64::read(from)?;
        from.member(next, "waited")?;
        let waited = bool::read(from)?;
        if from.accept(",\"item\":") {
            return Ok(Entry::Stream { number, waited, what: Delivery::Item(from.any()?.into()) });
        }
        from.member(next, "what")?;
        let what = [
            ("\"ready\"", Delivery::Ready),
            ("\"end\"", Delivery::End),
            ("\"cancelled\"", Delivery::Cancelled),
            ("\"closed\"", Delivery::Closed),
        ];
        for (word, what) in what {
            if from.accept(word) {
                return Ok(Entry::Stream { number, waited, what });
            }
        }
    }
    if from.accept("{\"alarm\":") {
        let number = u64::read(from)?;
        from.member(next, "waited")?;
        return Ok(Entry::Alarm { number, waited: bool::read(from)? });
    }
    if from.accept("{\"log\":") {
        return Ok(Entry::Log { line: String::read(from)? });
    }
    if from.accept("{\"returned\":") {
        return Ok(Entry::End(Ending::Returned(from.any()?.into())));
    }
    if from.accept("{\"failed\":") {
        return Ok(Entry::End(Ending::Failed(String::read(from)?)));
    }
    from.expect("{\"stopped\":")?;
    Ok(Entry::End(Ending::Stopped(String::read(from)?)))
}

/// What a call returned, with or without room for a refusal.
pub(crate) trait Answer: Sized {
    fn write(&self) -> String;

    fn read(text: &str) -> Result<Self, Misspelt>;

    /// The run ends with this.
    fn fatal(error: wasmtime::Error) -> Self;

    fn observation(&self) -> Option<&Resource<crate::contract::Observed>>;
}

/// The run ended with this when it was recorded, so it does again.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct RecordedFatal(pub String);

fn object(case: &str, value: &impl Canonical) -> String {
    let mut text = format!("{{\"{case}\":");
    value.write(&mut text);
    text.push('}');
    text
}

fn read_answer<T: Canonical>(text: &str) -> Result<Result<T, Fault>, Misspelt> {
    let mut from = Reader::new(text);
    let answer = if from.accept("{\"ok\":") {
        Ok(T::read(&mut from)?)
    } else if from.accept("{\"refused\":") {
        Err(Fault::Refused(Refusal::read(&mut from)?))
    } else {
        from.expect("{\"fatal\":")?;
        Err(Fault::Fatal(wasmtime::Error::new(RecordedFatal(String::read(&mut from)?))))
    };
    from.expect("}")?;
    from.end()?;
    Ok(answer)
}

fn write_answer(answer: Result<&impl Canonical, &Fault>) -> String {
    match answer {
        Ok(value) => object("ok", value),
        Err(Fault::Refused(refusal)) => object("refused", refusal),
        Err(Fault::Fatal(error)) => object("fatal", &error.root_cause().to_string()),
    }
}

impl<T: Canonical> Answer for Result<T, Fault> {
    fn write(&self) -> String {
        write_answer(self.as_ref())
    }

    fn read(text: &str) -> Result<Self, Misspelt> {
        read_answer(text)
    }

    fn fatal(error: wasmtime::Error) -> Self {
        Err(Fault::Fatal(error))
    }

    fn observation(&self) -> Option<&Resource<crate::contract::Observed>> {
        self.as_ref().ok().and_then(T::observation)
    }
}

impl<T: Canonical> Answer for wasmtime::Result<T> {
    fn write(&self) -> String {
        match self {
            Ok(value) => object("ok", value),
            Err(error) => object("fatal", &error.root_cause().to_string()),
        }
    }

    fn read(text: &str) -> Result<Self, Misspelt> {
        Ok(read_answer(text)?.map_err(|fault| match fault {
            Fault::Fatal(error) => error,
            // A call of this kind is never refused, but a record may be altered.
            Fault::Refused(refusal) => wasmtime::Error::msg(crate::contract::sentence(&refusal)),
        }))
    }

    fn fatal(error: wasmtime::Error) -> Self {
        Err(error)
    }

    fn observation(&self) -> Option<&Resource<crate::contract::Observed>> {
        self.as_ref().ok().and_then(T::observation)
    }
}

/// Writes one run's entries into a journal.
pub(crate) struct Tape {
    journal: Arc<dyn Journal>,
    robot: Robot,
    calls: AtomicU64,
    /// The run has ended: what is dropped now, the host drops.
    over: AtomicBool,
}

impl Tape {
    pub fn new(journal: Arc<dyn Journal>, robot: Robot) -> Arc<Self> {
        Arc::new(Self { journal, robot, calls: AtomicU64::new(0), over: AtomicBool::new(false) })
    }

    fn write(&self, entry: &Entry) {
        if self.over.load(Ordering::Relaxed) {
            return;
        }
        self.journal.entry(self.robot.tick_ns(self.robot.tick()), entry);
    }

    /// The call's number.
    pub fn called(&self, name: &str, arguments: String) -> u64 {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        self.write(&Entry::Call { number, name: name.into(), arguments });
        number
    }

    /// The number of the call that was made last.
    pub fn newest(&self) -> u64 {
        self.calls.load(Ordering::Relaxed).saturating_sub(1)
    }

    pub fn answered(&self, run: &Run, number: u64, waited: bool, answer: &impl Answer) {
        self.write(&Entry::Answer { number, waited, value: answer.write() });
        self.observed(run, answer);
    }

    /// A call that opens a stream returned.
    pub fn opened<S>(&self, number: u64, answer: &Result<S, Fault>) {
        let value = write_answer(answer.as_ref().map(|_| &()));
        self.write(&Entry::Answer { number, waited: false, value });
    }

    pub fn delivered(&self, number: u64, waited: bool, what: Delivery) {
        self.write(&Entry::Stream { number, waited, what });
    }

    /// What a stream delivers.
    pub fn item(&self, run: &Run, number: u64, waited: bool, item: &impl Answer) {
        self.delivered(number, waited, Delivery::Item(item.write()));
        self.observed(run, item);
    }

    fn observed(&self, run: &Run, answer: &impl Answer) {
        if let Some(handle) = answer.observation()
            && let Ok(seen) = run.table.get(handle)
        {
            self.journal.observed(handle.rep(), seen);
        }
    }

    pub fn rang(&self, number: u64, waited: bool) {
        self.write(&Entry::Alarm { number, waited });
    }

    pub fn said(&self, line: &str) {
        self.write(&Entry::Log { line: line.into() });
    }

    pub fn ended(&self, ended: &Result<Outcome, SkillError>) {
        self.write(&Entry::End(Ending::of(ended)));
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Awaits something, and says whether it had to be waited for.
pub(crate) async fn awaited<T>(future: impl Future<Output = T>) -> (T, bool) {
    let mut future = pin!(future);
    let mut waited = false;
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready((value, waited)),
        Poll::Pending => {
            waited = true;
            Poll::Pending
        }
    })
    .await
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
            assert_eq!(text.parse::<Entry>().as_ref(), Ok(&entry), "{text}");
            serde_json::from_str::<serde_json::Value>(&text).unwrap();
            for end in 0..text.len() {
                assert!(text[..end].parse::<Entry>().is_err(), "{}", &text[..end]);
            }
        }
    }
}
