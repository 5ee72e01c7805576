//! `skills`: running other skills.

use wasmtime::component::{Accessor, HasSelf};

use super::{Fault, Run};
use crate::bindings::{Refusal, skills, types};
use crate::error::SkillError;
use crate::host::{Outcome, Start, TaskRequest};
use crate::permission::Permission;

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
        let most = context.site.options.budgets.invoke_depth;
        if context.depth >= most {
            return Err(Refusal::Exhausted(format!("skills invoke each other more than {most} deep")).into());
        }
        let start = Start {
            request: TaskRequest { instruction, parameters, resume: None, seed: context.seed ^ context.next_request() },
            events: context.events.clone(),
            depth: context.depth + 1,
        };
        let ended = context.holds.settle(context.site.run(&skill, start)).await;
        ended.map(Outcome::into).map_err(|error| {
            Fault::Refused(match error {
                SkillError::NotLoaded { .. } => Refusal::Unavailable(error.to_string()),
                SkillError::Stopped { .. } => Refusal::Stopped,
                error => Refusal::Failed(error.to_string()),
            })
        })
    }
}
