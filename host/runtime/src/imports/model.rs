//! `model`: the foundation model that the host owns.

use std::sync::Arc;

use futures_util::future::try_join_all;
use wasmtime::component::{Accessor, HasSelf, Resource};
use waza_model::{Image, Priority, Question, Ticket};
use waza_package::{Ability, Permission};

use super::{Call, Run};
use crate::contract::{Chunk, Fault, Observed, Refusal, model};
use crate::imports::inference::{Inferred, answered, images, infer, ticket};
use crate::model::{abilities, demand, flag};

impl model::Host for Run {
    fn about(&mut self) -> wasmtime::Result<model::Info> {
        self.context.demand(Permission::Model)?;
        let about = self.context.model().about();
        Ok(model::Info {
            name: about.name.clone(),
            version: about.version.clone(),
            abilities: abilities(about).fold(model::Abilities::empty(), |all, it| all | flag(it)),
            chunk_length: about.chunk_length as u32,
            rate_hz: about.rate_hz.unwrap_or(self.context.robot().embodiment().action.rate_hz),
        })
    }
}

impl<T: Send + 'static> model::HostWithStore<T> for HasSelf<Run> {
    async fn act(
        accessor: &Accessor<T, Self>,
        instruction: String,
        seen: Vec<Resource<Observed>>,
    ) -> Result<Resource<Chunk>, Fault> {
        let (context, seen) = arguments(accessor, &seen, &instruction)?;
        let _call = context.meter.call()?;
        let chunk = due(&context, infer(&context, &instruction, &seen, context.until_tick)?.await?).await?;
        Ok(accessor.with(|mut access| access.get().push_held(chunk))?)
    }

    async fn ask(
        accessor: &Accessor<T, Self>,
        question: String,
        seen: Vec<Resource<Observed>>,
    ) -> Result<model::Answer, Fault> {
        let (context, seen) = arguments(accessor, &seen, &question)?;
        let _call = context.meter.call()?;
        let model = context.model();
        demand(Ability::Answer, model.about())?;
        context.spend_request()?;
        let question = Question { text: question, images: pictures(&context, &seen)? };
        let asked = answered(&context, model.ask(question, &thinking(&context)));
        let answer = due(&context, asked.await?).await?;
        Ok(model::Answer { text: answer.text, confidence: answer.confidence })
    }

    async fn locate(
        accessor: &Accessor<T, Self>,
        what: String,
        seen: Resource<Observed>,
    ) -> Result<Vec<model::Detection>, Fault> {
        let (context, seen) = arguments(accessor, &[seen], &what)?;
        let _call = context.meter.call()?;
        let model = context.model();
        demand(Ability::Locate, model.about())?;
        let images = images(&context, &seen)?;
        images.iter().try_for_each(|_| context.spend_request())?;
        // All at once: the model answers them one after the other, and robot time stands still for all of them.
        let asked = images.iter().map(|(_, image)| model.locate(&what, image, &thinking(&context)));
        let asked: Vec<_> = asked.map(|answer| answered(&context, answer)).collect();
        let mut found = Vec::new();
        for ((camera, _), detections) in images.iter().zip(try_join_all(asked).await?) {
            found.extend(due(&context, detections).await?.into_iter().map(|it| model::Detection {
                camera: camera.clone(),
                label: what.clone(),
                x: it.x,
                y: it.y,
                width: it.width,
                height: it.height,
                confidence: it.confidence,
            }));
        }
        found.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
        Ok(found)
    }

    async fn embed(
        accessor: &Accessor<T, Self>,
        text: String,
        seen: Vec<Resource<Observed>>,
    ) -> Result<Vec<f32>, Fault> {
        let (context, seen) = arguments(accessor, &seen, &text)?;
        let _call = context.meter.call()?;
        let model = context.model();
        demand(Ability::Embed, model.about())?;
        context.spend_request()?;
        let asked = answered(&context, model.embed(text, pictures(&context, &seen)?, &thinking(&context)));
        Ok(due(&context, asked.await?).await?)
    }
}

/// The ticket of a request for which nothing moves; the answer is of use as long as the run lasts.
fn thinking(context: &Call) -> Ticket {
    ticket(context, Priority::Normal, context.until_tick)
}

/// What was seen, without the cameras' names.
fn pictures(context: &Call, seen: &[Observed]) -> Result<Vec<Image>, Refusal> {
    Ok(images(context, seen)?.into_iter().map(|(_, image)| image).collect())
}

/// An answer, when it is due.
async fn due<T>(context: &Call, Inferred { answer, due_tick }: Inferred<T>) -> Result<T, Refusal> {
    let robot = context.robot();
    if due_tick > robot.tick() {
        context.holds.settle(robot.reach(due_tick)).await?;
    }
    Ok(answer)
}

type Arguments = (Arc<Call>, Vec<Observed>);

fn arguments<T>(
    accessor: &Accessor<T, HasSelf<Run>>,
    seen: &[Resource<Observed>],
    text: &str,
) -> Result<Arguments, Fault> {
    accessor.with(|mut access| {
        let run = access.get();
        run.context.check(Permission::Model)?;
        run.context.carry(text.len())?;
        let seen: Result<_, _> = seen.iter().map(|it| run.table.get(it).cloned()).collect();
        Ok((run.context.clone(), seen?))
    })
}
