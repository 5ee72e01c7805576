//! The runs that were started over the API, and what they reported.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;

use axum::body::Bytes;
use axum::http::StatusCode;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, mpsc};
use waza_runtime::{
    Event, Host, Interrupted, Outcome, Quarantined, RunId, Running, SkillError, SkillSummary, TaskRequest,
};

use crate::fault::{Fault, run_problem};
use crate::news::{News, Report};
use crate::quarantine;
use crate::records::{Record, Records};
use crate::run_log::{Reader, RunLog, Sight};
use crate::wire::{self, RunState, StartRun};

/// Runs at once.
const MOST_RUNNING: usize = 64;

/// Ended runs that are remembered.
const MOST_ENDED: usize = 256;

/// What the ended runs that are remembered may take, bytes. The last one is remembered whatever it takes.
const MOST_ENDED_BYTES: usize = 64 << 20;

pub(crate) struct Runs {
    state: Mutex<State>,
    /// How many work. Beside the lock, so that whoever says how the robot is never waits for a run that begins.
    running: AtomicUsize,
    quarantined: quarantine::Known,
    records: Option<Arc<dyn Records>>,
    report: Report,
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
    /// It is asked to end.
    asked: Notify,
    /// And is wanted no more: it is not to go on another time.
    unwanted: AtomicBool,
    log: Arc<RunLog>,
    record: Option<Arc<dyn Record>>,
}

/// A run that has just begun, and what its events come to.
struct Begun {
    running: Running,
    log: Arc<RunLog>,
    news: mpsc::Receiver<Event>,
    instruction: String,
    seed: u64,
    record: Option<Arc<dyn Record>>,
}

impl Runs {
    pub fn new(report: Report, records: Option<Arc<dyn Records>>) -> Self {
        let (state, running) = (Mutex::default(), AtomicUsize::new(0));
        Self { state, running, quarantined: quarantine::Known::default(), records, report }
    }

    /// Starts a run. Nothing starts while the host stop is latched, or before the robot is armed, or when nobody `waits` any
    /// more for a record to begin. Waits for the disk.
    pub fn start(
        self: &Arc<Self>,
        host: &Host,
        ask: StartRun,
        waits: impl FnOnce() -> bool,
    ) -> Result<Arc<Run>, Fault> {
        if !ask.record {
            return self.start_recorded(host, ask, None);
        }
        let record = self.record(host, &ask)?;
        let started = if waits() {
            self.start_recorded(host, ask, Some(record.clone()))
        } else {
            let (cause, way_out) = ("whoever asked for the run has given up waiting", "ask again");
            Err(Fault::new(StatusCode::REQUEST_TIMEOUT, "timeout", cause, way_out))
        };
        started.inspect_err(|_| record.discard())
    }

    /// Begins the record of a run that could start now.
    fn record(&self, host: &Host, ask: &StartRun) -> Result<Arc<dyn Record>, Fault> {
        let skill = self.ready(host, &ask.skill)?.1.id;
        let Some(records) = &self.records else {
            let way_out = "run it without a record, or serve with --records FOLDER";
            return Err(Fault::conflict("no-records", "this host keeps no records", way_out));
        };
        let begun = records.begin(host, &skill, &request(ask));
        begun.map_err(|cause| Fault::conflict("no-record", cause, "or run it without a record"))
    }

    fn start_recorded(
        self: &Arc<Self>,
        host: &Host,
        ask: StartRun,
        record: Option<Arc<dyn Record>>,
    ) -> Result<Arc<Run>, Fault> {
        let (state, loaded) = self.ready(host, &ask.skill)?;
        let (log, news) = RunLog::of(ask.skill.clone(), loaded.version.to_string());
        let request = request(&ask);
        let noting = log.clone();
        let note = move |event| noting.note(event);
        let running = match &record {
            Some(record) => host.record(&ask.skill, request, note, record.clone()),
            None => host.run(&ask.skill, request, note),
        };
        let (instruction, seed) = (ask.instruction, ask.seed);
        Ok(self.begin(host, state, Begun { running, log, news, instruction, seed, record }))
    }

    /// Lets a run go on that an earlier host did not live to end, under the same conditions.
    pub fn resume(self: &Arc<Self>, host: &Host, id: RunId) -> Result<Arc<Run>, Fault> {
        let gone = || Fault::not_found(format!("no interrupted run {id} waits"), "`waza ctl runs` lists those that do");
        let left = interrupted(host, id).ok_or_else(gone)?;
        let (state, loaded) = self.ready(host, left.skill.as_str())?;
        let (log, news) = RunLog::of(left.skill.to_string(), loaded.version.to_string());
        let noting = log.clone();
        let running = host.resume(id, move |event| noting.note(event)).ok_or_else(gone)?;
        let (instruction, seed) = (left.request.instruction.clone(), left.request.seed);
        Ok(self.begin(host, state, Begun { running, log, news, instruction, seed, record: None }))
    }

    /// Whether a run of a skill may begin now, and with which version. Nothing else begins until the guard is dropped.
    fn ready(&self, host: &Host, skill: &str) -> Result<(MutexGuard<'_, State>, SkillSummary), Fault> {
        let state = self.state.lock();
        let robot = host.robot();
        if robot.has_ended() {
            let way_out = "start the host again";
            return Err(Fault::conflict("robot-ended", "the robot's control loop has ended", way_out));
        }
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
        let Begun { running, log, news, instruction, seed, record } = begun;
        let (asked, unwanted) = (Notify::new(), AtomicBool::new(false));
        let run = Arc::new(Run { id: running.id(), instruction, seed, asked, unwanted, log, record });
        state.runs.insert(run.id, run.clone());
        self.running.fetch_add(1, Ordering::AcqRel);
        drop(state);
        (self.report)(News::Began(run.brief()));
        tokio::spawn(follow(running, run.clone(), news, self.clone(), host.clone()));
        run
    }

    /// Tells which versions are not run any more that were when this was last told.
    pub fn tell_quarantined(&self, host: &Host) {
        for Quarantined { skill, version, why, .. } in self.quarantined.news(host) {
            (self.report)(News::Quarantined { skill, version, why });
        }
    }

    /// Every run that is remembered, by number.
    pub fn all(&self) -> Vec<Arc<Run>> {
        self.state.lock().runs.values().cloned().collect()
    }

    pub fn find(&self, id: RunId) -> Option<Arc<Run>> {
        self.state.lock().runs.get(&id).cloned()
    }

    /// How many work. Waits for nobody.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    /// Asks every run to end. One that left a checkpoint can go on later.
    pub fn interrupt_all(&self) {
        self.state.lock().running().for_each(|run| run.interrupt());
    }

    /// Asks every run to end likewise, and does something if none has to. Nothing starts meanwhile.
    pub fn when_none<T>(&self, then: impl FnOnce() -> T) -> Result<T, usize> {
        let state = self.state.lock();
        let running = state.running().inspect(|run| run.interrupt()).count();
        if running == 0 { Ok(then()) } else { Err(running) }
    }
}

impl State {
    fn running(&self) -> impl Iterator<Item = &Arc<Run>> {
        self.runs.values().filter(|run| run.is_running())
    }

    /// Forgets the oldest of those that have ended, beyond what is remembered.
    fn forget(&mut self) {
        let (mut ended, mut bytes) = (0, 0);
        let mut is_remembered = |run: &Run| {
            ended += 1;
            bytes += run.log.bytes();
            ended == 1 || (ended <= MOST_ENDED && bytes <= MOST_ENDED_BYTES)
        };
        let newest_first = self.runs.values().rev().filter(|run| !run.is_running());
        let forgotten: Vec<_> = newest_first.filter(|run| !is_remembered(run)).map(|run| run.id).collect();
        self.runs.retain(|id, _| !forgotten.contains(id));
    }
}

/// Waits for the end of a run, asks for it when the operator does, and tells what is news of it meanwhile.
async fn follow(mut running: Running, run: Arc<Run>, mut news: mpsc::Receiver<Event>, runs: Arc<Runs>, host: Host) {
    let tell = |event| {
        let may_quarantine = matches!(event, Event::RolledBack { .. } | Event::Controller { .. });
        (runs.report)(News::Changed { run: run.id, event });
        if may_quarantine {
            runs.tell_quarantined(&host);
        }
    };
    let mut asked = pin!(run.asked.notified());
    let reply = poll_fn(|context| {
        while let Poll::Ready(Some(event)) = news.poll_recv(context) {
            tell(event);
        }
        while asked.as_mut().poll(context).is_ready() {
            asked.set(run.asked.notified());
            if run.unwanted.load(Ordering::Acquire) { running.stop() } else { running.interrupt() }
        }
        Pin::new(&mut running).poll(context)
    })
    .await;
    while let Ok(event) = news.try_recv() {
        tell(event);
    }
    let (ending, counted, value) = (run.clone(), runs.clone(), reply.value);
    // A record waits for the disk, and what a skill says at the end may be long.
    let end = tokio::task::spawn_blocking(move || {
        let ended = ending.come_to(value);
        counted.running.fetch_sub(1, Ordering::AcqRel);
        ending.log.end(ended);
    });
    if let Err(error) = end.await {
        tracing::error!(run = run.id.to_string(), "its end is not known: {error}");
    }
    runs.state.lock().forget();
    (runs.report)(News::Ended(run.brief()));
    if let Some(left) = interrupted(&host, run.id) {
        (runs.report)(News::Interrupted(view_of_interrupted(left)));
    }
    runs.tell_quarantined(&host);
}

impl Run {
    /// Asks it to end, be it waiting or computing, because it is wanted no more.
    pub fn stop(&self) {
        self.unwanted.store(true, Ordering::Release);
        self.asked.notify_one();
    }

    /// Asks it to end, be it waiting or computing. If it left a checkpoint it can go on later.
    fn interrupt(&self) {
        self.asked.notify_one();
    }

    pub fn is_running(&self) -> bool {
        !self.log.is_over()
    }

    /// In few words, whatever the skill said.
    pub fn brief(&self) -> wire::Run {
        self.log.ended().unwrap_or_else(|| self.view(RunState::Running).brief())
    }

    /// All of it as JSON, if it is over.
    pub fn whole(&self) -> Option<Bytes> {
        self.log.whole()
    }

    pub fn read(&self) -> Reader {
        self.log.read()
    }

    fn view(&self, state: RunState) -> wire::Run {
        let Sight { version, progress, counts } = self.log.sight();
        wire::Run {
            id: self.id,
            skill: self.log.skill().into(),
            version,
            instruction: self.instruction.clone(),
            seed: self.seed,
            state,
            outcome: None,
            error: None,
            progress,
            events: counts,
            record: self.record.as_ref().map(|record| record.path().display().to_string()),
        }
    }

    /// What it came to, once its record is whole.
    fn come_to(&self, ended: Result<Outcome, SkillError>) -> wire::Run {
        if let Some(cut) = self.record.as_ref().and_then(|record| record.finish()) {
            tracing::warn!(run = self.id.to_string(), "the record is cut short: {cut}");
        }
        match ended {
            Ok(Outcome { summary, data }) => {
                let outcome = Some(wire::Outcome { summary, data: Some(data) });
                wire::Run { outcome, ..self.view(RunState::Succeeded) }
            }
            Err(error) => wire::Run { error: Some(run_problem(&error)), ..self.view(RunState::Failed) },
        }
    }
}

pub(crate) fn request(ask: &StartRun) -> TaskRequest {
    TaskRequest {
        instruction: ask.instruction.clone(),
        parameters: if ask.parameters.is_null() { String::new() } else { ask.parameters.to_string() },
        resume: None,
        seed: ask.seed,
        priority: ask.priority,
    }
}

/// A run that an earlier host left.
pub(crate) fn interrupted(host: &Host, id: RunId) -> Option<Arc<Interrupted>> {
    host.interrupted().into_iter().find(|run| run.id == id)
}

/// As the API shows it.
pub(crate) fn view_of_interrupted(run: Arc<Interrupted>) -> wire::Run {
    let run = wire::Run {
        id: run.id,
        skill: run.skill.to_string(),
        version: run.version.to_string(),
        instruction: run.request.instruction.clone(),
        seed: run.request.seed,
        state: RunState::Interrupted,
        outcome: None,
        error: None,
        progress: None,
        events: BTreeMap::new(),
        record: None,
    };
    run.brief()
}
