//! What a run reported, for those who follow it and for those who look now and then.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};

use axum::body::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use waza_runtime::Event;

use crate::wire::{self, Progress, shorten};

/// Bytes of events that a run keeps for readers; older ones are forgotten.
const MOST_EVENT_BYTES: usize = 256 * 1024;

/// What keeping an event takes beside its bytes.
const ENTRY_BYTES: usize = 64;

/// Changes of versions that wait to be told. Those of skills are few, a controller that is engaged again and again may have
/// many; more are only counted and left among the events.
const MOST_NEWS: usize = 64;

/// What comes around an event's JSON, see <https://html.spec.whatwg.org/multipage/server-sent-events.html>.
const DATA: &str = "\ndata: ";
const END: &str = "\n\n";

pub(crate) struct RunLog {
    /// The run's skill.
    skill: String,
    log: Mutex<Log>,
    ended: OnceLock<Ended>,
    /// Changes whenever there is something to read.
    grown: watch::Sender<()>,
    /// What operators are told besides.
    news: mpsc::Sender<Event>,
}

#[derive(Default)]
struct Log {
    /// Of the skill, the version that works.
    version: String,
    progress: Option<Progress>,
    counts: BTreeMap<String, u64>,
    /// As they go to readers.
    events: VecDeque<Bytes>,
    bytes: usize,
    /// How many events there were before the oldest that is kept.
    forgotten: u64,
}

/// How a run ended, spelled once: what a skill says may be megabytes.
struct Ended {
    brief: wire::Run,
    /// The last event, which has the whole run.
    event: Bytes,
    /// The whole run as JSON, a part of that.
    whole: Bytes,
}

/// How far a run is.
pub(crate) struct Sight {
    pub version: String,
    pub progress: Option<Progress>,
    /// Events by kind.
    pub counts: BTreeMap<String, u64>,
}

impl RunLog {
    /// Of a run that begins with a version of a skill, and what becomes of versions in it.
    pub fn of(skill: String, version: String) -> (Arc<Self>, mpsc::Receiver<Event>) {
        let (news, told) = mpsc::channel(MOST_NEWS);
        let log = Mutex::new(Log { version, ..Log::default() });
        (Arc::new(Self { skill, log, ended: OnceLock::new(), grown: watch::Sender::default(), news }), told)
    }

    /// The run's skill.
    pub fn skill(&self) -> &str {
        &self.skill
    }

    /// Takes what the run reports, on its thread.
    pub fn note(&self, event: Event) {
        let (kind, data) = spelled(&event);
        let entry = entry(&kind, &data);
        let mut log = self.log.lock();
        match &event {
            Event::Progress { fraction, note } => {
                let mut note = note.clone();
                shorten(&mut note);
                log.progress = Some(Progress { fraction: *fraction, note });
            }
            Event::Swapped { skill, to, .. } | Event::RolledBack { skill, to, .. } if skill.as_str() == self.skill => {
                log.version = to.to_string();
            }
            _ => {}
        }
        *log.counts.entry(kind).or_default() += 1;
        log.bytes += entry.len() + ENTRY_BYTES;
        log.events.push_back(entry);
        while log.bytes > MOST_EVENT_BYTES
            && let Some(oldest) = log.events.pop_front()
        {
            log.bytes -= oldest.len() + ENTRY_BYTES;
            log.forgotten += 1;
        }
        drop(log);
        self.grown.send_replace(());
        if event.is_of_versions() {
            // Whoever tells them may have many to tell, or be gone with the daemon.
            let _ = self.news.try_send(event);
        }
    }

    /// The run is over. Spelling it may take its time.
    pub fn end(&self, run: wire::Run) {
        let event = entry("ended", &json!(run).to_string());
        let whole = event.slice("event: ended".len() + DATA.len()..event.len() - END.len());
        // A run ends once.
        let _ = self.ended.set(Ended { brief: run.brief(), event, whole });
        self.grown.send_replace(());
    }

    pub fn is_over(&self) -> bool {
        self.ended.get().is_some()
    }

    /// The run in few words, if it is over.
    pub fn ended(&self) -> Option<wire::Run> {
        self.ended.get().map(|ended| ended.brief.clone())
    }

    /// The whole run as JSON, if it is over.
    pub fn whole(&self) -> Option<Bytes> {
        self.ended.get().map(|ended| ended.whole.clone())
    }

    /// How far the run is.
    pub fn sight(&self) -> Sight {
        let log = self.log.lock();
        Sight { version: log.version.clone(), progress: log.progress.clone(), counts: log.counts.clone() }
    }

    /// What keeping this takes, bytes.
    pub fn bytes(&self) -> usize {
        self.log.lock().bytes + self.ended.get().map_or(0, |ended| ended.event.len())
    }

    pub fn read(self: &Arc<Self>) -> Reader {
        Reader { log: self.clone(), next: 0, grown: self.grown.subscribe(), is_over: false }
    }
}

/// Reads a run's events in their order, from the first that is kept.
pub(crate) struct Reader {
    log: Arc<RunLog>,
    /// Number of the next event.
    next: u64,
    grown: watch::Receiver<()>,
    is_over: bool,
}

impl Reader {
    /// The next event as it goes over HTTP; one of the kind `missed` says how many were forgotten before they were read, one
    /// of the kind `ended` is the last. Whoever stops waiting for it misses nothing.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.is_over {
                return None;
            }
            // Before looking: what comes after this look wakes it.
            self.grown.mark_unchanged();
            if let Some(entry) = self.take() {
                return Some(entry);
            }
            // Its sender is in our hands.
            self.grown.changed().await.ok()?;
        }
    }

    fn take(&mut self) -> Option<Bytes> {
        // Before looking for events: none comes after the end.
        let ended = self.log.ended.get();
        let log = self.log.log.lock();
        if self.next < log.forgotten {
            let missed = json!({ "events": log.forgotten - self.next });
            self.next = log.forgotten;
            return Some(entry("missed", &missed.to_string()));
        }
        if let Some(entry) = log.events.get((self.next - log.forgotten) as usize) {
            self.next += 1;
            return Some(entry.clone());
        }
        self.is_over = ended.is_some();
        ended.map(|ended| ended.event.clone())
    }
}

/// An event's kind, and what else it says as JSON on one line.
fn spelled(event: &Event) -> (String, String) {
    let mut fields = json!(event);
    let kind = fields.as_object_mut().and_then(|fields| fields.remove("kind"));
    match kind {
        Some(Value::String(kind)) => (kind, fields.to_string()),
        // Every event says its kind.
        _ => ("event".into(), fields.to_string()),
    }
}

/// An event as it goes to readers.
fn entry(kind: &str, json: &str) -> Bytes {
    format!("event: {kind}{DATA}{json}{END}").into()
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn next(reader: &mut Reader) -> Option<String> {
        match pin!(reader.next()).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(entry) => entry.map(|entry| String::from_utf8(entry.to_vec()).unwrap()),
            Poll::Pending => None,
        }
    }

    fn run(outcome: Option<wire::Outcome>) -> wire::Run {
        wire::Run {
            id: "7".parse().unwrap(),
            skill: "test/conduct".into(),
            version: "0.1.0".into(),
            instruction: "say".into(),
            seed: 0,
            state: wire::RunState::Succeeded,
            outcome,
            error: None,
            progress: None,
            events: BTreeMap::new(),
            record: None,
        }
    }

    #[test]
    fn lines_without_a_word_are_forgotten_before_keeping_them_takes_more_than_their_share() {
        let (log, _news) = RunLog::of("test/conduct".into(), "0.1.0".into());
        for _ in 0..20_000 {
            log.note(Event::Log { line: String::new() });
        }
        let kept = log.log.lock().events.len();
        assert!(kept * (ENTRY_BYTES + "event: log".len()) <= MOST_EVENT_BYTES, "{kept}");
        let missed = next(&mut log.read()).unwrap();
        assert_eq!(missed, format!("event: missed\ndata: {{\"events\":{}}}\n\n", 20_000 - kept));
    }

    #[test]
    fn more_changes_of_versions_than_anybody_tells_wait_for_nobody() {
        let (log, mut news) = RunLog::of("test/conduct".into(), "0.1.0".into());
        let skill: waza_runtime::SkillId = String::from("test/other").try_into().unwrap();
        let version = semver::Version::new(1, 0, 0);
        for _ in 0..10_000 {
            log.note(Event::SwapSettled { skill: skill.clone(), version: version.clone() });
        }
        let told = std::iter::from_fn(|| news.try_recv().ok()).count();
        assert_eq!((told, log.sight().counts["swap-settled"]), (MOST_NEWS, 10_000));
    }

    #[test]
    fn an_outcome_is_whole_for_who_asks_for_the_run_and_the_end_and_brief_for_everybody_else() {
        let (log, _news) = RunLog::of("test/conduct".into(), "0.1.0".into());
        let outcome = wire::Outcome { summary: "s".repeat(10_000), data: Some("d".repeat(10_000)) };
        let whole = run(Some(outcome.clone()));
        log.end(whole.clone());
        let json = log.whole().unwrap();
        assert_eq!(serde_json::from_slice::<wire::Run>(&json).unwrap(), whole);
        assert_eq!(next(&mut log.read()).unwrap().as_bytes(), entry("ended", &json!(whole).to_string()));
        let brief = log.ended().unwrap().outcome.unwrap();
        assert_eq!((brief.data, brief.summary.len()), (None, wire::LONGEST_BRIEF + " ...".len()));
    }
}
