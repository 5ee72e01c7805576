//! Running a skill against the record of a run, without robot, model or clock.
//!
//! Every call is compared with the next recorded one, its name and its arguments bit for bit, and answered as it was then.
//! What the skill waits for comes in the recorded order, as fast as the machine can. Budgets of CPU time, memory and
//! handles hold as in a run. What the skill writes to its log moves nothing and is not compared.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use wasmtime::component::Linker;
use wasmtime::{Store, UpdateDeadline};
use waza_package::{Compiler, Engines, Flaw, Interfaces, Patience, SkillId, Source, World};
use waza_state::{Cache, TaskRequest};

pub use crate::record::Difference;

use crate::contract::skill::SkillPre;
use crate::contract::skill::exports::waza::skill::task::Request;
use crate::error::{RuntimeError, SkillError};
use crate::imports;
use crate::imports::replayed::Replayed;
use crate::imports::sandbox::Sandbox;
use crate::limits::{Budgets, CpuClock, KINDS_OF_HANDLES};
use crate::package::Workshop;
use crate::record::cursor::{Cursor, Halted};
use crate::record::value::RecordedFatal;
use crate::record::{Ending, Entry};

/// What is replayed.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Whose run it was.
    pub skill: SkillId,
    /// What it was asked to do, and its seed.
    pub request: TaskRequest,
    /// Everything that it met, with the instants of robot time, ns.
    pub entries: Vec<(u64, Entry)>,
}

/// What a replay came to. What a skill does otherwise than recorded is no error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Everything that was recorded was the same.
    Same {
        /// How many.
        calls: u64,
        /// How the recorded run ended; none if its record is cut short.
        ended: Option<Ending>,
    },
    /// The first difference.
    Differs(Difference),
    /// The record ends before the first call and does not say what the run came to, so that any skill does as recorded.
    NothingCompared,
}

/// A component, compiled to be run against records.
pub struct Replay {
    engines: Engines,
    component: SkillPre<Sandbox>,
    budgets: Budgets,
}

impl Replay {
    /// Compiles a component, which runs within these budgets, and keeps its code in a folder, or nowhere.
    ///
    /// # Errors
    /// [`RuntimeError`] if it is no component, or imports what no skill gets.
    pub fn new(
        component: &Source,
        budgets: Budgets,
        compiler: Compiler,
        cache: Option<&Path>,
    ) -> Result<Self, RuntimeError> {
        let engines = Engines::new(budgets.memory())?;
        let cache = cache.map_or_else(Cache::temporary, Cache::shared)?;
        let misfit = |error: wasmtime::Error| Flaw::misfit(&error).of(&component.path);
        let workshop = Workshop { engines: engines.clone(), compiler, cache };
        let (world, code) = workshop.code(component, Patience::Long)?;
        if world == World::Controller {
            let what = "it is of the world `controller`, and records are of skills".into();
            return Err(Flaw::Misfit(what).of(&component.path).into());
        }
        let mut linker = Linker::new(&engines.skill);
        // Everything: whatever is called gives no power, and must have been recorded.
        imports::link(&mut linker, &Interfaces::all()).map_err(misfit)?;
        let component = linker.instantiate_pre(code.component()).and_then(SkillPre::new).map_err(misfit)?;
        Ok(Self { engines, component, budgets })
    }

    /// Runs it against a record.
    pub fn run(&self, recorded: Recorded) -> Verdict {
        let Recorded { skill, request, entries } = recorded;
        let burst = CpuClock::default();
        let cursor = Cursor::new(entries, burst.clone());
        let replayed = Replayed::new(cursor.clone(), request.seed, &self.budgets);
        let mut store = Store::new(&self.engines.skill, Sandbox::Replay(replayed));
        store.limiter(|sandbox| sandbox.growth());
        store.set_epoch_deadline(1);
        store.set_hostcall_fuel(self.budgets.call_bytes);
        store.set_max_component_handles(self.budgets.handles.saturating_mul(KINDS_OF_HANDLES));
        store.epoch_deadline_callback({
            let (burst, budgets) = (burst.clone(), self.budgets.clone());
            move |_| burst.check(&budgets).map(|()| UpdateDeadline::Continue(1)).map_err(wasmtime::Error::new)
        });
        let log = store.data_mut().wasi().log();
        let TaskRequest { instruction, parameters, resume, .. } = request;
        let request = Request { instruction, parameters, resume };
        burst.begin();
        let ran = drive(&cursor, async {
            let bindings = self.component.instantiate_async(&mut store).await?;
            store.run_concurrent(async |accessor| bindings.waza_skill_task().call_run(accessor, request).await).await?
        });
        let ending = match ran {
            None => None,
            Some(Ok(Ok(outcome))) => Some(Ending::of(&Ok(outcome.into()))),
            Some(Ok(Err(refusal))) => Some(Ending::of(&Err(SkillError::Returned { skill, refusal }))),
            Some(Err(error)) if error.is::<RecordedFatal>() => None,
            Some(Err(error)) => Some(Ending::of(&Err(SkillError::explained(skill, &error, log.last(), &self.budgets)))),
        };
        let (calls, halted, ended) = cursor.end(ending.as_ref());
        match halted {
            Halted::RecordEnds if calls == 0 && matches!(ended, None | Some(Ending::Stopped(_))) => {
                Verdict::NothingCompared
            }
            Halted::RecordEnds => Verdict::Same { calls, ended },
            Halted::Differs(difference) => Verdict::Differs(difference),
        }
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// Polls a skill until it is done, or until nothing can wake it any more. None: it was not done.
fn drive<T>(cursor: &Cursor, skill: impl Future<Output = T>) -> Option<T> {
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut context = Context::from_waker(&waker);
    let mut skill = pin!(skill);
    loop {
        if let Poll::Ready(done) = skill.as_mut().poll(&mut context) {
            return Some(done);
        }
        if cursor.is_halted() {
            return None;
        }
        if !woken.0.swap(false, Ordering::AcqRel) {
            cursor.stuck();
            return None;
        }
    }
}
