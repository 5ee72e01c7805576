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
        context.job.keep(&context.skill, state.clone()).map_err(|error| {
            Refusal::Failed(format!("the checkpoint could not be kept ({error}); the one before still is"))
        })?;
        context.site.checkpoints.keep(&context.skill.manifest.id, state);
        (context.events)(Event::Checkpoint { bytes });
        context.conduct.take_over();
        context.site.leases.safe_point(context.job.id);
        if context.job.offers.is_there() {
            // The host decides whether it is this version that goes on.
            context.safe_point.wait().await;
        }
        Ok(())
    }
}
