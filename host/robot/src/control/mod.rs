//! The control loop: reads the link, advances the player, runs the safety filter, writes the link, once a tick.
//!
//! It runs on a thread of its own and waits for nothing but the link and the next tick. If nothing drives a joint it
//! holds; if the link fails every play ends, the arm brakes, and the loop tries again in the next tick.

#[cfg(test)]
mod allocation;
pub mod external_drive;
mod history;
pub(crate) mod inbox;
mod joint_holders;
pub mod play;
pub(crate) mod player;
pub mod stop;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::{self, Metronome, Pace, Start, Stopwatch};
use crate::control::external_drive::Drives;
use crate::control::history::History;
use crate::control::inbox::{Answer, Command, Inbox};
use crate::control::joint_holders::{Over, Task};
use crate::control::play::{Ended, PlayReport};
use crate::control::player::Player;
use crate::link::{self, Link, LinkError};
use crate::observation::{Frame, Measurement, Observation};
use crate::robot::{RobotError, RobotOptions, Shared};
use crate::safety::filter::{Demand, Filter};
use crate::safety::{Act, Response, Rule};

pub(crate) struct ControlLoop {
    link: Box<dyn Link>,
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    pace: Pace,
    tick: u64,
    /// The state of the host stop that the loop has acted on.
    stops: u64,
    measured: Measurement,
    /// Why the link failed in the newest tick.
    down: Option<LinkError>,
    histories: Vec<History>,
    /// The number of each camera's newest frame, and the tick in which it was first seen.
    frames: Vec<Option<(u64, u64)>>,
    /// Cameras of which it was said that they are frozen.
    frozen: BTreeSet<String>,
    player: Player,
    drives: Drives,
    filter: Filter,
    demands: Vec<Demand>,
    /// The last tick in which each rule acted.
    acted: Acted,
    commands: Vec<Command>,
    observers: Vec<Answer<Arc<Observation>>>,
    /// What they see, to be answered at the end of the tick.
    observed: Option<Result<Arc<Observation>, LinkError>>,
    waiters: Vec<(u64, Answer<u64>)>,
    /// Plays that are over, to be answered at the end of the tick.
    over: Vec<Over>,
}

impl ControlLoop {
    pub fn new(
        mut link: Box<dyn Link>,
        options: RobotOptions,
        inbox: Arc<Inbox>,
        shared: Arc<Shared>,
    ) -> Result<Self, LinkError> {
        let embodiment = shared.embodiment.clone();
        let measured = link.read()?;
        link::check(&measured, &embodiment)?;
        let this = Self {
            link,
            inbox,
            pace: options.pace,
            tick: 0,
            stops: 0,
            down: None,
            histories: embodiment.sensors.iter().map(|it| History::new(it, embodiment.control_hz)).collect(),
            frames: vec![None; embodiment.cameras.len()],
            frozen: BTreeSet::new(),
            player: Player::new(&embodiment),
            drives: Drives::new(&embodiment, options.pace),
            filter: Filter::new(&embodiment, options.kinematics, options.guard, &measured.joints.positions),
            measured,
            demands: vec![Demand::Hold; embodiment.joints.len()],
            acted: [None; Rule::ALL.len()],
            commands: Vec::new(),
            observers: Vec::new(),
            observed: None,
            waiters: Vec::new(),
            over: Vec::new(),
            shared,
        };
        this.publish();
        Ok(this)
    }

    /// Ticks until the last handle is gone and the robot stands.
    pub fn run(mut self) {
        let period = clock::period(self.shared.embodiment.control_hz);
        if self.pace == Pace::RealTime
            && let Err(error) = crate::priority::before_all()
        {
            tracing::warn!("the control loop has no real-time priority ({error}); it may be late on a busy machine");
        }
        let mut metronome = Metronome::new(period);
        loop {
            let start = match self.pace {
                Pace::RealTime => metronome.wait(),
                Pace::Lockstep => Start { late: Duration::ZERO, missed: 0, jumped: false },
            };
            let drives = !(self.player.playing.is_idle() && self.drives.driving.is_idle());
            let busy = drives || !(self.filter.stands() && self.waiters.is_empty() && self.commands.is_empty());
            let open = self.inbox.take(&mut self.commands, busy, self.stops);
            if !open {
                self.player.playing.abandon().chain(self.drives.driving.abandon()).for_each(drop);
                if self.filter.stands() {
                    return;
                }
            }
            let stopwatch = Stopwatch::start(self.pace);
            if start.jumped {
                self.hold_after_jump();
            }
            self.step();
            let work = stopwatch.elapsed();
            raise(&self.shared.longest_work_ns, work);
            raise(&self.shared.latest_start_ns, start.late);
            let overrun = u64::from(self.pace == Pace::Lockstep && work > period);
            self.shared.missed.fetch_add(start.missed + overrun, Ordering::Release);
            self.publish();
            self.answer();
        }
    }

    /// Ends every play: what was asked before the clock jumped may be of another day.
    fn hold_after_jump(&mut self) {
        tracing::error!(tick = self.tick, "the clock jumped; the robot holds");
        let Self { tick, player, drives, acted, shared, over, .. } = self;
        let next = *tick + 1;
        let act = Act { rule: Rule::ClockJump, response: Response::Hold, joint: None, excess: 0.0 };
        count(act, next, acted, shared);
        player.playing.interrupt(act, next, over);
        drives.driving.interrupt(act, next, over);
    }

    /// One tick, but for its answers.
    fn step(&mut self) {
        self.tick += 1;
        let mut failure = self.read().err();
        if let Some(error) = &failure {
            self.give_up(error);
        }
        let stops = self.inbox.stops();
        let stopping = stops != self.stops;
        // What was asked while a stop came in waits a tick, so that the stop is told to what it ended, and no other.
        if !stopping {
            self.obey(&failure);
        }
        self.filter.latch(stopping || stops % 2 == 1);
        self.observe(&failure);
        self.move_on(&failure);
        if stopping {
            self.stops = stops;
            self.player.playing.stop(&mut self.over);
            self.drives.driving.stop(&mut self.over);
        }
        if let Err(error) = self.link.write(self.filter.command()) {
            self.give_up(&error);
            failure.get_or_insert(error);
        }
        match (&self.down, &failure) {
            (None, Some(error)) => {
                tracing::error!(tick = self.tick, "{error}; the robot holds, and the link is retried")
            }
            (Some(_), None) => tracing::info!(tick = self.tick, "the robot link is back"),
            _ => {}
        }
        self.down = failure;
    }

    fn read(&mut self) -> Result<(), LinkError> {
        let measured = self.link.read()?;
        link::check(&measured, &self.shared.embodiment)?;
        self.measured = measured;
        for (history, sample) in self.histories.iter_mut().zip(&self.measured.samples) {
            history.push(self.tick, sample);
        }
        let positions = &self.measured.joints.positions;
        if self.down.is_some() && link::moved(positions, self.filter.command()) {
            self.filter.continue_from(positions);
        }
        Ok(())
    }

    /// Ends every play because the link failed.
    fn give_up(&mut self, error: &LinkError) {
        self.shared.link_errors.fetch_add(1, Ordering::Release);
        let abandoned = self.player.playing.abandon().chain(self.drives.driving.abandon());
        self.over.extend(abandoned.map(|answer| (answer, Err(error.clone().into()))));
    }

    fn obey(&mut self, failure: &Option<LinkError>) {
        let mut commands = std::mem::take(&mut self.commands);
        for command in commands.drain(..) {
            match command {
                Command::Observe(answer) => self.observers.push(answer),
                Command::Reach(tick, answer) => self.waiters.push((tick, answer)),
                Command::Hold(joints) => {
                    self.player.playing.hold(&joints, &mut self.over);
                    self.drives.driving.hold(&joints, &mut self.over);
                }
                Command::Play(play, answer) => match self.refusal(play.stops, failure) {
                    Some(refusal) => self.over.push((answer, refusal)),
                    None => {
                        let Self { player, filter, acted, shared, over, .. } = self;
                        let (tick, filter) = (self.tick, &*filter);
                        let report = |act| count(act, tick, acted, shared);
                        player.start(play, answer, tick, |joint| filter.state(joint), over, report);
                        self.drives.driving.end(Ended::Superseded, over, |drive| {
                            drive.joints().iter().any(|&joint| player.playing.of_joint(joint).is_some())
                        });
                    }
                },
                Command::Drive(driven, answer) => match self.refusal(driven.stops, failure) {
                    Some(refusal) => self.over.push((answer, refusal)),
                    None => {
                        self.player.playing.supersede(&driven.joints, &mut self.over);
                        self.drives.start(driven, answer, self.tick, &mut self.over);
                    }
                },
            }
        }
        self.commands = commands;
    }

    /// Why nothing may begin to move: `stops` is the state of the host stop when it was asked.
    fn refusal(&self, stops: u64, failure: &Option<LinkError>) -> Option<Result<PlayReport, RobotError>> {
        if let Some(error) = failure {
            return Some(Err(error.clone().into()));
        }
        let stopped = stops != self.stops || self.stops % 2 == 1;
        stopped.then(|| Ok(PlayReport { ended: Ended::Stopped, interventions: Vec::new() }))
    }

    /// Gives the observers this moment. Frames are taken now, before the command moves anything.
    fn observe(&mut self, failure: &Option<LinkError>) {
        if self.observers.is_empty() {
            return;
        }
        self.observed = Some(match failure {
            Some(error) => Err(error.clone()),
            None => self.observation().map(Arc::new),
        });
    }

    fn observation(&mut self) -> Result<Observation, LinkError> {
        let embodiment = &self.shared.embodiment;
        let frames = self.link.capture()?;
        let (got, expected) = (frames.len(), embodiment.cameras.len());
        if got != expected {
            return Err(LinkError(format!("{got} frames came from {expected} cameras")));
        }
        let tick = self.tick;
        let age = |(frame, known): (&Frame, &mut Option<(u64, u64)>)| {
            *known = frame.number().map(|number| match *known {
                Some((same, since)) if same == number => (same, since),
                _ => (number, tick),
            });
            known.map(|(_, since)| clock::tick_ns(tick - since, embodiment.control_hz))
        };
        let frame_ages_ns = frames.iter().zip(&mut self.frames).map(age).collect();
        let seen = Observation {
            tick,
            taken_ns: clock::tick_ns(tick, embodiment.control_hz),
            joints: self.measured.joints.clone(),
            frames,
            frame_ages_ns,
            windows: self.histories.iter().map(History::window).collect(),
        };
        let frozen: BTreeSet<_> = seen.frozen(embodiment).map(String::from).collect();
        for camera in frozen.difference(&self.frozen) {
            tracing::warn!(tick, camera, "the camera is frozen");
        }
        for camera in self.frozen.difference(&frozen) {
            tracing::info!(tick, camera, "the camera has a new frame");
        }
        self.frozen = frozen;
        Ok(seen)
    }

    /// From plays to the command of this tick.
    fn move_on(&mut self, failed: &Option<LinkError>) {
        let Self { tick, player, drives, filter, demands, measured, acted, shared, over, .. } = self;
        let tick = *tick;
        player.demands(tick, demands, |act| count(act, tick, acted, shared));
        drives.demands(tick, demands, over, |act| count(act, tick, acted, shared));
        filter.keep_within(player.playing.limits().chain(drives.driving.limits()));
        // A reading that did not come says nothing about now.
        if failed.is_none() {
            filter.feel(measured);
        }
        filter.step(demands, |act| {
            count(act, tick, acted, shared);
            player.playing.note(act, tick);
            drives.driving.note(act, tick);
        });
        player.playing.end_refused(over);
        drives.driving.end_refused(over);
        player.end_finished(tick, |joint| filter.rests(joint), over);
    }

    /// Lets handles see this tick; before the answers, so that whoever is answered sees it.
    fn publish(&self) {
        for (shown, position) in self.shared.commanded.iter().zip(self.filter.command()) {
            shown.store(position.to_bits(), Ordering::Release);
        }
        self.shared.tick.store(self.tick, Ordering::Release);
    }

    fn answer(&mut self) {
        for (answer, report) in self.over.drain(..) {
            self.inbox.reply(answer, report);
        }
        if let Some(observed) = self.observed.take() {
            for answer in self.observers.drain(..) {
                self.inbox.reply(answer, observed.clone().map_err(RobotError::from));
            }
        }
        let tick = self.tick;
        self.drives.publish(tick, &self.measured, &self.inbox);
        for (_, answer) in self.waiters.extract_if(.., |(awaited, _)| *awaited <= tick) {
            self.inbox.reply(answer, Ok(tick));
        }
    }
}

impl Drop for ControlLoop {
    fn drop(&mut self) {
        self.inbox.end();
    }
}

type Acted = [Option<u64>; Rule::ALL.len()];

/// Counts a rule that begins to act.
fn count(act: Act, tick: u64, acted: &mut Acted, shared: &Shared) {
    let last = acted[act.rule as usize].replace(tick);
    if last.is_none_or(|last| last + 1 < tick) {
        shared.interventions[act.rule as usize].fetch_add(1, Ordering::Release);
    }
}

fn raise(counter: &AtomicU64, to: Duration) {
    counter.fetch_max(u64::try_from(to.as_nanos()).unwrap_or(u64::MAX), Ordering::Release);
}
