//! The host's side of the contract: one file an interface.
//!
//! Every method checks the grant itself, whatever was linked.

mod actions;
mod clock;
mod durable;
pub(crate) mod inference;
pub(crate) mod linkers;
mod model;
pub(crate) mod motion;
mod operator;
pub(crate) mod pilot;
pub(crate) mod replayed;
pub(crate) mod rollout;
pub(crate) mod sandbox;
mod sensing;
pub(crate) mod sensor_window;
mod skills;
pub(crate) mod stream;
pub(crate) mod wasi;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_channel::mpsc;
use wasmtime::component::{Linker, Resource, ResourceTable, ResourceTableError, ResourceType};
use waza_package::{Interfaces, NotGranted, Permission, manifest::WIT};
use waza_robot::Robot;

use crate::contract::{self, Fault, Held, Observed, Refusal};
use crate::imports::pilot::Unreported;
use crate::imports::sandbox::{Calls, Linked, Sandbox};
use crate::leases::{Holder, Leases, Waiting};
use crate::limits::memory::HostMemory;
use crate::limits::rate::{Meter, Slot};
use crate::limits::{Budget, Budgets, CpuClock, Exhausted, Growth};
use crate::model::Model;
use crate::package::Package;
use crate::record::Tape;
use crate::run::Job;
use crate::run::activity::Activity;
use crate::run::events::Event;
use crate::run::options::Operator;
use crate::run::safe_point::SafePoint;
use crate::run::services::{Checkpoints, Services};
use crate::run::thread::{Holds, Task};

/// What one call of a skill may use, and what outlives the call.
pub(crate) struct Call {
    services: Arc<Services>,
    pub skill: Arc<Package>,
    /// The run that the skill works on.
    pub job: Arc<Job>,
    /// Counts the instances that have worked on it.
    pub instance: u32,
    /// The skill's id, as the model's broker counts it.
    pub name: Arc<str>,
    /// When the run's time is up.
    pub until_tick: u64,
    /// Of this run.
    pub seed: u64,
    pub events: Arc<dyn Fn(Event) + Send + Sync>,
    pub holds: Holds,
    pub tasks: mpsc::UnboundedSender<Task>,
    pub cpu: CpuClock,
    pub activity: Arc<Activity>,
    pub safe_point: SafePoint,
    pub meter: Arc<Meter>,
    /// What its controllers did since its last motion ended.
    pub unreported: Unreported,
}

/// A run, as its store has it.
pub(crate) struct Run {
    pub context: Arc<Call>,
    pub table: ResourceTable,
    pub growth: Growth,
    pub wasi: wasi::Wasi,
    /// Of a run that is recorded.
    pub tape: Option<Arc<Tape>>,
}

impl Call {
    /// What the calls of a new instance work with, and where the host's work for it arrives.
    pub fn new(
        services: &Arc<Services>,
        package: &Arc<Package>,
        job: &Arc<Job>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Task>) {
        let (tasks, inbox) = mpsc::unbounded();
        let activity = Arc::new(Activity::new(services.robot.tick(), services.robot.embodiment().control_hz));
        let (events, drawn) = (job.events.clone(), activity.clone());
        let call = Self {
            services: services.clone(),
            skill: package.clone(),
            job: job.clone(),
            instance: job.instances.fetch_add(1, Ordering::Relaxed),
            name: package.id().as_str().into(),
            until_tick: job.until_tick,
            seed: job.request.seed,
            events: Arc::new(move |event| {
                if let Event::Intervention(it) = &event {
                    drawn.intervened(it.first_tick, it.ticks);
                }
                events(event);
            }),
            holds: job.holds.clone(),
            tasks,
            cpu: CpuClock::default(),
            meter: job.meter.clone(),
            activity,
            safe_point: SafePoint::default(),
            unreported: Unreported::default(),
        };
        (Arc::new(call), inbox)
    }

    pub fn robot(&self) -> &Robot {
        &self.services.robot
    }

    /// Of all runs together.
    pub fn memory(&self) -> &HostMemory {
        &self.services.memory
    }

    pub fn model(&self) -> &Arc<dyn Model> {
        &self.services.model
    }

    pub fn leases(&self) -> &Leases {
        &self.services.leases
    }

    pub fn checkpoints(&self) -> &Checkpoints {
        &self.services.checkpoints
    }

    pub fn budgets(&self) -> &Budgets {
        &self.services.options.budgets
    }

    /// Who answers the skill's questions.
    pub fn operator(&self) -> Operator {
        self.services.options.operator
    }

    /// Lets the host work on something beside the skill. It counts as one of the skill's calls until it has ended, so there
    /// are never more than so many.
    pub fn spawn(&self, call: Slot, task: impl Future<Output = ()> + Send + 'static) {
        let task = async move {
            task.await;
            drop(call);
        };
        // The receiver lives as long as the run; without a run there is nothing left to do.
        let _ = self.tasks.unbounded_send(Box::pin(task));
    }

    pub fn check(&self, permission: Permission) -> Result<(), Fault> {
        self.called();
        Ok(self.skill.grants.check(&permission).map_err(refused)?)
    }

    /// For calls whose answer has no room for a refusal.
    pub fn demand(&self, permission: Permission) -> wasmtime::Result<()> {
        self.called();
        self.skill.grants.check(&permission).map_err(wasmtime::Error::new)
    }

    /// So many bytes cross the boundary in a call.
    pub fn carry(&self, bytes: usize) -> Result<(), Exhausted> {
        self.meter.carry(bytes, self.now_ns())
    }

    /// The model is asked once more.
    pub fn spend_request(&self) -> Result<(), Exhausted> {
        self.meter.request(self.now_ns())
    }

    /// Robot time.
    pub fn now_ns(&self) -> u64 {
        let robot = &self.services.robot;
        robot.tick_ns(robot.tick())
    }

    /// The number of the next request to the model.
    pub fn next_request(&self) -> u64 {
        self.job.requests.fetch_add(1, Ordering::Relaxed)
    }

    /// The skill calls the host: it is alive, and so are its leases.
    pub fn called(&self) {
        self.activity.called();
        self.job.heartbeat.beat(self.services.robot.tick());
    }

    /// The skill waits for somebody else. Its leases live as long as this does.
    pub fn waiting(&self) -> Waiting {
        self.job.heartbeat.wait(&self.services.robot)
    }

    /// As leases know it.
    pub fn holder(&self) -> Holder {
        Holder {
            run: self.job.id,
            instance: self.instance,
            skill: self.skill.manifest.id.clone(),
            priority: self.job.request.priority,
            callers: self.job.callers.clone(),
            heartbeat: self.job.heartbeat.clone(),
        }
    }
}

fn refused(denied: NotGranted) -> Refusal {
    Refusal::Denied(denied.to_string())
}

impl Run {
    /// Hands something to the skill.
    pub fn push<T: Send + 'static>(&mut self, value: T) -> wasmtime::Result<Resource<T>> {
        push(&mut self.table, value)
    }
}

impl Run {
    /// Hands something to the skill that the host keeps as long as the skill holds it.
    pub fn push_held<T: Held + Send + 'static>(&mut self, value: T) -> wasmtime::Result<Resource<T>> {
        let bytes = value.bytes(self.context.robot().embodiment());
        self.growth.hold(bytes).map_err(wasmtime::Error::new)?;
        self.push(value)
    }

    /// Takes back what [`Run::push_held`] handed out.
    pub fn take_held<T: Held + Send + 'static>(&mut self, handle: Resource<T>) -> Result<T, ResourceTableError> {
        let value = self.table.delete(handle)?;
        self.growth.release(value.bytes(self.context.robot().embodiment()));
        Ok(value)
    }
}

/// Hands something to a skill, within its budget of handles.
pub(crate) fn push<T: Send + 'static>(table: &mut ResourceTable, value: T) -> wasmtime::Result<Resource<T>> {
    table.push(value).map_err(|error| match error {
        ResourceTableError::Full => {
            let limit = table.max_capacity().to_string();
            wasmtime::Error::new(Exhausted { budget: Budget::Handles, limit })
        }
        other => wasmtime::Error::new(other),
    })
}

/// Links these interfaces of the contract and the little of WASI, and nothing else.
pub(crate) fn link(linker: &mut Linker<Sandbox>, interfaces: &Interfaces) -> wasmtime::Result<()> {
    wasi::link(linker)?;
    contract::types::add_to_linker::<_, Linked>(linker, |sandbox| Calls(sandbox))?;
    contract::clock::add_to_linker::<_, Linked>(linker, |sandbox| Calls(sandbox))?;
    contract::actions::add_to_linker::<_, Linked>(linker, |sandbox| Calls(sandbox))?;
    if !interfaces.contains("sensing") {
        observation(linker)?;
    }
    macro_rules! asked {
        ($($interface:ident)*) => { $(
            if interfaces.contains(stringify!($interface)) {
                contract::$interface::add_to_linker::<_, Linked>(linker, |sandbox| Calls(sandbox))?;
            }
        )* };
    }
    asked!(sensing model motion operator durable skills);
    Ok(())
}

/// Links the type that other interfaces name. Without the functions it gives no power. A replay has them all.
fn observation(linker: &mut Linker<Sandbox>) -> wasmtime::Result<()> {
    let mut types = linker.instance(&format!("waza:skill/sensing@{WIT}"))?;
    types.resource("observation", ResourceType::host::<Observed>(), |mut store, rep| {
        store.data_mut().run().take_held(Resource::<Observed>::new_own(rep))?;
        Ok(())
    })
}
