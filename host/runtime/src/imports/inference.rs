//! One request to the model: from what a skill saw to an answer, with the time that it takes.

use std::time::Duration;

use waza_model::{Image, Noise, Priority, Query, Ticket};
use waza_package::Ability;
use waza_robot::Pace;

use crate::contract::{Chunk, Observed, Refusal};
use crate::imports::Call;
use crate::imports::sensor_window::window;
use crate::model::{Answer, demand, refusal};
use crate::run::events::Event;

/// What the model answered.
pub(crate) struct Inferred<T = Chunk> {
    pub answer: T,
    /// When a robot that thinks at its own pace would have it. Under lockstep inference takes no robot time by itself: a
    /// fixed number of ticks is charged for it.
    pub due_tick: u64,
}

/// Asks the model what to do, which is of use until a tick. The request is made, and robot time stands still for it, as soon
/// as this returns.
///
/// Several observations are a video, oldest first; the newest one's state and sensors count.
pub(crate) fn infer(
    context: &Call,
    instruction: &str,
    seen: &[Observed],
    until_tick: u64,
) -> Result<impl Future<Output = Result<Inferred, Refusal>> + Send + use<>, Refusal> {
    let (about, robot) = (context.model().about(), context.robot().embodiment());
    demand(Ability::Act, about)?;
    let [earlier @ .., newest] = seen else {
        return Err(Refusal::Invalid("the model needs an observation to act on".into()));
    };
    if !earlier.is_empty() {
        demand(Ability::Video, about)?;
    }
    if seen.windows(2).any(|pair| pair[0].tick > pair[1].tick) {
        return Err(Refusal::Invalid("the observations of a video must come oldest first".into()));
    }
    let query = Query {
        instruction: instruction.into(),
        images: images(context, seen)?,
        state: newest.joints.positions.clone(),
        sensors: about.sensors.map_or(Ok(Vec::new()), |wanted| window(newest, robot, wanted))?,
        noise: Noise::Seed(mix(context.seed, context.next_request())),
    };
    context.spend_request()?;
    let rate_hz = about.rate_hz.unwrap_or(robot.action.rate_hz);
    let since_tick = Some(newest.tick);
    let events = context.events.clone();
    // Something moves, or is about to.
    let asked = answered(context, context.model().act(query, &ticket(context, Priority::High, until_tick)));
    Ok(async move {
        let Inferred { answer, due_tick } = asked.await?;
        events(Event::Inference { elapsed: answer.elapsed });
        Ok(Inferred { answer: Chunk { rate_hz, rows: answer.rows, since_tick }, due_tick })
    })
}

/// A request of this run, whose answer is of use until a tick. Under lockstep robot time stands still until it is there, so
/// it cannot come too late, however long it takes.
pub(crate) fn ticket(context: &Call, priority: Priority, until_tick: u64) -> Ticket {
    let robot = context.robot();
    let ticket = Ticket::new(context.name.clone()).by(context.job.id.number()).of(priority);
    match robot.pace() {
        Pace::Lockstep => ticket,
        Pace::RealTime => {
            let ticks = until_tick.min(context.until_tick).saturating_sub(robot.tick());
            ticket.within(Duration::from_secs_f64(ticks as f64 / f64::from(robot.embodiment().control_hz)))
        }
    }
}

/// Waits for the answer to a request that has been made, while robot time stands still.
pub(crate) fn answered<T>(
    context: &Call,
    answer: Answer<T>,
) -> impl Future<Output = Result<Inferred<T>, Refusal>> + Send + use<T> {
    let due_tick = context.robot().tick() + u64::from(context.services.latency_ticks);
    let hold = context.robot().hold_time();
    let holds = context.holds.clone();
    let waiting = context.waiting();
    async move {
        let answer = answer.await;
        drop(waiting);
        // Until the run waits again.
        holds.keep(hold);
        Ok(Inferred { answer: answer.map_err(|error| refusal(&error))?, due_tick })
    }
}

/// What the model's cameras saw, or all cameras if it names none. The pixels are shared by everybody who asks about this
/// moment, so the model sees at a glance that it knows them.
pub(crate) fn images(context: &Call, seen: &[Observed]) -> Result<Vec<(String, Image)>, Refusal> {
    let wanted = &context.model().about().cameras;
    let cameras = context.robot().embodiment().cameras.iter().enumerate();
    let cameras = cameras.filter(|(_, camera)| wanted.is_empty() || wanted.contains(&camera.name));
    seen.iter()
        .flat_map(|seen| cameras.clone().map(move |(index, camera)| (seen, index, camera)))
        .map(|(seen, index, camera)| {
            let image = picture(context, seen, index)?;
            let image = Image::shared(image.width, image.height, image.rgb.clone());
            let image = image.map_err(|error| Refusal::Failed(format!("camera {}: {error}", camera.name)))?;
            Ok((camera.name.clone(), image))
        })
        .collect()
}

/// What one camera saw at a moment. An old picture is given to nobody for a new one, and no other for one that is lost.
pub(crate) fn picture<'a>(context: &Call, seen: &'a Observed, camera: usize) -> Result<&'a waza_robot::Image, Refusal> {
    let robot = context.robot().embodiment();
    let name = &robot.cameras[camera].name;
    if seen.frozen(robot).any(|frozen| frozen == name) {
        return Err(Refusal::Unavailable(format!(
            "the camera {name} is frozen: no new frame has come from it for a while"
        )));
    }
    let frame = seen.frames.get(camera).ok_or_else(|| Refusal::Unavailable(format!("the camera {name} is dark")))?;
    Ok(context.cpu.uncounted(|| frame.image())?)
}

/// A seed for one request of a run: SplitMix64's finaliser, so that neighbours have nothing in common.
fn mix(seed: u64, request: u64) -> u64 {
    let mut z = seed.wrapping_add(request.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
