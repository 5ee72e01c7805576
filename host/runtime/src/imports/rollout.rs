//! The host's own loop: observe, act, play, with the next inference overlapping the motion of the last.

use std::future::{poll_fn, ready};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use futures_util::future::{Either, join_all, select};
use waza_robot::{Ended, Intervention, Pending, Play, PlayReport, Playing, Response, RobotError};

use crate::contract::{Chunk, Observed, Refusal};
use crate::imports::Call;
use crate::imports::inference::{Inferred, infer};
use crate::imports::stream::{Full, Writer};
use crate::leases::Motion;
use crate::run::events;

/// What the skill that started a rollout is told.
pub(crate) enum Event {
    /// The chunk of that number plays.
    Chunk(u32),
    Intervened(Intervention),
    Observed(Observed),
    Done(Result<(), Refusal>),
}

/// A rollout, ready to run.
pub(crate) struct Rollout {
    pub context: Arc<Call>,
    pub motion: Motion,
    /// What the model is told.
    pub instruction: String,
    /// How long.
    pub ticks: u64,
    /// How often the skill gets an observation; never without.
    pub observe_ticks: Option<f64>,
    /// Rows of a chunk that are due before the next is asked for.
    pub replan_rows: u32,
    pub events: Writer<Event>,
}

/// Requests in a row that the model may have no time for, before a rollout ends with `exhausted`.
const MOST_MISSED: u32 = 3;

type Asked = Pin<Box<dyn Future<Output = Result<Inferred, Refusal>> + Send>>;

/// What a rollout is in the middle of. All of it is polled together, in [`Rollout::next`]: an answer that lies unread
/// keeps robot time still, so nothing may be waited for alone.
#[derive(Default)]
struct Going {
    observing: Option<Pending<Observed>>,
    /// The rollout's last tick is waited for.
    ending: Option<Pending<u64>>,
    /// So is this one, in which something is due.
    reaching: Option<(u64, Pending<u64>)>,
    /// The model is asked.
    asked: Option<Asked>,
    /// It has answered, and the answer is not due yet.
    answered: Option<Inferred>,
    /// Plays that have not ended; the newest moves the robot.
    playing: Vec<Playing>,
    chunks: u32,
    /// The tick after the last row of the newest chunk.
    ends: u64,
    /// Requests in a row that the model had no time for.
    missed: u32,
    /// Observations that were due for the skill.
    observed: u64,
}

enum Next {
    Played(Result<PlayReport, RobotError>),
    Seen(Result<Observed, RobotError>),
    Answered(Result<Inferred, Refusal>),
    Ticked(Result<u64, RobotError>),
}

impl Rollout {
    /// Runs until its time is up, the reader or the lease is gone, or something fails. The joints hold afterwards.
    pub async fn run(self) {
        let mut going = Going::default();
        let ended = match select(pin!(self.events.closed()), pin!(self.drive(&mut going))).await {
            Either::Left(((), _)) => Ok(()),
            Either::Right((ended, _)) => ended,
        };
        self.motion.end();
        let Going { playing, observing, ending, reaching, .. } = going;
        // An answer that nobody takes would keep robot time still.
        drop((observing, ending, reaching));
        for last in join_all(playing.into_iter().map(|it| self.context.holds.settle(it))).await {
            // What the filter did to the last chunk still counts; how the rollout ended is known.
            let _ = self.report(last);
        }
        self.events.push_last(Event::Done(ended));
    }

    async fn drive(&self, going: &mut Going) -> Result<(), Refusal> {
        let robot = self.context.robot();
        let begin = robot.tick();
        let end = begin + self.ticks;
        let mut replan = begin;
        loop {
            self.motion.check()?;
            let tick = robot.tick();
            if let Some(Inferred { answer: chunk, .. }) = going.answered.take_if(|it| it.due_tick <= tick) {
                replan = self.play(going, chunk)?;
                continue;
            }
            if tick >= end {
                return Ok(());
            }
            let show = self.observe_ticks.map(|every| begin + (going.observed as f64 * every).round() as u64);
            let plan = (going.asked.is_none() && going.answered.is_none()).then_some(replan);
            let look = [show, plan].into_iter().flatten().min().filter(|_| going.observing.is_none());
            if look.is_some_and(|due| due <= tick) {
                going.observing = Some(robot.observe());
                continue;
            }
            let answer = going.answered.as_ref().map(|it| it.due_tick);
            let due = [look, answer].into_iter().flatten().min();
            match self.next(going, end, due).await {
                Next::Played(ended) => self.report(ended)?,
                // What was seen is old by now; what is seen next may find the model less busy.
                Next::Answered(Err(Refusal::Exhausted(_))) if going.missed < MOST_MISSED => going.missed += 1,
                Next::Answered(answer) => {
                    going.answered = Some(answer?);
                    going.missed = 0;
                }
                Next::Ticked(tick) => drop(tick?),
                Next::Seen(seen) => {
                    let seen = seen?;
                    if plan.is_some_and(|due| due <= seen.tick) {
                        let until = self.until(going, seen.tick);
                        let asked = infer(&self.context, &self.instruction, std::slice::from_ref(&seen), until);
                        going.asked = Some(match asked {
                            Ok(asked) => Box::pin(asked),
                            Err(refusal) => Box::pin(ready(Err(refusal))),
                        });
                    }
                    if let Some(every) = self.observe_ticks.filter(|_| show.is_some_and(|due| due <= seen.tick)) {
                        going.observed = ((seen.tick - begin) as f64 / every).floor() as u64 + 1;
                        let observed = |event: &Event| matches!(event, Event::Observed(_));
                        self.events.replace(Event::Observed(seen), observed).map_err(unread)?;
                    }
                }
            }
        }
    }

    /// Until when a chunk for what was seen at a tick is of use: when the newest chunk runs out, the arm would stand still;
    /// and if it stands already, until all rows would have been due.
    fn until(&self, going: &Going, seen: u64) -> u64 {
        let about = self.context.model().about();
        let rate_hz = about.rate_hz.unwrap_or(self.context.robot().embodiment().action.rate_hz);
        let runs_out = |tick: u64| tick + (about.chunk_length as f64 * self.row_ticks(rate_hz)).round() as u64;
        if going.ends > seen { going.ends } else { runs_out(seen) }
    }

    fn row_ticks(&self, rate_hz: f32) -> f64 {
        f64::from(self.context.robot().embodiment().control_hz) / f64::from(rate_hz)
    }

    /// Hands a chunk to the player; returns the tick from which the next shall be asked for.
    fn play(&self, going: &mut Going, chunk: Chunk) -> Result<u64, Refusal> {
        let robot = self.context.robot();
        let Chunk { rate_hz, rows, since_tick } = chunk;
        let row_ticks = self.row_ticks(rate_hz);
        let since = since_tick.unwrap_or(robot.tick());
        going.ends = since + (rows.len() as f64 * row_ticks).round() as u64;
        let joints = self.motion.joints().clone();
        let within = self.context.skill.within.clone();
        going.playing.push(robot.play_under(Play { joints, rate_hz, rows, since_tick, within }, self.motion.fence()));
        self.events.push(Event::Chunk(going.chunks)).map_err(unread)?;
        going.chunks += 1;
        Ok(since + (f64::from(self.replan_rows) * row_ticks).round() as u64)
    }

    /// Waits for whatever comes first. What came in the same tick is taken in this order, so that a run repeats.
    async fn next(&self, going: &mut Going, end: u64, due: Option<u64>) -> Next {
        let robot = self.context.robot();
        going.ending.get_or_insert_with(|| robot.reach(end));
        if going.reaching.as_ref().map(|(tick, _)| *tick) != due {
            going.reaching = due.map(|tick| (tick, robot.reach(tick)));
        }
        let holds = &self.context.holds;
        poll_fn(|context| {
            for index in 0..going.playing.len() {
                if let Poll::Ready(reply) = Pin::new(&mut going.playing[index]).poll(context) {
                    going.playing.remove(index);
                    return Poll::Ready(Next::Played(holds.keep_of(reply)));
                }
            }
            if let Some(observing) = &mut going.observing
                && let Poll::Ready(reply) = Pin::new(observing).poll(context)
            {
                going.observing = None;
                return Poll::Ready(Next::Seen(holds.keep_of(reply)));
            }
            if let Some(asked) = &mut going.asked
                && let Poll::Ready(answer) = asked.as_mut().poll(context)
            {
                going.asked = None;
                return Poll::Ready(Next::Answered(answer));
            }
            if let Some((_, reaching)) = &mut going.reaching
                && let Poll::Ready(reply) = Pin::new(reaching).poll(context)
            {
                going.reaching = None;
                return Poll::Ready(Next::Ticked(holds.keep_of(reply)));
            }
            if let Some(ending) = &mut going.ending
                && let Poll::Ready(reply) = Pin::new(ending).poll(context)
            {
                going.ending = None;
                return Poll::Ready(Next::Ticked(holds.keep_of(reply)));
            }
            Poll::Pending
        })
        .await
    }

    fn report(&self, ended: Result<PlayReport, RobotError>) -> Result<(), Refusal> {
        let PlayReport { ended, interventions } = ended?;
        let ends = |it: &&Intervention| it.response == Response::Hold && it.rule.ends_plays();
        let held = interventions.iter().find(ends).map(|it| it.rule);
        for intervention in interventions {
            (self.context.events)(events::Event::Intervention(intervention));
            self.events.push(Event::Intervened(intervention)).map_err(unread)?;
        }
        match ended {
            // A late chunk moved nothing; the next is asked for already.
            Ended::Finished | Ended::Superseded | Ended::Late => Ok(()),
            Ended::Held => {
                self.motion.check()?;
                Err(match held {
                    Some(rule) => Refusal::Failed(format!("the safety filter held the joints: {rule}")),
                    None => Refusal::Preempted("the joints were told to hold".into()),
                })
            }
            Ended::Stopped => Err(Refusal::Stopped),
        }
    }
}

fn unread(_: Full) -> Refusal {
    Refusal::Exhausted("too many events of the rollout were left unread".into())
}
