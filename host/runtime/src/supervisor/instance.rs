//! One version of a skill at work on a run: its instance, and what the host does for it meanwhile.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{self, Poll, Waker};
use std::time::{Duration, Instant};

use futures_channel::mpsc;
use wasmtime::Store;

use crate::contract::skill::exports::waza::skill::task::Request;
use crate::contract::skill::{Skill as Bindings, SkillPre};
use crate::contract::{Refusal, types};
use crate::controllers::Untold;
use crate::error::SkillError;
use crate::host::{Site, Skill};
use crate::imports::linkers::Calls;
use crate::imports::wasi::Log;
use crate::imports::{Context, Run};
use crate::limits::Burst;
use crate::package::compile::Interfaces;
use crate::run::events::Event;
use crate::run::thread::Task;
use crate::supervisor::swap::{Record, Spells};
use crate::supervisor::{self, Job};

/// What a skill's `run` came to: its own answer, or the trap that ended it.
pub(crate) type Answer = wasmtime::Result<Result<types::Outcome, Refusal>>;

/// What one version of a skill has done in a run so far.
pub(crate) struct Conduct {
    made: Instant,
    /// Nanoseconds from `made` to its first call; 0: it has made none.
    first_call_ns: AtomicU64,
    /// It has a lease or has left a checkpoint: there is no way back but from an older checkpoint.
    took_over: AtomicBool,
    /// Of interventions of the safety filter in what it commanded.
    spells: Mutex<Spells>,
    /// The tick in which it began.
    begun_tick: AtomicU64,
    /// The ticks in which plays began that have not ended: what they drew is not counted yet.
    plays: Mutex<Vec<u64>>,
}

/// A play of a version's, until it is dropped.
pub(crate) struct Underway {
    conduct: Arc<Conduct>,
    begun_tick: u64,
}

impl Drop for Underway {
    fn drop(&mut self) {
        let mut plays = self.conduct.plays();
        if let Some(index) = plays.iter().position(|tick| *tick == self.begun_tick) {
            plays.swap_remove(index);
        }
    }
}

impl Conduct {
    fn new(tick: u64, control_hz: f32) -> Self {
        Self {
            made: Instant::now(),
            first_call_ns: AtomicU64::new(0),
            took_over: AtomicBool::new(false),
            spells: Mutex::new(Spells::new(control_hz)),
            begun_tick: AtomicU64::new(tick),
            plays: Mutex::default(),
        }
    }

    /// A play begins.
    pub fn play(self: &Arc<Self>, tick: u64) -> Underway {
        self.plays().push(tick);
        Underway { conduct: self.clone(), begun_tick: tick }
    }

    /// Whether a play that began until then has not ended.
    pub fn plays_since(&self, tick: u64) -> bool {
        self.plays().iter().any(|begun| *begun <= tick)
    }

    fn plays(&self) -> MutexGuard<'_, Vec<u64>> {
        // Every change under this lock is a single step, so a panic cannot leave it half done.
        self.plays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spells(&self) -> MutexGuard<'_, Spells> {
        // As above.
        self.spells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It called the host.
    pub fn called(&self) {
        if self.first_call_ns.load(Ordering::Relaxed) == 0 {
            let ns = u64::try_from(self.made.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1);
            self.first_call_ns.store(ns, Ordering::Relaxed);
        }
    }

    /// When it first called the host.
    pub fn first_call(&self) -> Option<Instant> {
        let ns = self.first_call_ns.load(Ordering::Relaxed);
        (ns > 0).then(|| self.made + Duration::from_nanos(ns))
    }

    pub fn take_over(&self) {
        self.took_over.store(true, Ordering::Relaxed);
    }

    pub fn has_taken_over(&self) -> bool {
        self.took_over.load(Ordering::Relaxed)
    }

    /// What the safety filter has had to do with it until `tick`.
    pub fn record(&self, tick: u64) -> Record {
        self.spells().record(tick.saturating_sub(self.begun_tick.load(Ordering::Relaxed)))
    }
}

/// Where a skill waits while the host decides whether another version goes on from its checkpoint.
#[derive(Default)]
pub(crate) struct SafePoint(Mutex<Stand>);

#[derive(Default)]
enum Stand {
    /// Not at one, or told to go on.
    #[default]
    Passed,
    At(Waker),
}

impl SafePoint {
    /// Waits at a checkpoint until [`SafePoint::pass`].
    pub fn wait(&self) -> impl Future<Output = ()> + '_ {
        let mut arrived = false;
        std::future::poll_fn(move |context| {
            let mut stand = self.lock();
            if arrived && matches!(*stand, Stand::Passed) {
                return Poll::Ready(());
            }
            arrived = true;
            *stand = Stand::At(context.waker().clone());
            Poll::Pending
        })
    }

    pub fn is_reached(&self) -> bool {
        matches!(*self.lock(), Stand::At(_))
    }

    /// Lets the skill go on.
    pub fn pass(&self) {
        if let Stand::At(waker) = std::mem::take(&mut *self.lock()) {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Stand> {
        // Every change under this lock is a single step, so a panic cannot leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An instance that has not been asked to do anything.
pub(crate) struct Prepared {
    store: Store<Run>,
    bindings: Bindings,
    context: Arc<Context>,
    inbox: mpsc::UnboundedReceiver<Task>,
}

/// An instance that works.
pub(crate) struct Incarnation {
    pub context: Arc<Context>,
    log: Log,
    work: Pin<Box<dyn Future<Output = (Answer, Store<Run>)>>>,
    /// Of one that has ended: what goes with it goes after everybody knows that it has ended.
    ended: Option<Store<Run>>,
    inbox: mpsc::UnboundedReceiver<Task>,
    tasks: Vec<Task>,
}

impl Prepared {
    /// Makes an instance on this thread, while another works on the run.
    pub fn new(site: &Arc<Site>, skill: &Arc<Skill>, job: &Arc<Job>) -> Result<Self, SkillError> {
        let (context, inbox) = context(site, skill, job);
        let mut store = supervisor::store(context.clone(), job.signal.clone(), None);
        context.burst.begin();
        let log = store.data().wasi.log();
        let made = pollster::block_on(skill.component.instantiate_async(&mut store));
        let bindings = made.map_err(|error| {
            supervisor::explain(skill.manifest.id.clone(), &error, log.last(), &site.options.budgets)
        })?;
        Ok(Self { store, bindings, context, inbox })
    }

    /// On the run's own thread.
    pub fn begin(self, resume: Vec<u8>) -> Incarnation {
        let Self { mut store, bindings, context, inbox } = self;
        context.conduct.begun_tick.store(context.site.robot.tick(), Ordering::Relaxed);
        let request = request(&context.job, Some(resume));
        let log = store.data().wasi.log();
        let work = async move { (work(&mut store, &bindings, request).await, store) };
        Incarnation { context, log, work: Box::pin(work), ended: None, inbox, tasks: Vec::new() }
    }
}

impl Incarnation {
    /// Makes an instance when it is first polled.
    pub fn new(site: &Arc<Site>, skill: &Arc<Skill>, job: &Arc<Job>, resume: Option<Vec<u8>>) -> Self {
        let (context, inbox) = context(site, skill, job);
        let mut store = supervisor::store(context.clone(), job.signal.clone(), job.tape.clone());
        let request = request(job, resume);
        let log = store.data().wasi.log();
        let component = match job.tape {
            Some(_) => recorded(site, skill),
            None => Ok(skill.component.clone()),
        };
        let work = async move { (instantiate_and_work(component, &mut store, request).await, store) };
        Self { context, log, work: Box::pin(work), ended: None, inbox, tasks: Vec::new() }
    }

    /// Lets the host work for the skill: in the order in which the tasks were sent, so that a run repeats.
    pub fn poll_tasks(&mut self, context: &mut task::Context<'_>) {
        self.tasks.retain_mut(|task| task.as_mut().poll(context).is_pending());
    }

    /// Lets the skill think.
    pub fn poll(&mut self, context: &mut task::Context<'_>) -> Poll<Answer> {
        self.work.as_mut().poll(context).map(|(answer, store)| {
            self.ended = Some(store);
            answer
        })
    }

    /// Takes up the tasks that were sent since. Says whether there were any.
    pub fn take_tasks(&mut self) -> bool {
        let before = self.tasks.len();
        self.tasks.extend(std::iter::from_fn(|| self.inbox.try_recv().ok()));
        self.tasks.len() > before
    }

    pub fn skill(&self) -> &Arc<Skill> {
        &self.context.skill
    }

    /// What its answer means.
    pub fn ended(&self, answer: Answer) -> Result<types::Outcome, SkillError> {
        let skill = self.skill().manifest.id.clone();
        match answer {
            Ok(answer) => answer.map_err(|refusal| SkillError::Returned { skill, refusal }),
            Err(error) => Err(supervisor::explain(skill, &error, self.log.last(), &self.context.site.options.budgets)),
        }
    }
}

/// A skill whose calls are written down.
fn recorded(site: &Site, skill: &Skill) -> wasmtime::Result<SkillPre<Run>> {
    site.linkers.link(skill.code.component(), Interfaces::of(&skill.manifest), Calls::Recorded)
}

async fn instantiate_and_work(
    component: wasmtime::Result<SkillPre<Run>>,
    store: &mut Store<Run>,
    request: Request,
) -> Answer {
    let bindings = component?.instantiate_async(&mut *store).await?;
    work(store, &bindings, request).await
}

async fn work(store: &mut Store<Run>, bindings: &Bindings, request: Request) -> Answer {
    store.run_concurrent(async |accessor| bindings.waza_skill_task().call_run(accessor, request).await).await?
}

fn request(job: &Job, resume: Option<Vec<u8>>) -> Request {
    Request { instruction: job.request.instruction.clone(), parameters: job.request.parameters.clone(), resume }
}

pub(crate) fn context(
    site: &Arc<Site>,
    skill: &Arc<Skill>,
    job: &Arc<Job>,
) -> (Arc<Context>, mpsc::UnboundedReceiver<Task>) {
    let (tasks, inbox) = mpsc::unbounded();
    let conduct = Arc::new(Conduct::new(site.robot.tick(), site.robot.embodiment().control_hz));
    let (events, drawn) = (job.events.clone(), conduct.clone());
    let context = Context {
        site: site.clone(),
        skill: skill.clone(),
        job: job.clone(),
        incarnation: job.incarnations.fetch_add(1, Ordering::Relaxed),
        name: skill.manifest.id.as_str().into(),
        until_tick: job.until_tick,
        seed: job.request.seed,
        events: Arc::new(move |event| {
            if let Event::Intervention(it) = &event {
                drawn.spells().note(it.first_tick, it.ticks);
            }
            events(event);
        }),
        holds: job.holds.clone(),
        tasks,
        burst: Burst::default(),
        meter: job.meter.clone(),
        conduct,
        safe_point: SafePoint::default(),
        untold: Untold::default(),
    };
    (Arc::new(context), inbox)
}
