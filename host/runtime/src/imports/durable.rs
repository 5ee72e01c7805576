//! `durable`: safe points.

use std::io;
use std::pin::pin;

use futures_channel::oneshot::Canceled;
use futures_util::future::{Either, select};
use wasmtime::component::{Accessor, HasSelf};
use waza_package::Permission;

use super::{Call, Run};
use crate::contract::{Fault, Refusal, durable};
use crate::run::events::Event;

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
        if let Some(disk) = &mut written {
            let offer = pin!(context.job.newer.wait());
            // Another version need not wait for the disk to begin: the checkpoint before is still there if this one gets lost.
            if let Either::Left((done, _)) = standing_still(&context, select(disk, offer)).await {
                written = None;
                kept(done)?;
            }
        }
        context.job.keep(state.clone());
        context.checkpoints().keep(&context.skill.manifest.id, state);
        (context.events)(Event::Checkpoint { bytes });
        context.activity.take_over();
        context.leases().safe_point(context.job.id);
        if context.job.newer.is_set() {
            // The host decides whether it is this version that goes on.
            context.safe_point.wait().await;
        }
        if let Some(disk) = written {
            kept(standing_still(&context, disk).await)?;
        }
        Ok(())
    }
}

/// Waits for what takes no robot time: under lockstep that stands still meanwhile.
async fn standing_still<T>(context: &Call, wait: impl Future<Output = T>) -> T {
    let hold = context.robot().hold_time();
    let waited = wait.await;
    context.holds.keep(hold);
    waited
}

fn kept(written: Result<io::Result<()>, Canceled>) -> Result<(), Refusal> {
    // Only the file of a run that is over is taken away before it is written.
    written.unwrap_or_else(|Canceled| Err(io::Error::other("the run is over"))).map_err(not_kept)
}

fn not_kept(error: io::Error) -> Refusal {
    Refusal::Failed(format!("the checkpoint could not be kept ({error}); the one before still is"))
}
