//! Leases and rollouts.
//!
//! A skill moves only through a [`Lease`]. When the lease is dropped, or the skill ends in whatever way, the host brings
//! the robot into its safe fallback.

use wit_bindgen::StreamReader;

pub use crate::bindings::waza::skill::motion::{Intervention, Lease, RolloutEvent, RolloutOptions};
use crate::{Observation, Result};

/// Takes exclusive authority over the named parts of the robot.
///
/// # Errors
/// [`Error::Denied`](crate::Error::Denied) for a part without the permission `motion:<part>`,
/// [`Error::Unavailable`](crate::Error::Unavailable) for one that the robot does not have or that somebody else holds.
pub async fn acquire(parts: &[&str]) -> Result<Lease> {
    crate::bindings::waza::skill::motion::acquire(parts.iter().map(|part| part.to_string()).collect()).await
}

impl RolloutOptions {
    /// Follow `instruction` for at most `max_seconds` of robot time, with ten observations a second.
    pub fn new(instruction: impl Into<String>, max_seconds: f32) -> Self {
        Self { instruction: instruction.into(), max_seconds, observe_hz: 10.0, replan_rows: None }
    }

    /// With that many observations a second; 0 is none.
    pub fn observing(self, observe_hz: f32) -> Self {
        Self { observe_hz, ..self }
    }

    /// With a new chunk asked for whenever that many rows of the last are due; else of as many as the model's
    /// checkpoint says.
    pub fn replanning_after(self, rows: u32) -> Self {
        Self { replan_rows: Some(rows), ..self }
    }
}

/// A running rollout: the host observes, asks the model and moves, over and over, and tells what happens.
///
/// An asynchronous iterator: `while let Some(event) = rollout.next().await? { ... }`. Dropping it ends the rollout.
pub struct Rollout {
    events: StreamReader<RolloutEvent>,
    interventions: Vec<Intervention>,
}

impl Rollout {
    /// Starts a rollout with the leased parts.
    ///
    /// # Errors
    /// Whatever keeps the host from starting: a lease that was lost, a stopped robot, a model that cannot act.
    pub fn start(lease: &Lease, options: &RolloutOptions) -> Result<Self> {
        Ok(Self { events: lease.rollout(options)?, interventions: Vec::new() })
    }

    /// The next event, or `None` when the time is up.
    ///
    /// # Errors
    /// What ended the rollout before its time.
    pub async fn next(&mut self) -> Result<Option<RolloutEvent>> {
        match self.events.next().await {
            Some(RolloutEvent::Intervened(intervention)) => {
                self.interventions.push(intervention.clone());
                Ok(Some(RolloutEvent::Intervened(intervention)))
            }
            Some(RolloutEvent::Done(end)) => end.map(|()| None),
            None => Ok(None),
            Some(event) => Ok(Some(event)),
        }
    }

    /// The next observation, or `None` when the time is up.
    ///
    /// # Errors
    /// What ended the rollout before its time.
    pub async fn observed(&mut self) -> Result<Option<Observation>> {
        while let Some(event) = self.next().await? {
            if let RolloutEvent::Observed(observation) = event {
                return Ok(Some(observation));
            }
        }
        Ok(None)
    }

    /// Waits until the time is up.
    ///
    /// # Errors
    /// What ended the rollout before its time.
    pub async fn finish(mut self) -> Result<Vec<Intervention>> {
        while self.next().await?.is_some() {}
        Ok(self.interventions)
    }

    /// What the safety filter changed so far.
    pub fn interventions(&self) -> &[Intervention] {
        &self.interventions
    }
}
