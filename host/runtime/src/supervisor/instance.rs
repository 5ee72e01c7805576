//! One version of a skill at work on a run: its store, what it does there, and what the host does for it meanwhile.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};

use futures_channel::mpsc;
use wasmtime::component::ResourceTable;
use wasmtime::{Store, UpdateDeadline};
use waza_package::Engines;
use waza_robot::Pace;

use crate::contract::skill::exports::waza::skill::task::Request;
use crate::contract::skill::{Skill as Bindings, SkillPre};
use crate::contract::{Refusal, types};
use crate::error::{Interrupted, SkillError};
use crate::imports::sandbox::Sandbox;
use crate::imports::wasi::{Log, Wasi};
use crate::imports::{Call, Run};
use crate::limits::{Growth, KINDS_OF_HANDLES};
use crate::package::Package;
use crate::record::Tape;
use crate::run::Job;
use crate::run::services::Services;
use crate::run::thread::{Signal, Task};
use crate::supervisor::skills::Loaded;

/// What a skill's `run` came to: its own answer, or the trap that ended it.
pub(super) type Answer = wasmtime::Result<Result<types::Outcome, Refusal>>;

/// One version of a skill in one run.
pub(crate) struct Instance {
    pub call: Arc<Call>,
    pub version: Arc<Loaded>,
    log: Log,
    stage: Stage,
    inbox: mpsc::UnboundedReceiver<Task>,
    tasks: Vec<Task>,
}

enum Stage {
    /// It was made, and has not been asked to do anything.
    Made {
        store: Box<Store<Sandbox>>,
        bindings: Bindings,
    },
    Works(Pin<Box<dyn Future<Output = (Answer, Store<Sandbox>)> + Send>>),
    /// What goes with it goes after everybody knows that it has ended.
    Ended {
        _store: Option<Box<Store<Sandbox>>>,
    },
}

impl Instance {
    /// Makes an instance on this thread, while another works on the run.
    pub(super) fn ahead(services: &Arc<Services>, version: &Arc<Loaded>, job: &Arc<Job>) -> Result<Self, SkillError> {
        let (call, inbox) = Call::new(services, &version.package, job);
        let mut store = store(&services.engines, call.clone(), job.signal.clone(), None);
        let log = store.data_mut().wasi().log();
        call.cpu.start();
        let made = pollster::block_on(version.pre.instantiate_async(&mut store));
        let budgets = &services.options.budgets;
        let bindings =
            made.map_err(|error| SkillError::explained(version.package.id().clone(), &error, log.last(), budgets))?;
        let stage = Stage::Made { store: Box::new(store), bindings };
        Ok(Self { call, version: version.clone(), log, stage, inbox, tasks: Vec::new() })
    }

    /// An instance that is made when it is first polled, on the run's own thread.
    pub(super) fn new(
        services: &Arc<Services>,
        version: &Arc<Loaded>,
        job: &Arc<Job>,
        resume: Option<Vec<u8>>,
    ) -> Self {
        let (call, inbox) = Call::new(services, &version.package, job);
        let mut store = store(&services.engines, call.clone(), job.signal.clone(), job.tape.clone());
        let request = request(job, resume);
        let log = store.data_mut().wasi().log();
        let component = version.pre.clone();
        call.cpu.start();
        let work = async move { (instantiate_and_work(component, &mut store, request).await, store) };
        let stage = Stage::Works(Box::pin(work));
        Self { call, version: version.clone(), log, stage, inbox, tasks: Vec::new() }
    }

    /// Lets an instance that was made ahead begin from a checkpoint. On the run's own thread, whose time counts from here.
    pub(super) fn begin(&mut self, resume: Vec<u8>) {
        self.call.activity.begin(self.call.robot().tick());
        self.call.cpu.start();
        let request = request(&self.call.job, Some(resume));
        self.stage = match std::mem::replace(&mut self.stage, Stage::Ended { _store: None }) {
            Stage::Made { mut store, bindings } => Stage::Works(Box::pin(async move {
                let answer = work(&mut store, &bindings, request).await;
                (answer, *store)
            })),
            // One that works goes on.
            stage => stage,
        };
    }

    /// Lets the host work for the skill: in the order in which the tasks were sent, so that a run repeats.
    pub(super) fn poll_tasks(&mut self, context: &mut task::Context<'_>) {
        self.tasks.retain_mut(|task| task.as_mut().poll(context).is_pending());
    }

    /// Lets the skill think.
    pub(super) fn poll(&mut self, context: &mut task::Context<'_>) -> Poll<Answer> {
        let Stage::Works(work) = &mut self.stage else { return Poll::Pending };
        work.as_mut().poll(context).map(|(answer, store)| {
            self.stage = Stage::Ended { _store: Some(Box::new(store)) };
            answer
        })
    }

    /// Takes up the tasks that were sent since. Says whether there were any.
    pub(super) fn take_tasks(&mut self) -> bool {
        let before = self.tasks.len();
        self.tasks.extend(std::iter::from_fn(|| self.inbox.try_recv().ok()));
        self.tasks.len() > before
    }

    pub(super) fn package(&self) -> &Arc<Package> {
        &self.version.package
    }

    /// What its answer means.
    pub(super) fn ended(&self, answer: Answer) -> Result<types::Outcome, SkillError> {
        let skill = self.package().id().clone();
        match answer {
            Ok(answer) => answer.map_err(|refusal| SkillError::Returned { skill, refusal }),
            Err(error) => Err(SkillError::explained(skill, &error, self.log.last(), self.call.budgets())),
        }
    }
}

async fn instantiate_and_work(component: SkillPre<Sandbox>, store: &mut Store<Sandbox>, request: Request) -> Answer {
    let bindings = component.instantiate_async(&mut *store).await?;
    work(store, &bindings, request).await
}

async fn work(store: &mut Store<Sandbox>, bindings: &Bindings, request: Request) -> Answer {
    store.run_concurrent(async |accessor| bindings.waza_skill_task().call_run(accessor, request).await).await?
}

fn request(job: &Job, resume: Option<Vec<u8>>) -> Request {
    Request { instruction: job.request.instruction.clone(), parameters: job.request.parameters.clone(), resume }
}

/// A store for one instance, with its budgets in force.
pub(crate) fn store(
    engines: &Engines,
    call: Arc<Call>,
    signal: Arc<Signal>,
    tape: Option<Arc<Tape>>,
) -> Store<Sandbox> {
    let budgets = call.budgets();
    let counted = call.clone();
    let yields = call.robot().pace() == Pace::RealTime;
    let mut table = ResourceTable::new();
    table.set_max_capacity(budgets.handles);
    let wasi = Wasi::of(&call, tape.clone());
    let run = Run { growth: Growth::new(budgets, call.memory()), wasi, table, context: call.clone(), tape };
    let mut store = Store::new(&engines.skill, Sandbox::Run(run));
    store.limiter(|sandbox| sandbox.growth());
    store.set_hostcall_fuel(budgets.call_bytes);
    store.set_max_component_handles(budgets.handles.saturating_mul(KINDS_OF_HANDLES));
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |_| {
        if signal.is_stopped() {
            return Err(wasmtime::Error::new(Interrupted));
        }
        counted.cpu.check(counted.budgets()).map_err(wasmtime::Error::new)?;
        // In real time the host's own work for this run, a rollout say, must not wait for the skill's thinking. Under
        // lockstep nothing can become due meanwhile, and turns must not depend on how long they take.
        Ok(if yields { UpdateDeadline::Yield(1) } else { UpdateDeadline::Continue(1) })
    });
    store
}
