//! `durable`: safe points.

use wasmtime::component::{Accessor, HasSelf};

use super::{Context, Fault, Run};
use crate::bindings::{Refusal, durable};
use crate::event::Event;
use crate::permission::Permission;
use crate::scribe::Written;

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
        let _call = context.meter.call()?;
        context.carry(state.len())?;
        let bytes = state.len();
        let mut written = context.job.write(&context.skill, &state).map_err(not_kept)?;
        if !context.job.offers.is_there() {
            reach_the_disk(&context, written.take()).await?;
        }
        context.job.keep(state.clone());
        context.site.checkpoints.keep(&context.skill.manifest.id, state);
        (context.events)(Event::Checkpoint { bytes });
        context.conduct.take_over();
        context.site.leases.safe_point(context.job.id);
        if context.job.offers.is_there() {
            // The host decides whether it is this version that goes on.
            context.safe_point.wait().await;
        }
        // Another version need not wait for the disk to begin: the one before is still there if this one gets lost.
        Ok(reach_the_disk(&context, written).await?)
    }
}

/// Waits until a checkpoint has been written; under lockstep robot time stands still meanwhile.
async fn reach_the_disk(context: &Context, written: Option<Written>) -> Result<(), Refusal> {
    let Some(written) = written else { return Ok(()) };
    let hold = context.site.robot.hold_time();
    let written = written.await;
    context.holds.keep(hold);
    // What was taken away before it was written is of a run that is over.
    written.unwrap_or(Ok(())).map_err(not_kept)
}

fn not_kept(error: std::io::Error) -> Refusal {
    Refusal::Failed(format!("the checkpoint could not be kept ({error}); the one before still is"))
}
