//! One run of a skill, from its thread's first step to the joints' hold.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures_channel::{mpsc, oneshot};
use wasmtime::component::ResourceTable;
use wasmtime::{Store, Trap, UpdateDeadline};
use waza_robot::{Pace, Reply};

use crate::actor::{Actor, Ended, Holds, Signal};
use crate::bindings::skill::exports::waza::skill::task::Request;
use crate::budget::{Budget, Budgets, Burst, Growth, mebibytes};
use crate::calls::{Context, Run};
use crate::error::{Exhausted, SkillError};
use crate::host::{Outcome, Site, Skill, Start};
use crate::journal::Tape;
use crate::manifest::SkillId;
use crate::meter::Meter;
use crate::permission::NotGranted;
use crate::wasi::Wasi;

/// The epoch callback saw that the run is to end.
#[derive(Debug, thiserror::Error)]
#[error("stopped")]
struct Interrupted;

/// Handles of all kinds that a run may hold, for one of the host's.
pub(crate) const KINDS_OF_HANDLES: usize = 4;

/// Starts a run on a thread of its own.
pub(crate) fn start(
    site: Arc<Site>,
    skill: Arc<Skill>,
    start: Start,
    signal: Arc<Signal>,
    answer: oneshot::Sender<Reply<Result<Outcome, SkillError>>>,
) {
    let holds = Holds::default();
    // From before this returns: whoever waits for the run lets time go on only when the run itself waits.
    holds.keep(site.robot.hold_time());
    let id = skill.manifest.id.clone();
    let robot = site.robot.clone();
    let work = move || {
        let robot = site.robot.clone();
        // Everything of the run is gone when this returns: its leases are given up and their joints told to hold.
        let ended = drive(site.clone(), skill.clone(), start, signal, holds.clone());
        if let Err(error) = &ended {
            site.quarantine.judge(&skill, error);
        }
        // Nobody may wait for it any more.
        let _ = answer.send(Reply { value: ended, hold: robot.hold_time() });
        holds.release();
    };
    let spawned = std::thread::Builder::new().name(format!("waza-run-{id}")).spawn(work);
    if let Err(error) = spawned {
        // The answer went with the closure; whoever waits is told that the run is gone.
        tracing::error!(skill = %id, "the system gave no thread: {error}");
        drop(robot);
    }
}

fn drive(
    site: Arc<Site>,
    skill: Arc<Skill>,
    start: Start,
    signal: Arc<Signal>,
    holds: Holds,
) -> Result<Outcome, SkillError> {
    let Start { request, events, depth, family, journal } = start;
    let tape = journal.map(|journal| Tape::new(journal, site.robot.clone()));
    let (sender, tasks) = mpsc::unbounded();
    let burst = Burst::default();
    let begun = site.robot.tick();
    let limit = site.options.budgets.run_time;
    let control_hz = site.robot.embodiment().control_hz;
    let context = Arc::new(Context {
        site: site.clone(),
        skill: skill.clone(),
        name: skill.manifest.id.as_str().into(),
        until_tick: begun.saturating_add((limit.as_secs_f64() * f64::from(control_hz)) as u64),
        seed: request.seed,
        requests: AtomicU64::new(0),
        depth,
        events,
        holds: holds.clone(),
        tasks: sender,
        burst: burst.clone(),
        meter: Meter::new(&site.options.budgets, family, site.robot.tick_ns(begun)),
    });
    let request = Request { instruction: request.instruction, parameters: request.parameters, resume: request.resume };
    let component = if tape.is_some() { &skill.recorded } else { &skill.component };
    let mut store = store(context, signal.clone(), tape.clone());
    let log = store.data().wasi.log();

    let left = || {
        let ticks = site.robot.tick().saturating_sub(begun);
        limit.saturating_sub(Duration::from_secs_f64(ticks as f64 / f64::from(control_hz)))
    };
    let settle = || site.robot.settle();
    let actor = Actor { signal, holds, tasks };
    let driven = actor.drive(
        async {
            let bindings = component.instantiate_async(&mut store).await?;
            store.run_concurrent(async |accessor| bindings.waza_skill_task().call_run(accessor, request).await).await?
        },
        || {
            settle();
            burst.begin();
        },
        left,
    );
    let skill = skill.manifest.id.clone();
    let ended = match driven {
        Ok(Ok(Ok(outcome))) => Ok(outcome.into()),
        Ok(Ok(Err(refusal))) => Err(SkillError::Returned { skill, refusal }),
        Ok(Err(error)) => Err(explain(skill, &error, log.last(), &site.options.budgets)),
        Err(Ended::Stopped) => Err(SkillError::Stopped { skill }),
        Err(Ended::OutOfTime) => Err(SkillError::Exhausted { skill, budget: Exhausted::time(Budget::RunTime, limit) }),
    };
    if let Some(tape) = tape {
        tape.ended(&ended);
    }
    ended
}

/// A store for one run, with its budgets in force.
pub(crate) fn store(context: Arc<Context>, signal: Arc<Signal>, tape: Option<Arc<Tape>>) -> Store<Run> {
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
