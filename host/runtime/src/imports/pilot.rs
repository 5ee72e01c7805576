//! How an engaged controller drives the joints of a lease.
//!
//! Each engaged controller is called on a thread of its own, once a tick; [`waza_robot::drive`] says what becomes of a
//! tick in which it is late. Between two ticks a newer version gets what the older one says is its state, and answers the
//! next. The older one is kept until the newer has stood its probation: if the newer refuses the state, traps, takes too long
//! or answers nonsense, the older answers that very tick, from the state that it had, and the newer is withdrawn; if it did
//! anything but refuse the state, it is quarantined too. What fails later, with nothing to go back to, ends, and has a strike.

use std::sync::Arc;

use futures_channel::mpsc;
use futures_util::StreamExt;
use parking_lot::Mutex;
use pollster::block_on;
use waza_package::{Manifest, SkillId};
use waza_robot::safety::PATIENCE_S;
use waza_robot::{Drive, DriveInput, Ended, PlayReport, Reply, RobotError};

use crate::contract::{Refusal, motion};
use crate::controllers::instance::Input;
use crate::controllers::{Engagement, Version, instantiate};
use crate::error::SkillError;
use crate::imports::Call;
use crate::leases::{Lease, Motion};
use crate::run::events::{ControllerChange, Event};
use crate::run::services::Services;

/// Values of a goal.
const LONGEST_GOAL: usize = 4096;

/// What a skill has not been told yet is kept up to so many entries.
const MOST_UNREPORTED: usize = 64;

/// What a run's controllers did, for the skill's next motion to say.
#[derive(Default)]
pub(crate) struct Unreported(Mutex<Vec<motion::Intervention>>);

impl Unreported {
    fn keep(&self, told: motion::Intervention) {
        let mut unreported = self.0.lock();
        if unreported.len() < MOST_UNREPORTED {
            unreported.push(told);
        }
    }

    pub fn take(&self) -> Vec<motion::Intervention> {
        std::mem::take(&mut *self.0.lock())
    }
}

/// Lets a controller drive the joints of a lease until something else does.
pub(crate) fn engage(context: &Arc<Call>, lease: &Lease, name: &str, goal: Vec<f32>) -> Result<(), Refusal> {
    if goal.len() > LONGEST_GOAL {
        let what = format!("the goal has {} values, it may have {LONGEST_GOAL}", goal.len());
        return Err(Refusal::Invalid(what));
    }
    if let Some(value) = goal.iter().find(|value| !value.is_finite()) {
        return Err(Refusal::Invalid(format!("the goal holds {value}; its values must be finite")));
    }
    let call = context.meter.call()?;
    let services = &context.services;
    let (installed, engagement) = services.controllers.engage(name)?;
    let failed = |error: String| Refusal::Failed(error);
    SkillError::unless_quarantined(&installed.version(), &services.quarantine)
        .map_err(|error| Refusal::Unavailable(error.to_string()))?;
    let mut controller = instantiate(&installed, &services.engines, services.robot.embodiment(), &services.memory)
        .map_err(|error| failed(error.to_string()))?;
    controller.start("", None).map_err(|error| {
        error.judge(&installed.version(), &services.quarantine);
        failed(error.to_string())
    })?;
    let motion = lease.begin()?;
    let drive = services.robot.drive_under(motion.joints(), context.skill.within.clone(), motion.fence())?;
    let (sender, notes) = mpsc::unbounded();
    let hz = services.robot.embodiment().control_hz;
    let pilot = Pilot {
        services: services.clone(),
        motion,
        engagement,
        goal,
        current: Version { controller, installed },
        before: None,
        probation: (services.options.controller_probation.as_secs_f64() * f64::from(hz)).ceil() as u64,
        notes: sender,
    };
    std::thread::Builder::new()
        .name(format!("waza-drive-{name}"))
        .spawn(move || pilot.fly(drive))
        .map_err(|error| failed(format!("the system gave no thread: {error}")))?;
    context.spawn(call, tell(context.clone(), notes));
    Ok(())
}

/// What a pilot has to say; the run says it, on its own thread.
enum Note {
    Changed(Event),
    Over { controller: SkillId, version: semver::Version, why: Option<String>, report: Option<PlayReport> },
}

/// Calls a controller once a tick.
struct Pilot {
    services: Arc<Services>,
    /// Whoever wants the joints is told that they move. The lease ends with the run all the same.
    motion: Motion,
    engagement: Arc<Engagement>,
    goal: Vec<f32>,
    current: Version,
    /// The version before, and the tick from which it is not needed any more.
    before: Option<(Version, u64)>,
    /// Ticks.
    probation: u64,
    notes: mpsc::UnboundedSender<Reply<Note>>,
}

impl Pilot {
    fn fly(mut self, mut drive: Drive) {
        let failure = loop {
            let Some(seen) = block_on(drive.next()) else { break None };
            let (tick, input) = (seen.tick, self.input(seen));
            if self.motion.check_lease().is_err() {
                break None;
            }
            match self.change_hands(tick).and_then(|()| self.answer(&input)) {
                // As wide as the robot: the controller's answers have been checked.
                Ok(positions) => drop(drive.demand(&positions)),
                Err(error) => {
                    self.services.quarantine.strike(&self.current.installed.version(), error.to_string());
                    break Some(error.to_string());
                }
            }
            self.before = self.before.take().filter(|(_, until)| tick < *until);
        };
        let Reply { value, hold } = block_on(drive.end());
        let (why, report) = match value {
            Ok(report) if report.ended == Ended::Late => {
                (Some(format!("it did not answer for {PATIENCE_S} s")), Some(report))
            }
            Ok(report) => (None, Some(report)),
            // Whoever ended the control loop knows.
            Err(RobotError::Ended) => (None, None),
            Err(error) => (Some(error.to_string()), None),
        };
        let Manifest { id, version, .. } = self.current.installed.manifest.clone();
        let over = Note::Over { controller: id, version, why: failure.or(why), report };
        // A run that has ended is told nothing.
        let _ = self.notes.unbounded_send(Reply { value: over, hold });
    }

    fn input(&self, seen: &DriveInput) -> Input {
        Input {
            at: self.services.robot.tick_ns(seen.tick),
            positions: seen.joints.positions.clone(),
            velocities: seen.joints.velocities.clone(),
            efforts: seen.joints.efforts.clone(),
            samples: seen.samples.clone(),
            goal: self.goal.clone(),
        }
    }

    /// Lets a newer version take over, if one is offered and no other is on probation. An error is the current one's.
    fn change_hands(&mut self, tick: u64) -> Result<(), SkillError> {
        if self.before.is_some() {
            return Ok(());
        }
        let Some(mut next) = self.engagement.offer.lock().take() else { return Ok(()) };
        let state = self.current.controller.state()?;
        match next.controller.start("", Some(&state)) {
            Ok(()) => {
                let from = self.current.installed.manifest.version.clone();
                let to = next.installed.manifest.version.clone();
                let before = std::mem::replace(&mut self.current, next);
                self.before = Some((before, tick + self.probation));
                self.note(ControllerChange::Swapped { from, to });
            }
            Err(error) => {
                self.refuse(&next, &error);
                if error.is_the_versions_fault() {
                    self.services.quarantine.condemn(&next.installed.version(), &error.to_string());
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, input: &Input) -> Result<Vec<f32>, SkillError> {
        let error = match self.current.controller.tick(input) {
            Ok(positions) => return Ok(positions),
            Err(error) => error,
        };
        let Some((before, _)) = self.before.take() else { return Err(error) };
        let failed = std::mem::replace(&mut self.current, before);
        // The tick first: whoever judges may take longer than it lasts.
        let answered = self.current.controller.tick(input);
        self.refuse(&failed, &error);
        self.services.quarantine.condemn(&failed.installed.version(), &error.to_string());
        answered
    }

    fn refuse(&self, failed: &Version, error: &SkillError) {
        self.services.controllers.withdraw(&failed.installed, &self.current.installed);
        self.note(ControllerChange::Kept {
            version: self.current.installed.manifest.version.clone(),
            refused: failed.installed.manifest.version.clone(),
            why: error.to_string(),
        });
    }

    fn note(&self, change: ControllerChange) {
        let event = Event::Controller { controller: self.engagement.controller.clone(), change };
        // A run that has ended is told nothing.
        let _ = self.notes.unbounded_send(Reply { value: Note::Changed(event), hold: self.services.robot.hold_time() });
    }
}

/// Hands on what a pilot has to say, until it has ended.
async fn tell(context: Arc<Call>, mut notes: mpsc::UnboundedReceiver<Reply<Note>>) {
    let robot = context.robot();
    while let Some(note) = notes.next().await {
        match context.holds.keep_of(note) {
            Note::Changed(event) => (context.events)(event),
            Note::Over { controller, version, why, report } => {
                for it in report.into_iter().flat_map(|report| report.interventions) {
                    (context.events)(Event::Intervention(it));
                    context.unreported.keep(crate::imports::motion::intervention(&context, it));
                }
                if let Some(why) = why {
                    let at = robot.tick_ns(robot.tick());
                    let detail = format!("{controller} {version} drives no more: {why}");
                    context.unreported.keep(motion::Intervention { at, rule: "controller".into(), detail });
                    let change = ControllerChange::Ended { version, why };
                    (context.events)(Event::Controller { controller, change });
                }
            }
        }
    }
}
