//! The runs that were started over the API, and what they reported.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;
use futures_util::future::{Either, select};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use waza_runtime::{ControllerChange, Event, Host, Interrupted, Outcome, RunId, Running, SkillError, TaskRequest};

use crate::daemon::{Notice, Tell};
use crate::fault::{Fault, run_problem};
use crate::wire::{self, Problem, Progress, RunState, StartRun};

/// Runs at once.
const MOST_RUNNING: usize = 64;

/// Ended runs that are remembered.
const MOST_ENDED: usize = 256;

/// Bytes of events that a run keeps for readers; older ones are forgotten.
const MOST_EVENT_BYTES: usize = 256 * 1024;

pub(crate) struct Runs {
    state: Mutex<State>,
    tell: Tell,
}

#[derive(Default)]
struct State {
    runs: BTreeMap<RunId, Arc<Run>>,
}

/// One run, whether it still works or not.
pub(crate) struct Run {
    id: RunId,
    skill: String,
    instruction: String,
    seed: u64,
    stop: Notify,
    journal: Arc<Journal>,
}

/// What a run reported.
#[derive(Default)]
struct Journal {
    log: Mutex<Log>,
    /// Changes whenever the log does.
    grown: watch::Sender<()>,
}

#[derive(Default)]
struct Log {
    ended: Option<Result<wire::Outcome, Problem>>,
    progress: Option<Progress>,
    counts: BTreeMap<String, u64>,
    events: VecDeque<Entry>,
    bytes: usize,
    /// How many events there were before the oldest that is kept.
    forgotten: u64,
}

/// An event as it goes to readers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub kind: &'static str,
    /// JSON on one line.
    pub data: String,
}

/// Reads a run's events in their order, from the first that is kept.
pub(crate) struct Reader {
    run: Arc<Run>,
    /// Number of the next event.
    next: u64,
    grown: watch::Receiver<()>,
    is_over: bool,
}

impl Runs {
    pub fn new(tell: Tell) -> Self {
        Self { state: Mutex::default(), tell }
    }

    /// Starts a run. Nothing starts while the host stop is latched, or before the robot is armed.
    pub fn start(&self, host: &Host, ask: StartRun) -> Result<Arc<Run>, Fault> {
        let state = self.ready(host, &ask.skill)?;
        let journal = Arc::new(Journal::default());
        let request = TaskRequest {
            instruction: ask.instruction.clone(),
            parameters: if ask.parameters.is_null() { String::new() } else { ask.parameters.to_string() },
            resume: None,
            seed: ask.seed,
            priority: ask.priority,
        };
        let noting = journal.clone();
        let running = host.run(&ask.skill, request, move |event| noting.note(&event));
        Ok(self.begin(state, running, journal, ask.skill, ask.instruction, ask.seed))
    }

    /// Lets a run go on that an earlier host did not live to end, under the same conditions.
    pub fn resume(&self, host: &Host, id: RunId) -> Result<Arc<Run>, Fault> {
        let gone = || Fault::not_found(format!("no interrupted run {id} waits"), "`waza ctl runs` lists those that do");
        let Interrupted { skill, request, .. } = interrupted(host, id).ok_or_else(gone)?;
        let state = self.ready(host, skill.as_str())?;
        let journal = Arc::new(Journal::default());
        let noting = journal.clone();
        let running = host.resume(id, move |event| noting.note(&event)).ok_or_else(gone)?;
        Ok(self.begin(state, running, journal, skill.to_string(), request.instruction, request.seed))
    }

    /// Whether a run of a skill may begin now. Nothing else begins until the guard is dropped.
    fn ready(&self, host: &Host, skill: &str) -> Result<MutexGuard<'_, State>, Fault> {
        let state = self.lock();
        let robot = host.robot();
        if let Some(stop) = robot.stopped() {
            let cause = format!("the host stop {} is latched", stop.number());
            return Err(Fault::conflict("stopped", cause, format!("`waza ctl reset {}`", stop.number())));
        }
        let unseen: Vec<_> =
            robot.stop_sources().into_iter().filter(|source| !source.seen).map(|source| source.name).collect();
        if !unseen.is_empty() {
            let cause = format!("the robot is not armed: nothing has been heard of {}", unseen.join(", "));
            return Err(Fault::conflict("not-armed", cause, "make that stop source work, or serve without it"));
        }
        if state.running().count() >= MOST_RUNNING {
            let cause = format!("{MOST_RUNNING} runs are in flight");
            let way_out = "wait for one to end, or end one";
            return Err(Fault::new(StatusCode::TOO_MANY_REQUESTS, "busy", cause, way_out));
        }
        let skills = host.skills();
        if !skills.iter().any(|loaded| loaded.id.as_str() == skill) {
            let loaded: Vec<_> = skills.iter().map(|skill| skill.id.as_str()).collect();
            let loaded = if loaded.is_empty() { "none".into() } else { loaded.join(", ") };
            return Err(Fault::not_found(format!("no skill {skill} is loaded"), format!("loaded are {loaded}")));
        }
        Ok(state)
    }

    fn begin(
        &self,
        mut state: MutexGuard<'_, State>,
        running: Running,
        journal: Arc<Journal>,
        skill: String,
        instruction: String,
        seed: u64,
    ) -> Arc<Run> {
        let run = Arc::new(Run { id: running.id(), skill, instruction, seed, stop: Notify::new(), journal });
        state.keep(run.clone());
        drop(state);
        (self.tell)(Notice::Began { run: run.id, skill: run.skill.clone(), instruction: run.instruction.clone() });
        tokio::spawn(follow(running, run.clone(), self.tell.clone()));
        run
    }

    /// Every run that is remembered, by number.
    pub fn all(&self) -> Vec<Arc<Run>> {
        self.lock().runs.values().cloned().collect()
    }

    pub fn find(&self, id: RunId) -> Option<Arc<Run>> {
        self.lock().runs.get(&id).cloned()
    }

    pub fn running(&self) -> usize {
        self.lock().running().count()
    }

    /// Asks every run to end.
    pub fn stop_all(&self) {
        self.lock().running().for_each(|run| run.stop());
    }

    /// Asks every run to end, and does something if none has to. Nothing starts meanwhile.
    pub fn when_none<T>(&self, then: impl FnOnce() -> T) -> Result<T, usize> {
        let state = self.lock();
        let running = state.running().inspect(|run| run.stop()).count();
        if running == 0 { Ok(then()) } else { Err(running) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn running(&self) -> impl Iterator<Item = &Arc<Run>> {
        self.runs.values().filter(|run| run.is_running())
    }

    fn keep(&mut self, run: Arc<Run>) {
        self.runs.insert(run.id, run);
        let ended: Vec<_> = self.runs.values().filter(|run| !run.is_running()).map(|run| run.id).collect();
        for id in ended.iter().take(ended.len().saturating_sub(MOST_ENDED)) {
            self.runs.remove(id);
        }
    }
}

/// Waits for the end of a run, and asks for it when the operator does.
async fn follow(mut running: Running, run: Arc<Run>, tell: Tell) {
    let asked = std::pin::pin!(run.stop.notified());
    let reply = match select(&mut running, asked).await {
        Either::Left((reply, _)) => reply,
        Either::Right(_) => {
            running.stop();
            running.await
        }
    };
    run.journal.end(reply.value);
    tell(Notice::Ended(run.view()));
}

impl Run {
    /// Asks it to end, be it waiting or computing.
    pub fn stop(&self) {
        self.stop.notify_one();
    }

    pub fn is_running(&self) -> bool {
        lock(&self.journal.log).ended.is_none()
    }

    pub fn view(&self) -> wire::Run {
        let log = lock(&self.journal.log);
        let state = match &log.ended {
            None => RunState::Running,
            Some(Ok(_)) => RunState::Succeeded,
            Some(Err(_)) => RunState::Failed,
        };
        let ended = log.ended.clone();
        wire::Run {
            id: self.id,
            skill: self.skill.clone(),
            instruction: self.instruction.clone(),
            seed: self.seed,
            state,
            outcome: ended.clone().and_then(Result::ok),
            error: ended.and_then(Result::err),
            progress: log.progress.clone(),
            events: log.counts.clone(),
        }
    }

    pub fn read(self: &Arc<Self>) -> Reader {
        Reader { run: self.clone(), next: 0, grown: self.journal.grown.subscribe(), is_over: false }
    }
}

impl Journal {
    fn note(&self, event: &Event) {
        let (kind, data) = shown(event);
        let entry = Entry { kind, data: data.to_string() };
        let mut log = lock(&self.log);
        if let Event::Progress { fraction, note } = event {
            log.progress = Some(Progress { fraction: *fraction, note: note.clone() });
        }
        *log.counts.entry(kind.into()).or_default() += 1;
        log.bytes += entry.data.len();
        log.events.push_back(entry);
        while log.bytes > MOST_EVENT_BYTES
            && let Some(oldest) = log.events.pop_front()
        {
            log.bytes -= oldest.data.len();
            log.forgotten += 1;
        }
        drop(log);
        self.grown.send_replace(());
    }

    fn end(&self, ended: Result<Outcome, SkillError>) {
        let outcome = |Outcome { summary, data }| wire::Outcome { summary, data };
        lock(&self.log).ended = Some(ended.map(outcome).map_err(|error| run_problem(&error)));
        self.grown.send_replace(());
    }
}

impl Reader {
    /// The next event; one of the kind `missed` says how many were forgotten before they were read, one of the kind `ended`
    /// is the last.
    pub async fn next(&mut self) -> Option<Entry> {
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

    fn take(&mut self) -> Option<Entry> {
        let log = lock(&self.run.journal.log);
        if self.next < log.forgotten {
            let events = log.forgotten - self.next;
            self.next = log.forgotten;
            return Some(Entry { kind: "missed", data: json!({ "events": events }).to_string() });
        }
        if let Some(entry) = log.events.get((self.next - log.forgotten) as usize) {
            self.next += 1;
            return Some(entry.clone());
        }
        self.is_over = log.ended.is_some();
        drop(log);
        self.is_over.then(|| Entry { kind: "ended", data: json!(self.run.view()).to_string() })
    }
}

/// A run that an earlier host left.
pub(crate) fn interrupted(host: &Host, id: RunId) -> Option<Interrupted> {
    host.interrupted().into_iter().find(|run| run.id == id)
}

/// As the API shows it.
pub(crate) fn view_of_interrupted(run: Interrupted) -> wire::Run {
    wire::Run {
        id: run.id,
        skill: run.skill.to_string(),
        instruction: run.request.instruction,
        seed: run.request.seed,
        state: RunState::Interrupted,
        outcome: None,
        error: None,
        progress: None,
        events: BTreeMap::new(),
    }
}

/// An event's kind and content.
fn shown(event: &Event) -> (&'static str, Value) {
    match event {
        Event::Progress { fraction, note } => ("progress", json!({ "fraction": fraction, "note": note })),
        Event::Inference { elapsed } => ("inference", json!({ "seconds": elapsed.as_secs_f64() })),
        Event::Intervention(intervention) => ("intervention", json!(intervention)),
        Event::Confirmed { question, answer } => ("confirmed", json!({ "question": question, "answer": answer })),
        Event::Checkpoint { bytes } => ("checkpoint", json!({ "bytes": bytes })),
        Event::SwapOffered { version } => ("swap-offered", json!({ "version": version.to_string() })),
        Event::Swapped { from, to, took } => {
            let seconds = took.as_secs_f64();
            ("swapped", json!({ "from": from.to_string(), "to": to.to_string(), "seconds": seconds }))
        }
        Event::SwapSettled { version } => ("swap-settled", json!({ "version": version.to_string() })),
        Event::RolledBack { from, to, why } => {
            ("rolled-back", json!({ "from": from.to_string(), "to": to.to_string(), "why": why }))
        }
        Event::Controller { controller, change } => {
            let change = match change {
                ControllerChange::Swapped { from, to } => {
                    json!({ "swapped": { "from": from.to_string(), "to": to.to_string() } })
                }
                ControllerChange::Kept { version, refused, why } => {
                    json!({ "kept": { "version": version.to_string(), "refused": refused.to_string(), "why": why } })
                }
                ControllerChange::Ended { version, why } => {
                    json!({ "ended": { "version": version.to_string(), "why": why } })
                }
            };
            ("controller", json!({ "controller": controller.as_str(), "change": change }))
        }
        Event::Log { line } => ("log", json!({ "line": line })),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard is never left half changed by anything that can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
