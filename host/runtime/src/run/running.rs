//! A run, as whoever started it holds it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_channel::oneshot;
use waza_package::SkillId;
use waza_robot::{Reply, Robot};
use waza_state::RunId;

use crate::contract::Outcome;
use crate::error::SkillError;
use crate::run::thread::{Signal, Stop};

/// What a run came to.
pub(crate) type Ended = Result<Outcome, SkillError>;

/// A run. Resolves when it has ended, its leases are given up and its joints hold; under lockstep robot time stands
/// still until the reply's hold is dropped. Dropping it ends the run.
#[must_use = "dropping a run ends it"]
pub struct Running {
    id: RunId,
    answer: oneshot::Receiver<Reply<Ended>>,
    signal: Arc<Signal>,
    robot: Robot,
    skill: Option<SkillId>,
}

impl Running {
    /// A run that begins; with where to say what it came to.
    pub(crate) fn begin(
        id: RunId,
        skill: SkillId,
        robot: Robot,
        signal: Arc<Signal>,
    ) -> (Self, oneshot::Sender<Reply<Ended>>) {
        let (sender, answer) = oneshot::channel();
        (Self { id, answer, signal, robot, skill: Some(skill) }, sender)
    }

    /// A run that does not begin.
    pub(crate) fn refused(id: RunId, error: SkillError, robot: Robot) -> Self {
        let (sender, answer) = oneshot::channel();
        // The receiver is in our hands.
        let _ = sender.send(Reply { value: Err(error), hold: robot.hold_time() });
        Self { id, answer, signal: Signal::new(), robot, skill: None }
    }

    /// The run's number.
    pub fn id(&self) -> RunId {
        self.id
    }

    /// Ends the run because it is wanted no more: its checkpoint is forgotten. It can still be waited for.
    pub fn stop(&self) {
        self.signal.stop(Stop::Ended);
    }

    /// Ends the run so that it can go on later: with a state folder its last checkpoint is kept, and it is among
    /// [`Host::interrupted`](crate::Host::interrupted). Dropping this does the same. It can still be waited for.
    pub fn interrupt(&self) {
        self.signal.stop(Stop::Interrupted);
    }
}

impl Future for Running {
    type Output = Reply<Ended>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = Pin::new(&mut self.answer).poll(context);
        polled.map(|reply| {
            reply.unwrap_or_else(|_| {
                let error = match &self.skill {
                    Some(skill) => {
                        SkillError::Trapped { skill: skill.clone(), what: "the host's thread for it panicked".into() }
                    }
                    None => SkillError::NotLoaded { skill: String::new(), loaded: "none".into() },
                };
                Reply { value: Err(error), hold: self.robot.hold_time() }
            })
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal.stop(Stop::Interrupted);
    }
}
