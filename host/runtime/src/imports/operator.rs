//! `operator`: the person in charge.

use wasmtime::component::{Accessor, HasSelf};
use waza_package::Permission;

use super::Run;
use crate::contract::{Fault, Refusal, operator};
use crate::run::events::Event;
use crate::run::options::Operator;

/// What a report of progress takes of the budget for logs, beside its note.
const PROGRESS_BYTES: u64 = 64;

impl operator::Host for Run {
    fn progress(&mut self, fraction: f32, note: String) -> wasmtime::Result<()> {
        self.context.demand(Permission::Operator)?;
        if !self.wasi.log().spend(PROGRESS_BYTES + note.len() as u64) {
            return Ok(());
        }
        let fraction = if fraction.is_finite() { fraction.clamp(0.0, 1.0) } else { 0.0 };
        (self.context.events)(Event::Progress { fraction, note });
        Ok(())
    }
}

impl<T: Send + 'static> operator::HostWithStore<T> for HasSelf<Run> {
    async fn confirm(accessor: &Accessor<T, Self>, question: String) -> Result<bool, Fault> {
        let context = accessor.with(|mut access| access.get().context.clone());
        context.check(Permission::Operator)?;
        context.carry(question.len())?;
        let answer = match context.operator() {
            Operator::Absent => return Err(Refusal::Unavailable("nobody is there to answer".into()).into()),
            Operator::SaysYes => true,
            Operator::SaysNo => false,
        };
        (context.events)(Event::Confirmed { question, answer });
        Ok(answer)
    }
}
