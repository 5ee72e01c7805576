//! Driving joints tick by tick from outside the control loop, which never waits for whoever does it.
//!
//! At the end of a tick the loop leaves what it knows in a mailbox; at the next it takes the newest demand out of it. A
//! demand that answers the tick before is prompt. Without one the joints brake within their limits in that tick, and go on
//! as soon as there is one again; after [`PATIENCE_S`] of such ticks in a row the drive is over. Demands pass the safety
//! filter as plays do.
//!
//! Nothing that the loop does here allocates or blocks, but for the report at a drive's end. Under [`Pace::Lockstep`] it
//! does wait: robot time stands still until the driver has answered, so that runs repeat.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll, Waker};

use crate::clock::Pace;
use crate::control::answer::{Answer, Playing, Reply, Spent};
use crate::control::gate::{Gate, TimeHold};
use crate::control::joint_holders::{Claim, JointHolder, JointHolders, Over, Task};
use crate::control::play::{Ended, PlayReport};
use crate::control::shared_slot::SharedSlot;
use crate::embodiment::{Embodiment, Within};
use crate::error::{PlayError, RobotError};
use crate::observation::{Measurement, Proprioception};
use crate::safety::filter::Demand;
use crate::safety::{Act, PATIENCE_S, Response, Rule};

/// What the control loop knows at one tick. Vectors follow the embodiment's order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DriveInput {
    /// The tick at which it was measured.
    pub tick: u64,
    /// The joints, all of the robot's.
    pub joints: Proprioception,
    /// The newest sample of every sensor, one after the other.
    pub samples: Vec<f32>,
}

impl DriveInput {
    fn sized_for(embodiment: &Embodiment) -> Self {
        let still = vec![0.0; embodiment.joints.len()];
        Self {
            tick: 0,
            joints: Proprioception { positions: still.clone(), velocities: still.clone(), efforts: still },
            samples: vec![0.0; embodiment.sensors.iter().map(|sensor| sensor.channels.len()).sum()],
        }
    }

    /// `measured` has been checked: it has the embodiment's shape.
    fn copy(&mut self, tick: u64, measured: &Measurement) {
        self.tick = tick;
        self.joints.positions.copy_from_slice(&measured.joints.positions);
        self.joints.velocities.copy_from_slice(&measured.joints.velocities);
        self.joints.efforts.copy_from_slice(&measured.joints.efforts);
        for (kept, value) in self.samples.iter_mut().zip(measured.samples.iter().flatten()) {
            *kept = *value;
        }
    }
}

/// Some joints, driven tick by tick. Dropping it lets go of them: they stop within their limits and stay.
///
/// It ends by itself as a play does: a newer play or drive that takes one of its joints, a hold, the host stop, too much that
/// is felt where it presses on, the loss of the link, or a driver that is too late.
#[must_use = "dropping it lets go of the joints"]
pub struct Drive {
    playing: Playing,
    over: Option<Reply<Result<PlayReport, RobotError>>>,
    seat: Arc<Mailbox>,
    input: DriveInput,
    /// Until the driver has answered. The last field, so that what ends with this is ended before time goes on.
    hold: Option<TimeHold>,
}

impl Drive {
    pub(crate) fn new(seat: Arc<Mailbox>, playing: Playing, embodiment: &Embodiment) -> Self {
        Self { playing, over: None, seat, input: DriveInput::sized_for(embodiment), hold: None }
    }

    /// Waits for a tick that has not been seen yet, and says what the loop knew then; ticks in between are skipped. Under
    /// lockstep robot time stands still until [`Drive::demand`] or the next call of this. `None`: the drive is over.
    pub async fn next(&mut self) -> Option<&DriveInput> {
        self.hold = None;
        let goes_on = poll_fn(|context| self.poll_turn(context)).await;
        goes_on.then_some(&self.input)
    }

    /// Where the joints are to be in the next tick, as an answer to the newest input: one position a joint of the
    /// embodiment, rad; those of joints that are not driven are passed over.
    ///
    /// # Errors
    /// [`PlayError::Width`].
    pub fn demand(&mut self, positions: &[f32]) -> Result<(), PlayError> {
        let mut slot = self.seat.lock();
        let (width, expected) = (positions.len(), slot.demand.len());
        if width != expected {
            return Err(PlayError::Width { row: 0, width, expected });
        }
        slot.demand.copy_from_slice(positions);
        slot.answers = Some(self.input.tick);
        drop(slot);
        self.hold = None;
        Ok(())
    }

    /// Ends the drive, if it is not over yet, and says how it ended and what the safety filter did meanwhile.
    ///
    /// # Errors
    /// [`RobotError::Link`] if that ended it, [`RobotError::Ended`].
    pub async fn end(mut self) -> Reply<Result<PlayReport, RobotError>> {
        self.seat.leave();
        self.hold = None;
        match self.over.take() {
            Some(over) => over,
            None => (&mut self.playing).await,
        }
    }

    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        if self.over.is_some() {
            return Poll::Ready(false);
        }
        if let Poll::Ready(over) = Pin::new(&mut self.playing).poll(context) {
            self.over = Some(over);
            return Poll::Ready(false);
        }
        let mut slot = self.seat.lock();
        if !slot.fresh {
            slot.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        slot.fresh = false;
        self.hold = slot.hold.take();
        std::mem::swap(&mut slot.input, &mut self.input);
        Poll::Ready(true)
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        self.seat.leave();
    }
}

/// The mailbox between a driver and the loop.
pub(crate) struct Mailbox(SharedSlot<Slot>);

struct Slot {
    input: DriveInput,
    /// The driver has not seen `input`.
    fresh: bool,
    /// Until it has.
    hold: Option<TimeHold>,
    waker: Option<Waker>,
    demand: Vec<f32>,
    /// The tick whose input `demand` answers.
    answers: Option<u64>,
    /// The driver has let go.
    left: bool,
}

impl Mailbox {
    pub fn new(embodiment: &Embodiment) -> Arc<Self> {
        Arc::new(Self(SharedSlot::new(Slot {
            input: DriveInput::sized_for(embodiment),
            fresh: false,
            hold: None,
            waker: None,
            demand: vec![0.0; embodiment.joints.len()],
            answers: None,
            left: false,
        })))
    }

    fn leave(&self) {
        let mut slot = self.lock();
        slot.left = true;
        let hold = slot.hold.take();
        // It wakes the control loop: not under the lock.
        drop(slot);
        drop(hold);
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.0.lock()
    }

    fn visit(&self, pace: Pace) -> Option<MutexGuard<'_, Slot>> {
        self.0.visit(pace)
    }
}

/// What a driver asks of the loop.
pub(crate) struct DriveRequest {
    pub claim: Claim,
    pub seat: Arc<Mailbox>,
    /// Where the loop keeps the newest demand.
    pub demand: Vec<f32>,
    /// Stricter limits than the robot's.
    pub within: Option<Arc<Within>>,
}

/// A driver that drives its joints.
pub(crate) struct Active {
    driven: Box<DriveRequest>,
    started: u64,
    /// The tick whose input the newest demand answers.
    answers: Option<u64>,
    left: bool,
}

impl Task for Active {
    fn claim(&self) -> &Claim {
        &self.driven.claim
    }

    fn claim_mut(&mut self) -> &mut Claim {
        &mut self.driven.claim
    }

    fn spent(self) -> Spent {
        self.driven
    }

    fn within(&self) -> Option<&Arc<Within>> {
        self.driven.within.as_ref()
    }
}

impl Active {
    fn refresh(&mut self, pace: Pace) {
        let Some(slot) = self.driven.seat.visit(pace) else { return };
        self.left |= slot.left;
        if slot.answers > self.answers {
            self.answers = slot.answers;
            self.driven.demand.copy_from_slice(&slot.demand);
        }
    }

    /// Ticks since the one that was answered last.
    fn age(&self, tick: u64) -> u64 {
        tick - self.answers.unwrap_or(self.started)
    }

    fn is_prompt(&self, tick: u64) -> bool {
        self.answers.is_some() && self.age(tick) <= 1
    }
}

/// Every drive of a robot. No two have a joint in common, and none has one with a play.
pub(crate) struct ExternalDrives {
    pub driving: JointHolders<Active>,
    pace: Pace,
    control_hz: f64,
    /// Ticks.
    patience: u64,
}

impl ExternalDrives {
    pub fn new(embodiment: &Embodiment, pace: Pace) -> Self {
        let hz = embodiment.control_hz;
        Self {
            driving: JointHolders::of(embodiment.joints.len()),
            pace,
            control_hz: hz.into(),
            patience: (PATIENCE_S * hz).ceil().max(1.0) as u64,
        }
    }

    /// Lets a driver take over its joints at `tick`; drives that lose a joint end.
    pub fn start(&mut self, driven: Box<DriveRequest>, answer: Answer<PlayReport>, tick: u64, over: &mut Vec<Over>) {
        self.driving.supersede(&driven.claim.joints, over);
        self.driving.add(JointHolder::new(Active { driven, started: tick, answers: None, left: false }, answer));
    }

    /// Adds what the drivers demand at `tick`; drives whose drivers have let go, or are too late, end.
    pub fn demands(&mut self, tick: u64, demands: &mut [Demand], over: &mut Vec<Over>, mut report: impl FnMut(Act)) {
        let Self { driving, pace, control_hz, patience } = self;
        for JointHolder { task: drive, record, .. } in driving.iter_mut() {
            drive.refresh(*pace);
            if drive.left {
                continue;
            }
            if drive.is_prompt(tick) {
                for &joint in &drive.driven.claim.joints {
                    demands[joint] = Demand::To(drive.driven.demand[joint].into());
                }
            } else if tick > drive.started {
                let excess = drive.age(tick) as f64 / *control_hz;
                let act = Act { rule: Rule::CommandAge, response: Response::Hold, joint: None, excess };
                record.note(act, tick);
                report(act);
            }
        }
        driving.end(Ended::Held, over, |drive| drive.left);
        driving.end(Ended::Late, over, |drive| drive.age(tick) > *patience);
    }

    /// Shows the drivers what is known at the end of `tick`.
    pub fn publish(&self, tick: u64, measured: &Measurement, gate: &Arc<Gate>) {
        for drive in self.driving.iter() {
            let Some(mut slot) = drive.driven.seat.visit(self.pace) else { continue };
            if slot.left {
                continue;
            }
            slot.input.copy(tick, measured);
            slot.fresh = true;
            slot.hold = Some(gate.hold_time());
            if let Some(waker) = &slot.waker {
                waker.wake_by_ref();
            }
        }
    }
}
