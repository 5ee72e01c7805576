//! The host's own loop: observe, act, play, with the next inference overlapping the motion of the last.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use futures_util::future::{Either, select};
use waza_robot::{Ended, Intervention, Play, PlayReport, Playing, Reply, RobotError};

use crate::bindings::Refusal;
use crate::calls::{Chunk, Context, Observed};
use crate::event;
use crate::feed::{Full, Writer};
use crate::inference::{Inferred, infer};
use crate::lease::Motion;

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
    pub context: Arc<Context>,
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

type Asked = Pin<Box<dyn Future<Output = Result<Inferred, Refusal>> + Send>>;

/// What a rollout is in the middle of.
#[derive(Default)]
struct Going {
    /// The model is asked.
    asked: Option<Asked>,
    /// It has answered, and the answer is not due yet.
    answered: Option<Inferred>,
    /// Plays that have not ended; the newest moves the robot.
    playing: Vec<Playing>,
    chunks: u32,
    /// Observations that the skill was given.
    observed: u64,
}

enum Next {
    Played(Reply<Result<PlayReport, RobotError>>),
    Answered(Result<Inferred, Refusal>),
    Ticked(Reply<Result<u64, RobotError>>),
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
        for playing in going.playing {
            // What the filter did to the last chunk still counts; how it ended is known.
            let _ = self.report(self.context.holds.settle(playing).await);
        }
        self.events.push_last(Event::Done(ended));
    }

    async fn drive(&self, going: &mut Going) -> Result<(), Refusal> {
        let (robot, holds) = (&self.context.site.robot, &self.context.holds);
        let begin = robot.tick();
        let end = begin + self.ticks;
        let mut replan = begin;
        loop {
            self.motion.check()?;
            let tick = robot.tick();
            if let Some(Inferred { chunk, .. }) = going.answered.take_if(|it| it.due_tick <= tick) {
                replan = self.play(going, chunk)?;
                continue;
            }
            if tick >= end {
                return Ok(());
            }
            let observe = self.observe_ticks.map(|every| begin + (going.observed as f64 * every).round() as u64);
            let asks = going.asked.is_none() && going.answered.is_none();
            let (shows, plans) = (observe.is_some_and(|due| due <= tick), asks && replan <= tick);
            if shows || plans {
                let seen = holds.settle(robot.observe()).await?;
                if plans {
                    going.asked = Some(Box::pin(infer(&self.context, &self.instruction, &seen)?));
                }
                if let Some(every) = self.observe_ticks.filter(|_| shows) {
                    going.observed = ((seen.tick - begin) as f64 / every).floor() as u64 + 1;
                    let observed = |event: &Event| matches!(event, Event::Observed(_));
                    self.events.replace(Event::Observed(seen), observed).map_err(unread)?;
                }
                continue;
            }
            let answer = going.answered.as_ref().map(|it| it.due_tick);
            let wake = [Some(end), observe, answer, asks.then_some(replan)].into_iter().flatten().min();
            match self.next(going, wake.unwrap_or(end)).await {
                Next::Played(Reply { value, hold }) => {
                    holds.keep(hold);
                    self.report(value)?;
                }
                Next::Answered(answer) => going.answered = Some(answer?),
                Next::Ticked(Reply { value, hold }) => {
                    holds.keep(hold);
                    value?;
                }
            }
        }
    }

    /// Hands a chunk to the player; returns the tick from which the next shall be asked for.
    fn play(&self, going: &mut Going, chunk: Chunk) -> Result<u64, Refusal> {
        let robot = &self.context.site.robot;
        let Chunk { rate_hz, rows, since_tick } = chunk;
        let row_ticks = f64::from(robot.embodiment().control_hz) / f64::from(rate_hz);
        let since = since_tick.unwrap_or(robot.tick());
        let joints = self.motion.joints().clone();
        going.playing.push(robot.play(Play { joints, rate_hz, rows, since_tick }));
        self.events.push(Event::Chunk(going.chunks)).map_err(unread)?;
        going.chunks += 1;
        Ok(since + (f64::from(self.replan_rows) * row_ticks).round() as u64)
    }

    /// Waits for whatever comes first. What came in the same tick is taken in this order, so that a run repeats.
    async fn next(&self, going: &mut Going, wake: u64) -> Next {
        let mut reach = self.context.site.robot.reach(wake);
        poll_fn(|context| {
            for index in 0..going.playing.len() {
                if let Poll::Ready(reply) = Pin::new(&mut going.playing[index]).poll(context) {
                    drop(going.playing.remove(index));
                    return Poll::Ready(Next::Played(reply));
                }
            }
            if let Some(asked) = &mut going.asked
                && let Poll::Ready(answer) = asked.as_mut().poll(context)
            {
                going.asked = None;
                return Poll::Ready(Next::Answered(answer));
            }
            Pin::new(&mut reach).poll(context).map(Next::Ticked)
        })
        .await
    }

    fn report(&self, ended: Result<PlayReport, RobotError>) -> Result<(), Refusal> {
        let PlayReport { ended, interventions } = ended?;
        for intervention in interventions {
            (self.context.events)(event::Event::Intervention(intervention));
            self.events.push(Event::Intervened(intervention)).map_err(unread)?;
        }
        match ended {
            // A late chunk moved nothing; the next is asked for already.
            Ended::Finished | Ended::Superseded | Ended::Late => Ok(()),
            Ended::Held => {
                self.motion.check()?;
                Err(Refusal::Preempted("the joints were told to hold".into()))
            }
            Ended::Stopped => Err(Refusal::Stopped),
        }
    }
}

fn unread(_: Full) -> Refusal {
    Refusal::Exhausted("too many events of the rollout were left unread".into())
}
