//! Changing the version of a skill while it works.
//!
//! A new version is instantiated while the old one works. At the old one's next checkpoint the old one waits, and the new
//! one begins with that checkpoint's state. Until the new one has *taken over*, by acquiring a lease or leaving a checkpoint
//! of its own, nothing is lost: if it refuses the state, traps or says nothing in time, the old one goes on as if nothing had
//! happened. After that it is on probation: if it traps, uses up a budget or draws interventions of the safety filter more
//! often than the old one did, the old version begins again from the checkpoint, and the new one is quarantined.
//!
//! An old version that reaches no checkpoint in time is stopped, and the new one begins from the last that it left. A run
//! that never left one keeps its version to its end. What is withdrawn before it has begun was never there.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use waza_package::VersionId;
use waza_robot::{Pending, Robot};

use crate::contract::{Refusal, sentence, types};
use crate::error::SkillError;
use crate::run::activity::{Record, ticks};
use crate::run::events::Event;
use crate::supervisor::Supervisor;
use crate::supervisor::instance::{Answer, Instance};
use crate::supervisor::skills::{Loaded, Offer};

/// How far a run is with changing its version.
pub(super) enum Swap {
    /// No other version is in sight.
    None,
    /// An instance of another waits for the next safe point, for as long as the patience lasts.
    Offered { version: VersionId, patience: Timer },
    /// Another version has begun and has not taken over. The old one waits at its checkpoint, if it reached one.
    Starting { trial: Trial, parked: Option<Box<Instance>>, first_call: Timer },
    /// Another version is in charge, and may still have to go.
    OnProbation { trial: Trial, probation: Timer },
}

/// A version that has not proved itself.
pub(super) struct Trial {
    /// The version before it.
    old: Arc<Loaded>,
    /// What it left.
    state: Vec<u8>,
    record: Record,
    requested: Instant,
}

/// An instant of robot time that a run waits for beside everything else.
pub(super) struct Timer {
    reach: Pending<u64>,
    /// The instant.
    tick: u64,
    is_due: bool,
}

impl Timer {
    fn after(robot: &Robot, span: Duration) -> Self {
        let tick = robot.tick().saturating_add(ticks(span, robot.embodiment().control_hz));
        Self { reach: robot.reach(tick), tick, is_due: false }
    }
}

impl Swap {
    /// The old version, while it waits at its checkpoint.
    pub fn parked(&mut self) -> Option<&mut Instance> {
        match self {
            Self::Starting { parked, .. } => parked.as_deref_mut(),
            _ => None,
        }
    }

    fn timer(&mut self) -> Option<&mut Timer> {
        match self {
            Self::None => None,
            Self::Offered { patience, .. } => Some(patience),
            Self::Starting { first_call, .. } => Some(first_call),
            Self::OnProbation { probation, .. } => Some(probation),
        }
    }
}

impl Supervisor {
    pub(super) fn poll_timer(&mut self, context: &mut Context<'_>) {
        if let Some(timer) = self.swap.timer().filter(|timer| !timer.is_due)
            && let Poll::Ready(reply) = Pin::new(&mut timer.reach).poll(context)
        {
            // A robot whose time has ended reaches no tick any more; then it is time as well.
            let _ = self.job.holds.keep_of(reply);
            timer.is_due = true;
        }
    }

    fn timer(&self, span: Duration) -> Timer {
        Timer::after(&self.services().robot, span)
    }

    /// What the end of the current version means: the end of the run, or another version's turn.
    pub(super) fn answered(&mut self, answer: Answer) -> Option<Result<types::Outcome, SkillError>> {
        if matches!(self.swap, Swap::Starting { .. }) && self.current.call.activity.has_taken_over() {
            self.take_over();
        }
        let ended = self.current.ended(answer);
        let starting = match self.swap {
            Swap::None | Swap::Offered { .. } => return Some(ended),
            Swap::Starting { .. } => true,
            Swap::OnProbation { .. } => false,
        };
        match ended {
            Err(SkillError::Returned { refusal, .. }) if starting || matches!(refusal, Refusal::Invalid(_)) => {
                self.go_back(&format!("it refused the state: {}", sentence(&refusal)), false);
                None
            }
            Err(error) if error.is_the_versions_fault() => {
                self.go_back(&error.to_string(), true);
                None
            }
            ended => Some(ended),
        }
    }

    /// Whether another version begins, goes on, or has proved itself. True: there is more to do before the run waits.
    pub(super) fn decide(&mut self) -> bool {
        let activity = self.current.call.activity.clone();
        match &self.swap {
            Swap::None | Swap::Offered { .. } => self.consider(),
            Swap::Starting { first_call, .. } => {
                // One that neither moves nor leaves checkpoints takes over by working on.
                let is_due = first_call.is_due;
                if activity.has_taken_over() || is_due && activity.first_call().is_some() {
                    self.take_over();
                } else if is_due {
                    let limit = self.services().options.swap.first_call;
                    self.go_back(&format!("it made no call within {limit:?}"), true);
                } else {
                    return false;
                }
                true
            }
            Swap::OnProbation { trial, probation } => {
                let record = activity.record(self.services().robot.tick());
                if record.is_worse_than(trial.record) {
                    let Record { bouts, ticks } = trial.record;
                    let why = format!(
                        "it draws interventions too often: {} bouts in {} ticks, the version before {bouts} in {ticks}",
                        record.bouts, record.ticks
                    );
                    self.go_back(&why, true);
                    true
                } else if probation.is_due && !activity.plays_since(probation.tick) {
                    self.settle();
                    true
                } else {
                    self.go_on_from_checkpoint()
                }
            }
        }
    }

    /// Whether it is time for a version that is offered.
    fn consider(&mut self) -> bool {
        if !self.job.newer.is_set() {
            // What was offered may have been withdrawn.
            self.swap = Swap::None;
            return self.go_on_from_checkpoint();
        }
        let Some(version) = self.skills.offered(self.job.id) else { return self.go_on_from_checkpoint() };
        let is_new = !matches!(&self.swap, Swap::Offered { version: known, .. } if *known == version);
        if is_new {
            let offered = Event::SwapOffered { skill: version.id.clone(), version: version.version.clone() };
            (self.job.events)(offered);
        }
        if self.current.call.safe_point.is_reached() {
            return self.begin_offered() || self.go_on_from_checkpoint();
        }
        match &mut self.swap {
            Swap::Offered { version: known, patience } => {
                *known = version;
                patience.is_due && self.begin_offered()
            }
            _ => {
                let patience = self.timer(self.services().options.swap.patience);
                self.swap = Swap::Offered { version, patience };
                true
            }
        }
    }

    fn go_on_from_checkpoint(&self) -> bool {
        let reached = self.current.call.safe_point.is_reached();
        if reached {
            self.current.call.safe_point.pass();
        }
        reached
    }

    /// Lets the version that is offered begin from the last checkpoint. False: there is no such version any more, or no
    /// checkpoint.
    fn begin_offered(&mut self) -> bool {
        let Some(state) = self.job.checkpoint() else { return false };
        let offer = self.skills.take_offer(&self.job);
        self.swap = Swap::None;
        let Some(Offer { mut instance, version, requested }) = offer else { return false };
        let record = self.current.call.activity.record(self.services().robot.tick());
        let old = self.current.version.clone();
        self.current.call.cpu.pause();
        instance.begin(state.clone());
        let before = std::mem::replace(&mut self.current, instance);
        let parked = if before.call.safe_point.is_reached() {
            Some(Box::new(before))
        } else {
            self.retire(before);
            None
        };
        self.skills.works(&self.job, &version);
        let first_call = self.timer(self.services().options.swap.first_call);
        self.swap = Swap::Starting { trial: Trial { old, state, record, requested }, parked, first_call };
        true
    }

    /// Ends a version whose successor may have what it held.
    fn retire(&self, instance: Instance) {
        self.services().leases.bequeath(self.job.id, instance.call.instance);
        drop(instance);
    }

    /// From here on the new version is in charge, on probation.
    fn take_over(&mut self) {
        let probation = self.timer(self.services().options.swap.probation);
        match std::mem::replace(&mut self.swap, Swap::None) {
            Swap::Starting { trial, parked, .. } => {
                let first_call = self.current.call.activity.first_call();
                let took =
                    first_call.map_or_else(|| trial.requested.elapsed(), |at| at.duration_since(trial.requested));
                if let Some(parked) = parked {
                    self.retire(*parked);
                }
                let from = trial.old.package.manifest.version.clone();
                let to = self.current.package().manifest.version.clone();
                self.swap = Swap::OnProbation { trial, probation };
                (self.job.events)(Event::Swapped { skill: self.skill(), from, to, took });
            }
            other => self.swap = other,
        }
    }

    /// The new version has proved itself.
    fn settle(&mut self) {
        self.swap = Swap::None;
        self.services().leases.settle(self.job.id);
        let version = self.current.package().manifest.version.clone();
        (self.job.events)(Event::SwapSettled { skill: self.skill(), version });
    }

    /// The version before returns: from where it waits, or from its checkpoint.
    fn go_back(&mut self, why: &str, is_a_fault: bool) {
        let (trial, parked) = match std::mem::replace(&mut self.swap, Swap::None) {
            Swap::Starting { trial, parked, .. } => (trial, parked),
            Swap::OnProbation { trial, .. } => (trial, None),
            other => {
                self.swap = other;
                return;
            }
        };
        let Trial { old, state, .. } = trial;
        let condemned = self.current.package().clone();
        match parked {
            Some(parked) => {
                parked.call.cpu.resume();
                parked.call.safe_point.pass();
                drop(std::mem::replace(&mut self.current, *parked));
            }
            None => {
                self.services().leases.hold(self.job.id);
                let services = self.services();
                let again = Instance::new(services, &old, &self.job, Some(state.clone()));
                let failed = std::mem::replace(&mut self.current, again);
                self.retire(failed);
                // The new version may have left checkpoints that the old one cannot read.
                // Nobody waits for it; where it fails, whoever writes says so.
                let _ = self.job.write(&old.package, &state);
                self.job.keep(state);
            }
        }
        self.skills.works(&self.job, &old);
        self.job.refuse(condemned.digest);
        if is_a_fault {
            self.skills.condemn(&condemned, &old, why);
        }
        let (from, to) = (condemned.manifest.version.clone(), old.package.manifest.version.clone());
        (self.job.events)(Event::RolledBack { skill: self.skill(), from, to, why: why.into() });
    }
}
