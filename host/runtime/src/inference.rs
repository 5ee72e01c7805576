//! One request to the model: from what a skill saw to a chunk, with the time that it takes.

use waza_model::{Image, Noise, Query};
use waza_robot::Observation;

use crate::bindings::Refusal;
use crate::calls::{Chunk, Context, Observed};
use crate::event::Event;
use crate::model::{Ability, refusal};

/// A chunk, and when a robot that thinks at its own pace would have it.
pub(crate) struct Inferred {
    pub chunk: Chunk,
    /// Under lockstep inference takes no robot time by itself: a fixed number of ticks is charged for it.
    pub due_tick: u64,
}

/// Asks the model what to do. The request is made, and robot time stands still for it, as soon as this returns.
pub(crate) fn infer(
    context: &Context,
    instruction: &str,
    seen: &Observed,
) -> Result<impl Future<Output = Result<Inferred, Refusal>> + Send + use<>, Refusal> {
    let site = &context.site;
    let about = site.model.about();
    Ability::Act.demand(about)?;
    let images = context.burst.uncounted(|| images(seen, &about.cameras, site.robot.embodiment()))?;
    let query = Query {
        instruction: instruction.into(),
        images,
        state: seen.joints.positions.clone(),
        sensors: Vec::new(),
        noise: Noise::Seed(mix(context.seed, context.next_request())),
    };
    let rate_hz = about.rate_hz.unwrap_or(site.robot.embodiment().action.rate_hz);
    let since_tick = Some(seen.tick);
    let due_tick = site.robot.tick() + u64::from(site.latency_ticks);
    let hold = site.robot.hold_time();
    let (holds, events) = (context.holds.clone(), context.events.clone());
    let answer = site.model.act(query);
    Ok(async move {
        let answer = answer.await;
        // Until the run waits again.
        holds.keep(hold);
        let actions = answer.map_err(|error| refusal(&error))?;
        events(Event::Inference { elapsed: actions.elapsed });
        Ok(Inferred { chunk: Chunk { rate_hz, rows: actions.rows, since_tick }, due_tick })
    })
}

/// What the model's cameras saw.
fn images(
    seen: &Observation,
    wanted: &[String],
    robot: &waza_robot::Embodiment,
) -> Result<Vec<(String, Image)>, Refusal> {
    let frames = robot.cameras.iter().zip(&seen.frames).filter(|(camera, _)| wanted.contains(&camera.name));
    frames
        .map(|(camera, frame)| {
            let image = frame.image();
            let image = Image::shared(image.width, image.height, image.rgb.clone());
            let image = image.map_err(|error| Refusal::Failed(format!("camera {}: {error}", camera.name)))?;
            Ok((camera.name.clone(), image))
        })
        .collect()
}

/// A seed for one request of a run: SplitMix64's finaliser, so that neighbours have nothing in common.
fn mix(seed: u64, request: u64) -> u64 {
    let mut z = seed.wrapping_add(request.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
