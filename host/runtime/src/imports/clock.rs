//! `clock`: robot time.

use std::sync::Arc;

use wasmtime::component::{Accessor, HasSelf};

use super::{Call, Run};
use crate::contract::{Fault, Refusal, clock};

impl clock::Host for Run {
    fn now(&mut self) -> wasmtime::Result<u64> {
        let robot = self.context.robot();
        Ok(robot.tick_ns(robot.tick()))
    }
}

impl<T: Send + 'static> clock::HostWithStore<T> for HasSelf<Run> {
    async fn wait(accessor: &Accessor<T, Self>, until: u64) -> Result<(), Fault> {
        let context = accessor.with(|mut access| access.get().context.clone());
        context.called();
        let _call = context.meter.call()?;
        Ok(wait(&context, until).await?)
    }
}

/// The first tick that is not before an instant of robot time.
fn tick_of(context: &Call, instant_ns: u64) -> u64 {
    (instant_ns as f64 * f64::from(context.robot().embodiment().control_hz) / 1e9).ceil() as u64
}

/// Whether an instant of robot time has come.
pub(crate) fn has_come(context: &Call, instant_ns: u64) -> bool {
    context.robot().tick() >= tick_of(context, instant_ns)
}

/// Waits for an instant of robot time.
pub(crate) async fn wait(context: &Arc<Call>, until_ns: u64) -> Result<(), Refusal> {
    let robot = context.robot();
    let hz = robot.embodiment().control_hz;
    let until = tick_of(context, until_ns);
    loop {
        let now = robot.tick();
        if now >= until {
            return Ok(());
        }
        // A second at a time: the control loop keeps ticking for everything it was asked, also for a run that is gone.
        let next = until.min(now + hz.ceil() as u64);
        context.holds.settle(robot.reach(next)).await?;
    }
}
