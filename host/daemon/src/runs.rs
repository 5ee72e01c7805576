//! The runs that were started over the API, and what they reported.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, watch};
use waza_runtime::{
    ControllerChange, Event, Host, Interrupted, Outcome, Quarantined, RunId, Running, SkillError, SkillSummary,
    TaskRequest,
};

use crate::daemon::Report;
use crate::fault::{Fault, run_problem};
use crate::news::{Notice, VersionChange};
use crate::quarantine;
use crate::records::{Record, Records};
use crate::wire::{self, Problem, Progress, RunState, StartRun};

/// Runs at once.
const MOST_RUNNING: usize = 64;

/// Ended runs that are remembered.
const MOST_ENDED: usize = 256;

/// Bytes of events that a run keeps for readers; older ones are forgotten.
const MOST_EVENT_BYTES: usize = 256 * 1024;

pub(crate) struct Runs {
    state: Mutex<State>,
    quarantined: quarantine::Known,
    records: Option<Arc<dyn Records>>,
    tell: Report,
}

#[derive(Default)]
struct State {
    runs: BTreeMap<RunId, Arc<Run>>,
}

/// One run, whether it still works or not.
pub(crate) struct Run {
    id: RunId,
    instruction: String,
    seed: u64,
    stop: Notify,
    journal: Arc<Journal>,
    record: Option<Arc<dyn Record>>,
}

/// What a run reported.
struct Journal {
    /// The run's skill.
    skill: String,
    log: Mutex<Log>,
    /// Changes whenever the log does.
    grown: watch::Sender<()>,
    /// What operators are told besides. Few versions are offered to a run, so few of these can wait.
    news: UnboundedSender<VersionChange>,
}

/// A run that has just begun, and what its events come to.
struct Begun {
    running: Running,
    journal: Arc<Journal>,
    news: UnboundedReceiver<VersionChange>,
    instruction: String,
    seed: u64,
    record: Option<Arc<dyn Record>>,
}

#[derive(Default)]
struct Log {
    ended: Option<Result<wire::Outcome, Problem>>,
    progress: Option<Progress>,
    /// Of the skill, the version that works.
    version: String,
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
    pub fn new(tell: Report, records: Option<Arc<dyn Records>>) -> Self {
        Self { state: Mutex::default(), quarantined: quarantine::Known::default(), records, tell }
    }

    /// Begins the record of a run that could start now. The disk may take its time: nobody waits for it but who asks.
    pub async fn record(&self, host: &Host, ask: &StartRun) -> Result<Arc<dyn Record>, Fault> {
        let skill = self.ready(host, &ask.skill)?.1.id;
        let Some(records) = self.records.clone() else {
            let way_out = "run it without a record, or serve with --records FOLDER";
            return Err(Fault::conflict("no-records", "this host keeps no records", way_out));
        };
        let (host, request) = (host.clone(), request(ask));
        let begun = tokio::task::spawn_blocking(move || records.begin(&host, &skill, &request)).await;
        let refused = |cause: String| Fault::conflict("no-record", cause, "or run it without a record");
        begun.map_err(|error| refused(error.to_string()))?.map_err(refused)
    }

    /// Starts a run. Nothing starts while the host stop is latched, or before the robot is armed.
    pub fn start(
        self: &Arc<Self>,
        host: &Host,
        ask: StartRun,
        record: Option<Arc<dyn Record>>,
    ) -> Result<Arc<Run>, Fault> {
        let (state, loaded) = self.ready(host, &ask.skill)?;
        let (journal, news) = Journal::of(ask.skill.clone(), loaded.version.to_string());
        let request = request(&ask);
        let noting = journal.clone();
        let note = move |event| noting.note(&event);
        let running = match &record {
            Some(record) => host.record(&ask.skill, request, note, record.clone()),
            None => host.run(&ask.skill, request, note),
        };
        let (instruction, seed) = (ask.instruction, ask.seed);
        Ok(self.begin(host, state, Begun { running, journal, news, instruction, seed, record }))
    }

    /// Lets a run go on that an earlier host did not live to end, under the same conditions.
    pub fn resume(self: &Arc<Self>, host: &Host, id: RunId) -> Result<Arc<Run>, Fault> {
        let gone = || Fault::not_found(format!("no interrupted run {id} waits"), "`waza ctl runs` lists those that do");
        let Interrupted { skill, request, .. } = interrupted(host, id).ok_or_else(gone)?;
        let (state, loaded) = self.ready(host, skill.as_str())?;
        let (journal, news) = Journal::of(skill.to_string(), loaded.version.to_string());
        let noting = journal.clone();
        let running = host.resume(id, move |event| noting.note(&event)).ok_or_else(gone)?;
        let (instruction, seed) = (request.instruction, request.seed);
        Ok(self.begin(host, state, Begun { running, journal, news, instruction, seed, record: None }))
    }

    /// Whether a run of a skill may begin now, and with which version. Nothing else begins until the guard is dropped.
    fn ready(&self, host: &Host, skill: &str) -> Result<(MutexGuard<'_, State>, SkillSummary), Fault> {
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
        let mut skills = host.skills();
        match skills.iter().position(|loaded| loaded.id.as_str() == skill) {
            Some(at) => Ok((state, skills.swap_remove(at))),
            None => {
                let loaded: Vec<_> = skills.iter().map(|skill| skill.id.as_str()).collect();
                let loaded = if loaded.is_empty() { "none".into() } else { loaded.join(", ") };
                Err(Fault::not_found(format!("no skill {skill} is loaded"), format!("loaded are {loaded}")))
            }
        }
    }

    fn begin(self: &Arc<Self>, host: &Host, mut state: MutexGuard<'_, State>, begun: Begun) -> Arc<Run> {
        let Begun { running, journal, news, instruction, seed, record } = begun;
        let run = Arc::new(Run { id: running.id(), instruction, seed, stop: Notify::new(), journal, record });
        state.keep(run.clone());
        drop(state);
        let skill = run.journal.skill.clone();
        (self.tell)(Notice::Began { run: run.id, skill, instruction: run.instruction.clone() });
        tokio::spawn(follow(running, run.clone(), news, self.clone(), host.clone()));
        run
    }

    /// Tells which versions are not run any more that were when this was last told.
    pub fn tell_quarantined(&self, host: &Host) {
        for Quarantined { skill, version, why, .. } in self.quarantined.news(host) {
            (self.tell)(Notice::Quarantined { skill, version, why });
        }
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

/// Waits for the end of a run, asks for it when the operator does, and tells what is news of it meanwhile.
async fn follow(
    mut running: Running,
    run: Arc<Run>,
    mut news: UnboundedReceiver<VersionChange>,
    runs: Arc<Runs>,
    host: Host,
) {
    let tell = |change| {
        let may_quarantine = matches!(change, VersionChange::RolledBack { .. } | VersionChange::Controller { .. });
        (runs.tell)(Notice::Changed { run: run.id, change });
        if may_quarantine {
            runs.tell_quarantined(&host);
        }
    };
    let mut asked = pin!(run.stop.notified());
    let mut is_asked = false;
    let reply = poll_fn(|context| {
        while let Poll::Ready(Some(change)) = news.poll_recv(context) {
            tell(change);
        }
        if !is_asked && asked.as_mut().poll(context).is_ready() {
            is_asked = true;
            running.stop();
        }
        Pin::new(&mut running).poll(context)
    })
    .await;
    while let Ok(change) = news.try_recv() {
        tell(change);
    }
    if let Some(record) = run.record.clone()
        && let Ok(Some(cut)) = tokio::task::spawn_blocking(move || record.finish()).await
    {
        tracing::warn!(run = run.id.to_string(), "the record is cut short: {cut}");
    }
    run.journal.end(reply.value);
    (runs.tell)(Notice::Ended(run.view()));
    runs.tell_quarantined(&host);
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
            skill: self.journal.skill.clone(),
            version: log.version.clone(),
            instruction: self.instruction.clone(),
            seed: self.seed,
            state,
            outcome: ended.clone().and_then(Result::ok),
            error: ended.and_then(Result::err),
            progress: log.progress.clone(),
            events: log.counts.clone(),
            record: self.record.as_ref().map(|record| record.path().display().to_string()),
        }
    }

    pub fn read(self: &Arc<Self>) -> Reader {
        Reader { run: self.clone(), next: 0, grown: self.journal.grown.subscribe(), is_over: false }
    }
}

impl Journal {
    /// Of a run that begins with a version of a skill, and what is news of it.
    fn of(skill: String, version: String) -> (Arc<Self>, UnboundedReceiver<VersionChange>) {
        let (news, told) = unbounded_channel();
        let log = Mutex::new(Log { version, ..Log::default() });
        (Arc::new(Self { skill, log, grown: watch::Sender::default(), news }), told)
    }

    fn note(&self, event: &Event) {
        let (kind, data) = shown(event);
        let entry = Entry { kind, data: data.to_string() };
        let mut log = lock(&self.log);
        match event {
            Event::Progress { fraction, note } => {
                log.progress = Some(Progress { fraction: *fraction, note: note.clone() });
            }
            Event::Swapped { skill, to, .. } | Event::RolledBack { skill, to, .. } if skill.as_str() == self.skill => {
                log.version = to.to_string();
            }
            _ => {}
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
        if let Some(change) = VersionChange::of(event) {
            // Whoever follows the run may be gone with the daemon.
            let _ = self.news.send(change);
        }
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

fn request(ask: &StartRun) -> TaskRequest {
    TaskRequest {
        instruction: ask.instruction.clone(),
        parameters: if ask.parameters.is_null() { String::new() } else { ask.parameters.to_string() },
        resume: None,
        seed: ask.seed,
        priority: ask.priority,
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
        version: run.version.to_string(),
        instruction: run.request.instruction,
        seed: run.request.seed,
        state: RunState::Interrupted,
        outcome: None,
        error: None,
        progress: None,
        events: BTreeMap::new(),
        record: None,
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
        Event::SwapOffered { skill, version } => {
            ("swap-offered", json!({ "skill": skill.as_str(), "version": version.to_string() }))
        }
        Event::Swapped { skill, from, to, took } => {
            let (skill, seconds) = (skill.as_str(), took.as_secs_f64());
            let (from, to) = (from.to_string(), to.to_string());
            ("swapped", json!({ "skill": skill, "from": from, "to": to, "seconds": seconds }))
        }
        Event::SwapSettled { skill, version } => {
            ("swap-settled", json!({ "skill": skill.as_str(), "version": version.to_string() }))
        }
        Event::RolledBack { skill, from, to, why } => {
            let (from, to) = (from.to_string(), to.to_string());
            ("rolled-back", json!({ "skill": skill.as_str(), "from": from, "to": to, "why": why }))
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
