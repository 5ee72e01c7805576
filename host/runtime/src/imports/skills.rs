//! `skills`: running other skills.

use wasmtime::component::{Accessor, HasSelf};
use waza_package::Permission;
use waza_state::TaskRequest;

use super::Run;
use crate::contract::{Fault, Outcome};
use crate::contract::{Refusal, skills, types};
use crate::error::SkillError;
use crate::limits::Budget;
use crate::limits::Exhausted;
use crate::run::Launch;

impl skills::Host for Run {}

impl<T: Send + 'static> skills::HostWithStore<T> for HasSelf<Run> {
    async fn invoke(
        accessor: &Accessor<T, Self>,
        skill: String,
        instruction: String,
        parameters: String,
    ) -> Result<types::Outcome, Fault> {
        let context = accessor.with(|mut access| access.get().context.clone());
        context.check(Permission::Skills(skill.clone()))?;
        context.carry(instruction.len() + parameters.len())?;
        let _call = context.meter.call()?;
        let most = context.budgets().invoke_depth;
        if context.job.callers.len() >= most as usize {
            return Err(Exhausted { budget: Budget::InvokeDepth, limit: most.to_string() }.into());
        }
        let slot = Some(context.meter.invocation()?);
        let request = TaskRequest {
            instruction,
            parameters,
            resume: None,
            seed: context.seed ^ context.next_request(),
            priority: context.job.request.priority,
        };
        let family = context.meter.family();
        let callers = context.job.callers.iter().copied().chain([context.job.id]).collect();
        // What the filter does to another skill is told to whoever watches this run, and does not count against this version.
        let (id, events) = (context.services.runs.number(), context.job.events.clone());
        // A record is of one run; what another came to is in its answer.
        let launch = Launch { id, request, callers, events, file: None, family, slot, journal: None };
        let _waiting = context.waiting();
        let ended = context.holds.settle((context.services.launch)(&skill, launch)).await;
        ended.map(Outcome::into).map_err(|error| {
            Fault::Refused(match error {
                SkillError::NotLoaded { .. } | SkillError::Quarantined { .. } => {
                    Refusal::Unavailable(error.to_string())
                }
                SkillError::Full { .. } => Refusal::Exhausted(error.to_string()),
                SkillError::Stopped { .. } => Refusal::Stopped,
                error => Refusal::Failed(error.to_string()),
            })
        })
    }
}
