//! `durable`: safe points.

use wasmtime::component::{Accessor, HasSelf};

use super::{Fault, Run};
use crate::bindings::{Refusal, durable};
use crate::event::Event;
use crate::permission::Permission;

const MOST_BYTES: usize = 1 << 20;

impl durable::Host for Run {}

impl<T: Send + 'static> durable::HostWithStore<T> for HasSelf<Run> {
    async fn checkpoint(accessor: &Accessor<T, Self>, state: Vec<u8>) -> Result<(), Fault> {
        let context = accessor.with(|mut access| access.get().context.clone());
        context.check(Permission::Durable)?;
        if state.len() > MOST_BYTES {
            let what = format!("the state has {} bytes, a checkpoint takes at most {MOST_BYTES}", state.len());
            return Err(Refusal::Invalid(what).into());
        }
        context.carry(state.len())?;
        let bytes = state.len();
        context.site.checkpoints.keep(&context.skill.manifest.id, state);
        (context.events)(Event::Checkpoint { bytes });
        Ok(())
    }
}
