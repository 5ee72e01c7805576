//! One run of a skill, from its thread's first step to the joints' hold: what drives it, and who may take its place.

pub(crate) mod instance;
pub mod swap;

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_channel::oneshot;
use wasmtime::component::ResourceTable;
use wasmtime::{Store, Trap, UpdateDeadline};
use waza_robot::{Pace, Reply};

use crate::contract::{Refusal, types};
use crate::error::{Exhausted, SkillError};
use crate::host::{Outcome, Site, Skill, TaskRequest};
use crate::imports::wasi::Wasi;
use crate::imports::{Context as Calls, Run};
use crate::leases::Pulse;
use crate::limits::rate::{Crowd, Meter};
use crate::limits::{Budget, Budgets, Growth, mebibytes};
use crate::manifest::SkillId;
use crate::manifest::permission::NotGranted;
use crate::package::compile::Digest;
use crate::record::{Journal, Tape};
use crate::run::events::Event;
use crate::run::registry::RunId;
use crate::run::thread::{Holds, Signal};
use crate::state::checkpoints::RunFile;
use crate::state::disk_writer::Written;
use crate::supervisor::instance::{Answer, Incarnation};
use crate::supervisor::swap::{Offer, Offers, Record, Timer, Trial};

/// What stays of a run while versions of its skill come and go.
pub(crate) struct Job {
    pub id: RunId,
    pub request: TaskRequest,
    /// The runs that wait for this one's outcome.
    pub callers: Arc<[RunId]>,
    pub events: Arc<dyn Fn(Event) + Send + Sync>,
    pub signal: Arc<Signal>,
    pub holds: Holds,
    pub begun_tick: u64,
    /// When its time is up.
    pub until_tick: u64,
    /// Counts the requests to the model, so that each has its own noise.
    pub requests: AtomicU64,
    pub incarnations: AtomicU32,
    pub pulse: Arc<Pulse>,
    pub meter: Arc<Meter>,
    /// Of a run that is recorded.
    pub tape: Option<Arc<Tape>>,
    pub offers: Offers,
    /// The version that works.
    working: Mutex<Arc<Skill>>,
    /// Versions that did not prove themselves in this run.
    refused: Mutex<BTreeSet<Digest>>,
    checkpoint: Mutex<Option<Vec<u8>>>,
    /// Where a killed host finds its checkpoints.
    file: Option<RunFile>,
}

impl Job {
    pub fn working(&self) -> Arc<Skill> {
        lock(&self.working).clone()
    }

    /// Whether a version could take the place of the one that works. A record is of one component.
    pub fn wants(&self, skill: &Skill) -> bool {
        let working = self.working();
        self.tape.is_none()
            && working.manifest.id == skill.manifest.id
            && working.digest != skill.digest
            && !lock(&self.refused).contains(&skill.digest)
    }

    pub fn offer(&self, offer: Offer) {
        let (skill, version) = (offer.skill.manifest.id.clone(), offer.skill.manifest.version.clone());
        self.offers.make(offer);
        (self.events)(Event::SwapOffered { skill, version });
        self.signal.wake_by_ref();
    }

    /// Lets the state of a checkpoint be written for the next host. None: nobody asked for that.
    pub fn write(&self, skill: &Skill, state: &[u8]) -> std::io::Result<Option<Written>> {
        self.file.as_ref().map(|file| file.keep(self, skill, state)).transpose()
    }

    /// From where the run goes on if it changes its version.
    pub fn keep(&self, state: Vec<u8>) {
        *lock(&self.checkpoint) = Some(state);
    }

    pub fn checkpoint(&self) -> Option<Vec<u8>> {
        lock(&self.checkpoint).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What these locks guard changes in single steps, so a panic cannot leave it half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a run starts.
pub(crate) struct Start {
    pub id: RunId,
    pub request: TaskRequest,
    pub callers: Arc<[RunId]>,
    pub events: Arc<dyn Fn(Event) + Send + Sync>,
    pub file: Option<RunFile>,
    /// The run and all that its like invoked.
    pub family: Crowd,
    /// Where the run is written down.
    pub journal: Option<Arc<dyn Journal>>,
}

/// Handles of all kinds that a run may hold, for one of the host's.
pub(crate) const KINDS_OF_HANDLES: usize = 4;

/// Of a run's thread. The skill's own stack is another; this one is for the host's calls, of which drawing a camera's frame
/// is the deepest.
const STACK_BYTES: usize = 1 << 20;

/// A run that has waited for so long gives back the memory of its code, which costs it microseconds when it goes on.
const IDLE: Duration = Duration::from_millis(500);

/// Starts a run on a thread of its own.
pub(crate) fn start(
    site: Arc<Site>,
    skill: Arc<Skill>,
    start: Start,
    signal: Arc<Signal>,
    answer: oneshot::Sender<Reply<Result<Outcome, SkillError>>>,
) {
    let job = Arc::new(job(&site, &skill, start, signal));
    // From before this returns: whoever waits for the run lets time go on only when the run itself waits.
    job.holds.keep(site.robot.hold_time());
    site.runs.begin(&job);
    let id = skill.manifest.id.clone();
    let work = move || {
        if site.robot.pace() == Pace::RealTime {
            waza_robot::priority::after_others();
        }
        let ended = drive(site.clone(), skill, job.clone());
        if let Err(error) = &ended {
            site.quarantine.judge(job.working().edition(), error);
        }
        // Nobody may wait for it any more.
        let _ = answer.send(Reply { value: ended, hold: site.robot.hold_time() });
        job.holds.release();
    };
    let thread = std::thread::Builder::new().name(format!("waza-run-{id}")).stack_size(STACK_BYTES);
    let spawned = thread.spawn(work);
    if let Err(error) = spawned {
        // The answer went with the closure; whoever waits is told that the run is gone.
        tracing::error!(skill = %id, "the system gave no thread: {error}");
    }
}

/// Everything of the run is gone when this returns: its leases are given up and their joints told to hold.
fn drive(site: Arc<Site>, skill: Arc<Skill>, job: Arc<Job>) -> Result<Outcome, SkillError> {
    // Dropped last, even if the host's own code panics.
    let _ending = Ending { site: site.clone(), job: job.clone() };
    let mut supervisor = Supervisor::new(site, skill, job.clone());
    let ended = supervisor.supervise().map(Outcome::from);
    if let Some(tape) = &job.tape {
        // Before the skill's streams close because it is gone.
        tape.ended(&ended);
    }
    ended
}

struct Ending {
    site: Arc<Site>,
    job: Arc<Job>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.site.leases.end_run(self.job.id);
        self.site.runs.end(self.job.id);
        // It knows the run, which knows it.
        drop(self.job.offers.take());
        if let Some(file) = &self.job.file {
            file.remove();
        }
    }
}

pub(crate) fn job(site: &Site, skill: &Arc<Skill>, start: Start, signal: Arc<Signal>) -> Job {
    let Start { id, request, callers, events, file, family, journal } = start;
    let begun_tick = site.robot.tick();
    let ticks = site.options.budgets.run_time.as_secs_f64() * f64::from(site.robot.embodiment().control_hz);
    let pulse = Arc::new(Pulse::default());
    pulse.beat(begun_tick);
    Job {
        id,
        checkpoint: Mutex::new(request.resume.clone()),
        request,
        callers,
        events,
        signal,
        holds: Holds::default(),
        begun_tick,
        until_tick: begun_tick.saturating_add(ticks as u64),
        requests: AtomicU64::new(0),
        incarnations: AtomicU32::new(0),
        pulse,
        meter: Arc::new(Meter::new(&site.options.budgets, family, site.robot.tick_ns(begun_tick))),
        tape: journal.map(|journal| Tape::new(journal, site.robot.clone())),
        offers: Offers::default(),
        working: Mutex::new(skill.clone()),
        refused: Mutex::default(),
        file,
    }
}

/// Drives the version that works, on the run's own thread, and decides which one that is.
struct Supervisor {
    site: Arc<Site>,
    job: Arc<Job>,
    current: Incarnation,
    /// The version before, at its checkpoint, until the current one has taken over.
    parked: Option<Incarnation>,
    trial: Option<Trial>,
    timer: Option<Timer>,
}

impl Supervisor {
    fn new(site: Arc<Site>, skill: Arc<Skill>, job: Arc<Job>) -> Self {
        let current = Incarnation::new(&site, &skill, &job, job.request.resume.clone());
        Self { site, job, current, parked: None, trial: None, timer: None }
    }

    /// Polls the skill and the host's work for it until all of it waits.
    ///
    /// Under lockstep this keeps robot time still while anybody thinks. Every answer of the robot comes with a hold on time;
    /// the run keeps it until the skill and all host tasks have taken their turn and wait again. Only then does time go on,
    /// so what happens in a tick does not depend on how long anybody took. Tasks take their turn before the skill.
    fn supervise(&mut self) -> Result<types::Outcome, SkillError> {
        let (job, site) = (self.job.clone(), self.site.clone());
        job.signal.attach();
        let waker = Waker::from(job.signal.clone());
        let mut context = Context::from_waker(&waker);
        self.begin();
        loop {
            job.signal.rest();
            if job.signal.is_stopped() {
                return Err(SkillError::Stopped { skill: self.skill() });
            }
            if self.left().is_zero() {
                return Err(self.out_of_time());
            }
            self.poll_timer(&mut context);
            if let Some(parked) = &mut self.parked {
                parked.poll_tasks(&mut context);
            }
            self.current.poll_tasks(&mut context);
            let again = match self.current.poll(&mut context) {
                Poll::Ready(answer) => match self.answered(answer) {
                    Some(ended) => return ended,
                    None => true,
                },
                Poll::Pending => self.decide(),
            };
            if self.current.take_tasks() || again || job.signal.is_woken() {
                continue;
            }
            job.holds.release();
            if !job.signal.park(self.left().min(IDLE)) {
                self.current.skill().code.rest();
                if !job.signal.park(self.left()) {
                    return Err(self.out_of_time());
                }
            }
            site.robot.settle();
            self.current.context.burst.begin();
        }
    }

    fn begin(&self) {
        self.site.robot.settle();
        self.current.context.burst.begin();
    }

    fn skill(&self) -> SkillId {
        self.current.skill().manifest.id.clone()
    }

    fn left(&self) -> Duration {
        let ticks = self.site.robot.tick().saturating_sub(self.job.begun_tick);
        let control_hz = f64::from(self.site.robot.embodiment().control_hz);
        self.site.options.budgets.run_time.saturating_sub(Duration::from_secs_f64(ticks as f64 / control_hz))
    }

    fn out_of_time(&self) -> SkillError {
        let budget = Exhausted::time(Budget::RunTime, self.site.options.budgets.run_time);
        SkillError::Exhausted { skill: self.skill(), budget }
    }

    fn poll_timer(&mut self, context: &mut Context<'_>) {
        if let Some(timer) = self.timer.as_mut().filter(|timer| !timer.is_due)
            && let Poll::Ready(reply) = Pin::new(&mut timer.reach).poll(context)
        {
            // A robot whose time has ended reaches no tick any more; then it is time as well.
            let _ = self.job.holds.keep_of(reply);
            timer.is_due = true;
        }
    }

    fn is_due(&self) -> bool {
        self.timer.as_ref().is_some_and(|timer| timer.is_due)
    }

    fn timed(&mut self, span: Duration) {
        self.timer = Some(Timer::after(&self.site.robot, span));
    }

    /// What the end of the current version means: the end of the run, or another version's turn.
    fn answered(&mut self, answer: Answer) -> Option<Result<types::Outcome, SkillError>> {
        if self.trial.as_ref().is_some_and(|trial| trial.starting) && self.current.context.conduct.has_taken_over() {
            self.take_over();
        }
        let ended = self.current.ended(answer);
        let Some(trial) = &self.trial else { return Some(ended) };
        match ended {
            Err(SkillError::Returned { refusal, .. }) if trial.starting || matches!(refusal, Refusal::Invalid(_)) => {
                self.go_back(&format!("it refused the state: {}", crate::contract::sentence(&refusal)), false);
                None
            }
            Ok(_) | Err(SkillError::Returned { .. } | SkillError::Stopped { .. }) => Some(ended),
            Err(error) => {
                self.go_back(&error.to_string(), true);
                None
            }
        }
    }

    /// Whether another version begins, goes on, or has proved itself. True: there is more to do before the run waits.
    fn decide(&mut self) -> bool {
        let conduct = self.current.context.conduct.clone();
        let Some(trial) = &self.trial else { return self.consider() };
        if trial.starting {
            // One that neither moves nor leaves checkpoints takes over by working on.
            if conduct.has_taken_over() || self.is_due() && conduct.first_call().is_some() {
                self.take_over();
                return true;
            }
            if self.is_due() {
                let limit = self.site.options.swap.first_call;
                self.go_back(&format!("it made no call within {limit:?}"), true);
                return true;
            }
            return false;
        }
        let record = conduct.record(self.site.robot.tick());
        if record.is_worse_than(trial.record) {
            let Record { spells, ticks } = trial.record;
            let why = format!(
                "it draws interventions too often: {} spells in {} ticks, the version before {spells} in {ticks}",
                record.spells, record.ticks
            );
            self.go_back(&why, true);
            return true;
        }
        if let Some(timer) = self.timer.as_ref().filter(|timer| timer.is_due)
            && !conduct.plays_since(timer.tick)
        {
            self.settle();
            return true;
        }
        self.go_on_from_checkpoint()
    }

    /// Whether it is time for a version that was offered.
    fn consider(&mut self) -> bool {
        if !self.job.offers.is_there() {
            return self.go_on_from_checkpoint();
        }
        if self.current.context.safe_point.is_reached() {
            let (Some(offer), Some(state)) = (self.job.offers.take(), self.job.checkpoint()) else {
                return self.go_on_from_checkpoint();
            };
            self.swap(offer, state);
            return true;
        }
        if self.timer.is_none() {
            self.timed(self.site.options.swap.patience);
            return true;
        }
        if self.is_due()
            && let Some(state) = self.job.checkpoint()
            && let Some(offer) = self.job.offers.take()
        {
            self.swap(offer, state);
            return true;
        }
        false
    }

    fn go_on_from_checkpoint(&self) -> bool {
        let reached = self.current.context.safe_point.is_reached();
        if reached {
            self.current.context.safe_point.pass();
        }
        reached
    }

    /// Lets a new version begin from a checkpoint.
    fn swap(&mut self, offer: Offer, state: Vec<u8>) {
        let Offer { prepared, skill, requested } = offer;
        let record = self.current.context.conduct.record(self.site.robot.tick());
        let old = self.current.skill().clone();
        let before = std::mem::replace(&mut self.current, prepared.begin(state.clone()));
        if before.context.safe_point.is_reached() {
            self.parked = Some(before);
        } else {
            self.retire(before);
        }
        *lock(&self.job.working) = skill;
        self.trial = Some(Trial { old, state, record, requested, starting: true });
        self.timed(self.site.options.swap.first_call);
        self.current.context.burst.begin();
    }

    /// Ends a version whose successor may have what it held.
    fn retire(&self, incarnation: Incarnation) {
        self.site.leases.bequeath(self.job.id, incarnation.context.incarnation);
        drop(incarnation);
    }

    /// From here on the new version is in charge, on probation.
    fn take_over(&mut self) {
        let Some(trial) = &mut self.trial else { return };
        trial.starting = false;
        let from = trial.old.manifest.version.clone();
        let first_call = self.current.context.conduct.first_call();
        let took = first_call.map_or_else(|| trial.requested.elapsed(), |at| at.duration_since(trial.requested));
        if let Some(parked) = self.parked.take() {
            self.retire(parked);
        }
        self.timed(self.site.options.swap.probation);
        let to = self.current.skill().manifest.version.clone();
        (self.job.events)(Event::Swapped { skill: self.skill(), from, to, took });
    }

    /// The new version has proved itself.
    fn settle(&mut self) {
        self.trial = None;
        self.timer = None;
        self.site.leases.settle(self.job.id);
        let version = self.current.skill().manifest.version.clone();
        (self.job.events)(Event::SwapSettled { skill: self.skill(), version });
    }

    /// The version before returns: from where it waits, or from its checkpoint.
    fn go_back(&mut self, why: &str, is_a_fault: bool) {
        let Some(Trial { old, state, .. }) = self.trial.take() else { return };
        self.timer = None;
        let condemned = self.current.skill().clone();
        match self.parked.take() {
            Some(parked) => {
                parked.context.safe_point.pass();
                drop(std::mem::replace(&mut self.current, parked));
            }
            None => {
                self.site.leases.hold(self.job.id);
                let again = Incarnation::new(&self.site, &old, &self.job, Some(state.clone()));
                let failed = std::mem::replace(&mut self.current, again);
                self.retire(failed);
                // The new version may have left checkpoints that the old one cannot read.
                // Nobody waits for it; where it fails, whoever writes says so.
                let _ = self.job.write(&old, &state);
                self.job.keep(state);
            }
        }
        *lock(&self.job.working) = old.clone();
        lock(&self.job.refused).insert(condemned.digest);
        if is_a_fault {
            self.site.condemn(&condemned, &old, why);
        }
        let (from, to) = (condemned.manifest.version.clone(), old.manifest.version.clone());
        (self.job.events)(Event::RolledBack { skill: self.skill(), from, to, why: why.into() });
        self.current.context.burst.begin();
    }
}

/// The epoch callback saw that the run is to end.
#[derive(Debug, thiserror::Error)]
#[error("stopped")]
struct Interrupted;

/// A store for one run, with its budgets in force.
pub(crate) fn store(context: Arc<Calls>, signal: Arc<Signal>, tape: Option<Arc<Tape>>) -> Store<Run> {
    let budgets = &context.site.options.budgets;
    let counted = context.clone();
    let yields = context.site.robot.pace() == Pace::RealTime;
    let mut table = ResourceTable::new();
    table.set_max_capacity(budgets.handles);
    let wasi = Wasi::of(&context, tape.clone());
    let run = Run { growth: Growth::new(budgets), wasi, table, context: context.clone(), tape };
    let mut store = Store::new(&context.site.engines.skill, run);
    store.limiter(|run| &mut run.growth);
    store.set_hostcall_fuel(budgets.call_bytes);
    store.set_max_component_handles(budgets.handles.saturating_mul(KINDS_OF_HANDLES));
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |_| {
        if signal.is_stopped() {
            return Err(wasmtime::Error::new(Interrupted));
        }
        counted.burst.check(&counted.site.options.budgets).map_err(wasmtime::Error::new)?;
        // In real time the host's own work for this run, a rollout say, must not wait for the skill's thinking. Under
        // lockstep nothing can become due meanwhile, and turns must not depend on how long they take.
        Ok(if yields { UpdateDeadline::Yield(1) } else { UpdateDeadline::Continue(1) })
    });
    store
}

/// What an error of wasmtime means, with the last line that the skill wrote.
pub(crate) fn explain(skill: SkillId, error: &wasmtime::Error, said: Option<String>, budgets: &Budgets) -> SkillError {
    if let Some(budget) = error.downcast_ref::<Exhausted>() {
        return SkillError::Exhausted { skill, budget: budget.clone() };
    }
    if let Some(denied) = error.downcast_ref::<NotGranted>() {
        return SkillError::Denied { skill, denied: denied.clone() };
    }
    if let Some(budget) = overspent(error, budgets) {
        return SkillError::Exhausted { skill, budget };
    }
    if error.is::<Interrupted>() {
        return SkillError::Stopped { skill };
    }
    let trap = error.downcast_ref::<Trap>().map_or_else(|| error.root_cause().to_string(), Trap::to_string);
    let what = match said {
        Some(said) => format!("{trap}; it last said: {said}"),
        None => trap,
    };
    SkillError::Trapped { skill, what }
}

/// Budgets that wasmtime itself keeps. It names them in words only, which the hostile corpus watches.
fn overspent(error: &wasmtime::Error, budgets: &Budgets) -> Option<Exhausted> {
    let cause = error.root_cause().to_string();
    if cause.contains("fuel allocated for hostcalls has been exhausted") {
        return Some(Exhausted { budget: Budget::CallBytes, limit: mebibytes(budgets.call_bytes) });
    }
    if cause.contains("store handle limit exceeded") {
        let limit = format!("{} of all kinds", budgets.handles.saturating_mul(KINDS_OF_HANDLES));
        return Some(Exhausted { budget: Budget::Handles, limit });
    }
    None
}
