//! `model`: the foundation model that the host owns.

use std::sync::Arc;

use wasmtime::component::{Accessor, HasSelf, Resource};

use super::{Chunk, Context, Fault, Observed, Run};
use crate::bindings::{Refusal, model};
use crate::inference::infer;
use crate::model::Ability;
use crate::permission::Permission;

impl model::Host for Run {
    fn about(&mut self) -> wasmtime::Result<model::Info> {
        self.context.demand(Permission::Model)?;
        let about = self.context.site.model.about();
        Ok(model::Info {
            name: about.name.clone(),
            version: about.version.clone(),
            abilities: Ability::of(about).fold(model::Abilities::empty(), |all, it| all | it.flag()),
            chunk_length: about.chunk_length as u32,
            rate_hz: about.rate_hz.unwrap_or(self.context.site.robot.embodiment().action.rate_hz),
        })
    }
}

impl<T: Send + 'static> model::HostWithStore<T> for HasSelf<Run> {
    async fn act(
        accessor: &Accessor<T, Self>,
        instruction: String,
        seen: Vec<Resource<Observed>>,
    ) -> Result<Resource<Chunk>, Fault> {
        let (context, seen) = arguments(accessor, &seen)?;
        let [seen] = seen.as_slice() else {
            if seen.is_empty() {
                return Err(Refusal::Invalid("the model needs an observation to act on".into()).into());
            }
            Ability::Video.demand(context.site.model.about())?;
            return Err(Refusal::Invalid("this host hands the model one observation at a time".into()).into());
        };
        let inferred = infer(&context, &instruction, seen)?.await?;
        let robot = &context.site.robot;
        if inferred.due_tick > robot.tick() {
            context.holds.settle(robot.reach(inferred.due_tick)).await?;
        }
        Ok(accessor.with(|mut access| access.get().push(inferred.chunk))?)
    }

    async fn ask(
        accessor: &Accessor<T, Self>,
        _: String,
        seen: Vec<Resource<Observed>>,
    ) -> Result<model::Answer, Fault> {
        Err(lacking(accessor, Ability::Answer, &seen))
    }

    async fn locate(
        accessor: &Accessor<T, Self>,
        _: String,
        seen: Resource<Observed>,
    ) -> Result<Vec<model::Detection>, Fault> {
        Err(lacking(accessor, Ability::Locate, &[seen]))
    }

    async fn embed(accessor: &Accessor<T, Self>, _: String, seen: Vec<Resource<Observed>>) -> Result<Vec<f32>, Fault> {
        Err(lacking(accessor, Ability::Embed, &seen))
    }
}

type Arguments = (Arc<Context>, Vec<Observed>);

fn arguments<T>(accessor: &Accessor<T, HasSelf<Run>>, seen: &[Resource<Observed>]) -> Result<Arguments, Fault> {
    accessor.with(|mut access| {
        let run = access.get();
        run.context.check(Permission::Model)?;
        let seen: Result<_, _> = seen.iter().map(|it| run.table.get(it).cloned()).collect();
        Ok((run.context.clone(), seen?))
    })
}

/// The model interface has calls for more than [`crate::Model`] serves; no model has these abilities yet.
fn lacking<T>(accessor: &Accessor<T, HasSelf<Run>>, ability: Ability, seen: &[Resource<Observed>]) -> Fault {
    let refused = arguments(accessor, seen).and_then(|(context, _)| {
        ability.demand(context.site.model.about())?;
        Err::<(), Fault>(Refusal::Unavailable(format!("this host does not serve `{ability}`")).into())
    });
    refused.err().unwrap_or_else(|| Refusal::Unavailable(format!("this host does not serve `{ability}`")).into())
}
