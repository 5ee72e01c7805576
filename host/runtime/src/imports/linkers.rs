//! What skills are linked with. Those that declare the same interfaces share one linker, and with it the host's side of
//! every function: a thousand skills do not have it a thousand times.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use wasmtime::Engine;
use wasmtime::component::{Component, Linker};
use waza_package::Interfaces;

use crate::contract::skill::SkillPre;
use crate::imports::{self, Run};

/// Whether what a run calls is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Calls {
    Plain,
    Recorded,
}

type Made = BTreeMap<(Interfaces, Calls), Arc<Linker<Run>>>;

/// No more than there are sets of interfaces, made when they are first needed.
pub(crate) struct Linkers {
    engine: Engine,
    made: Mutex<Made>,
}

impl Linkers {
    pub fn new(engine: &Engine) -> Self {
        Self { engine: engine.clone(), made: Mutex::default() }
    }

    /// A component with these interfaces of the contract and the little of WASI, and with nothing else.
    pub fn link(&self, component: &Component, interfaces: Interfaces, calls: Calls) -> wasmtime::Result<SkillPre<Run>> {
        self.linker(interfaces, calls)?.instantiate_pre(component).and_then(SkillPre::new)
    }

    fn linker(&self, interfaces: Interfaces, calls: Calls) -> wasmtime::Result<Arc<Linker<Run>>> {
        // A linker is kept when it is whole, so a panic cannot leave half a one.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (interfaces, calls);
        if let Some(linker) = made.get(&key) {
            return Ok(linker.clone());
        }
        let mut linker = Linker::new(&self.engine);
        match calls {
            Calls::Plain => imports::link(&mut linker, &key.0)?,
            Calls::Recorded => imports::link_recorded(&mut linker, &key.0)?,
        }
        let linker = Arc::new(linker);
        made.insert(key, linker.clone());
        Ok(linker)
    }
}
