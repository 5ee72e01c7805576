//! A controller: a component that whoever runs a control loop calls once a tick.

use std::path::Path;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use wasmtime::component::{Component, Linker};
use wasmtime::{Store, UpdateDeadline};
use waza_package::{Engines, Flaw, SkillId};
use waza_robot::Embodiment;

use crate::contract::Refusal;
use crate::contract::controller::{Controller as Bindings, exports::waza::skill::control};
use crate::error::{RuntimeError, SkillError};
use crate::limits::memory::HostMemory;
use crate::limits::{Budget, Budgets, CpuClock, Exhausted, Growth};

/// What a controller is told at a tick.
pub use control::Input;

/// The share of a control period that one call may take, of processor time: a machine that is busy with other things
/// makes a controller late, which the control loop copes with, and is no fault of it.
const SHARE: u32 = 2;

/// Linear memory that a controller may use, bytes.
const MEMORY_BYTES: usize = 32 << 20;

/// What one of its answers may be, bytes: its state, as a checkpoint's.
const ANSWER_BYTES: usize = 1 << 20;

/// A controller in a store of its own. Synchronous: it cannot wait, and what its toolchain links of WASI beyond random
/// numbers ends it when it is called.
pub struct Controller {
    id: SkillId,
    store: Store<State>,
    bindings: Bindings,
    joints: usize,
    budgets: Budgets,
    clock: CpuClock,
    dead: bool,
    /// Without epochs nothing would end a call that takes too long.
    _engines: Engines,
}

struct State {
    growth: Growth,
    random: ChaCha8Rng,
}

impl Controller {
    pub(crate) fn new(
        engines: &Engines,
        component: &Component,
        id: SkillId,
        robot: &Embodiment,
        path: &Path,
        memory: &HostMemory,
    ) -> Result<Self, RuntimeError> {
        let misfit = |error: wasmtime::Error| RuntimeError::from(Flaw::misfit(&error).of(path));
        let mut linker = Linker::new(&engines.controller);
        crate::controllers::random::link_random(&mut linker, |state: &mut State| &mut state.random).map_err(misfit)?;
        linker.define_unknown_imports_as_traps(component).map_err(misfit)?;
        let limit = Duration::from_secs_f32(1.0 / robot.control_hz) / SHARE;
        // Each call has a limit of its own; all together have none.
        let (cpu_burst, cpu_time) = (limit, Duration::MAX);
        let budgets =
            Budgets { memory_bytes: MEMORY_BYTES, call_bytes: ANSWER_BYTES, cpu_burst, cpu_time, ..Budgets::default() };
        let growth = Growth::new(&budgets, memory);
        let mut store = Store::new(&engines.controller, State { growth, random: ChaCha8Rng::seed_from_u64(0) });
        store.limiter(|state| &mut state.growth);
        store.set_hostcall_fuel(budgets.call_bytes);
        let clock = CpuClock::default();
        let counted = clock.clone();
        let kept = budgets.clone();
        store.epoch_deadline_callback(move |_| match counted.check(&kept) {
            Ok(()) => Ok(UpdateDeadline::Continue(1)),
            Err(_) => Err(wasmtime::Error::new(Exhausted::time(Budget::Tick, limit))),
        });
        arm(&mut store, &clock);
        let bindings = Bindings::instantiate(&mut store, component, &linker).map_err(misfit)?;
        Ok(Self {
            id,
            store,
            bindings,
            joints: robot.joints.len(),
            budgets,
            clock,
            dead: false,
            _engines: engines.clone(),
        })
    }

    /// Prepares for the first tick. `state`: what [`Controller::state`] returned of the instance before.
    ///
    /// # Errors
    /// [`SkillError`] if the controller refuses, traps or takes too long.
    pub fn start(&mut self, parameters: &str, state: Option<&[u8]>) -> Result<(), SkillError> {
        let started = self.call(|control, store| control.call_start(store, parameters, state))?;
        started.map_err(|why| self.refuses(Refusal::Failed(why)))
    }

    /// The joint positions to command, rad: one finite value a joint.
    ///
    /// # Errors
    /// [`SkillError`] if the controller traps, takes more processor time than half a control period, or answers anything
    /// else. Whoever drives it falls back then.
    pub fn tick(&mut self, input: &Input) -> Result<Vec<f32>, SkillError> {
        let positions = self.call(|control, store| control.call_tick(store, input))?;
        if positions.len() != self.joints {
            let what = format!("it commanded {} positions for {} joints", positions.len(), self.joints);
            return Err(self.refuses(Refusal::Invalid(what)));
        }
        if let Some(position) = positions.iter().find(|it| !it.is_finite()) {
            return Err(self.refuses(Refusal::Invalid(format!("it commanded the position {position}"))));
        }
        Ok(positions)
    }

    /// What the next instance of this or a newer version needs to go on.
    ///
    /// # Errors
    /// [`SkillError`] if the controller traps or takes too long.
    pub fn state(&mut self) -> Result<Vec<u8>, SkillError> {
        self.call(|control, store| control.call_state(store))
    }

    fn call<T>(
        &mut self,
        call: impl FnOnce(&control::Guest, &mut Store<State>) -> wasmtime::Result<T>,
    ) -> Result<T, SkillError> {
        if self.dead {
            return Err(SkillError::Trapped { skill: self.id.clone(), what: "it crashed in an earlier call".into() });
        }
        arm(&mut self.store, &self.clock);
        call(self.bindings.waza_skill_control(), &mut self.store).map_err(|error| {
            self.dead = true;
            SkillError::explained(self.id.clone(), &error, None, &self.budgets)
        })
    }

    fn refuses(&self, refusal: Refusal) -> SkillError {
        SkillError::Returned { skill: self.id.clone(), refusal }
    }
}

/// Gives the next call its time.
fn arm(store: &mut Store<State>, clock: &CpuClock) {
    clock.begin();
    store.set_epoch_deadline(1);
}
