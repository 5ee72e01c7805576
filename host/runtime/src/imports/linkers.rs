//! What skills are linked with. Those that declare the same interfaces share one linker, and with it the host's side of
//! every function: a thousand skills do not have it a thousand times.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use wasmtime::Engine;
use wasmtime::component::{Component, Linker};
use waza_package::Interfaces;

use crate::contract::skill::SkillPre;
use crate::imports;
use crate::imports::sandbox::Sandbox;

type Made = BTreeMap<Interfaces, Arc<Linker<Sandbox>>>;

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
    pub fn link(&self, component: &Component, interfaces: Interfaces) -> wasmtime::Result<SkillPre<Sandbox>> {
        self.linker(interfaces)?.instantiate_pre(component).and_then(SkillPre::new)
    }

    fn linker(&self, interfaces: Interfaces) -> wasmtime::Result<Arc<Linker<Sandbox>>> {
        let mut made = self.made.lock();
        if let Some(linker) = made.get(&interfaces) {
            return Ok(linker.clone());
        }
        let mut linker = Linker::new(&self.engine);
        imports::link(&mut linker, &interfaces)?;
        let linker = Arc::new(linker);
        made.insert(interfaces, linker.clone());
        Ok(linker)
    }
}
