//! The control loop: reads the link, advances the player, runs the safety filter, writes the link, once a tick.
//!
//! It runs on a thread of its own and waits for nothing but the link and the next tick. If nothing drives a joint it
//! holds; if the link fails every play ends, the arm brakes, and the loop tries again in the next tick.
//!
//! A tick allocates and frees nothing, its answers included, if its link does not; `allocation.rs` counts. The simulator's
//! physics do, in each step; a robot in another process costs nothing here. What is asked and
//! answered lies in memory that handles make and free. But for: an observation, which is new each time; a failure of the
//! link, which is told in words; and a tick in which more is asked or ends than ever before and than there is room for from
//! the start. It logs only when something changes: a link that fails or is back, a camera that freezes or goes on, a clock
//! that leaps.

#[cfg(test)]
mod allocation;
pub(crate) mod answer;
pub mod external_drive;
pub(crate) mod fence;
pub(crate) mod gate;
mod history;
pub(crate) mod inbox;
pub(crate) mod joint_holders;
pub mod play;
pub(crate) mod player;
mod shared_slot;
pub mod stop;
mod waiters;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use self::answer::Answer;
use self::external_drive::{DriveRequest, ExternalDrives};
use self::fence::Fences;
use self::gate::Gate;
use self::history::History;
use self::inbox::Inbox;
use self::joint_holders::{Claim, Over, Task};
use self::play::{Ended, PlayReport};
use self::player::{Player, Prepared};
use self::waiters::{Waiter, Waiters};
use crate::clock::{self, Metronome, Pace, Start, Stopwatch};
use crate::embodiment::Embodiment;
use crate::error::{LinkError, RobotError};
use crate::link::{self, Lags, Link};
use crate::observation::{Frame, Measurement, Observation, is_frozen};
use crate::safety::filter::{Demand, Filter};
use crate::safety::{Act, Guard, Kinematics, Response, Rule};

/// What a control loop needs beside an embodiment and a link.
pub struct RobotOptions {
    /// How fast robot time passes.
    pub pace: Pace,
    /// The arm's forward kinematics: the workspace limit cannot be kept without.
    pub kinematics: Box<dyn Kinematics>,
    /// Whether the safety filter acts; [`Guard::Off`] is for simulated links only.
    pub guard: Guard,
}

/// What the control loop publishes at the end of every tick.
pub(crate) struct Shared {
    pub embodiment: Arc<Embodiment>,
    pub tick: AtomicU64,
    /// Bits of an `f32` each.
    pub commanded: Box<[AtomicU32]>,
    pub missed: AtomicU64,
    pub longest_work_ns: AtomicU64,
    pub latest_start_ns: AtomicU64,
    pub link_errors: AtomicU64,
    pub interventions: [AtomicU64; Rule::ALL.len()],
    pub link_interventions: [AtomicU64; Rule::ALL.len()],
}

impl Shared {
    pub fn new(embodiment: Arc<Embodiment>) -> Self {
        Self {
            tick: AtomicU64::new(0),
            commanded: embodiment.joints.iter().map(|_| AtomicU32::new(0)).collect(),
            missed: AtomicU64::new(0),
            longest_work_ns: AtomicU64::new(0),
            latest_start_ns: AtomicU64::new(0),
            link_errors: AtomicU64::new(0),
            interventions: Default::default(),
            link_interventions: Default::default(),
            embodiment,
        }
    }
}

/// What handles ask of the loop. What cannot wait for its turn, the host stop and holds, is no command: the loop finds it in
/// [`Gate`] and [`Fences`].
pub(crate) enum Command {
    Observe(Answer<Arc<Observation>>),
    Reach(u64, Answer<u64>),
    Play(Box<Prepared>, Answer<PlayReport>, Waiting),
    Drive(Box<DriveRequest>, Answer<PlayReport>, Waiting),
}

/// A play or drive that the loop has not taken. Nobody withdraws one, and it may be large: only so many can wait.
pub(crate) struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    /// More plays and drives cannot wait for one tick.
    pub const MOST: usize = 256;

    /// One more of them, if there is room.
    pub fn one_of(all: &Arc<AtomicUsize>) -> Option<Self> {
        let one_more = |waiting: usize| (waiting < Self::MOST).then_some(waiting + 1);
        all.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        Some(Self(all.clone()))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Command {
    /// Answers it from where it was asked.
    pub fn refuse(self, why: RobotError) {
        match self {
            Self::Observe(answer) => answer.send(Err(why), None),
            Self::Reach(_, answer) => answer.send(Err(why), None),
            Self::Play(_, answer, _) | Self::Drive(_, answer, _) => answer.send(Err(why), None),
        }
    }
}

/// For so many commands, waiters and ends of plays there is room from the start: only a tick in which there are more of them
/// than ever before allocates.
const ROOM: usize = 1024;

pub(crate) struct ControlLoop {
    link: Box<dyn Link>,
    gate: Arc<Gate>,
    inbox: Arc<Inbox<Command>>,
    fences: Arc<Fences>,
    shared: Arc<Shared>,
    pace: Pace,
    tick: u64,
    /// The state of the host stop that the loop has acted on.
    stops: u64,
    /// How many fences it has acted on.
    raised: u64,
    measured: Measurement,
    /// Where the next measurement is read into.
    incoming: Measurement,
    lags: Lags,
    /// Why the link failed in the newest tick.
    down: Option<LinkError>,
    histories: Vec<History>,
    /// The number of each camera's newest frame, and the tick in which it was first seen.
    frames: Vec<Option<(u64, u64)>>,
    /// Of each camera, whether it was said that it is frozen.
    frozen: Vec<bool>,
    player: Player,
    drives: ExternalDrives,
    filter: Filter,
    demands: Vec<Demand>,
    /// The last tick in which each rule acted.
    acted: Acted,
    commands: Vec<(u64, Command)>,
    observers: Vec<Answer<Arc<Observation>>>,
    /// What they see, to be answered at the end of the tick.
    observed: Option<Result<Arc<Observation>, LinkError>>,
    waiters: Waiters,
    /// Plays that are over, to be answered at the end of the tick.
    over: Vec<Over>,
}

impl ControlLoop {
    pub fn new(
        mut link: Box<dyn Link>,
        options: RobotOptions,
        inbox: (Arc<Gate>, Arc<Inbox<Command>>, Arc<Fences>),
        shared: Arc<Shared>,
    ) -> Result<Self, LinkError> {
        let embodiment = shared.embodiment.clone();
        let (gate, inbox, fences) = inbox;
        let measured = link.read()?;
        link::check(&measured, &embodiment)?;
        let found = link.found();
        let commanded = found.as_ref().map_or(&measured.joints.positions, |found| &found.commanded);
        gate.catch_up(found.as_ref().map_or(0, |found| found.stops));
        let mut lags = Lags::default();
        lags.note(&measured.joints.positions, commanded);
        let this = Self {
            stops: gate.stops(),
            link,
            gate,
            inbox,
            fences,
            pace: options.pace,
            tick: 0,
            raised: 0,
            down: None,
            histories: embodiment.sensors.iter().map(|it| History::new(it, embodiment.control_hz)).collect(),
            frames: vec![None; embodiment.cameras.len()],
            frozen: vec![false; embodiment.cameras.len()],
            player: Player::new(&embodiment),
            drives: ExternalDrives::new(&embodiment, options.pace),
            filter: Filter::new(&embodiment, options.kinematics, options.guard, commanded),
            incoming: measured.clone(),
            measured,
            lags,
            demands: vec![Demand::Hold; embodiment.joints.len()],
            acted: [None; Rule::ALL.len()],
            commands: Vec::with_capacity(ROOM),
            observers: Vec::with_capacity(ROOM),
            observed: None,
            waiters: Waiters::new(ROOM),
            over: Vec::with_capacity(ROOM),
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
            self.listen();
            if !self.gate.is_open() {
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

    /// Takes what was asked; in lockstep, when there is a reason for a tick.
    fn listen(&mut self) {
        let Self { gate, inbox, fences, commands, waiters, player, drives, filter, .. } = self;
        let moves = !(player.playing.is_idle() && drives.driving.is_idle() && filter.stands());
        let (stops, raised, left) = (self.stops, self.raised, !commands.is_empty());
        let reason = || {
            moves || left || waiters.any() || !inbox.is_empty() || gate.stops() != stops || fences.raised() != raised
        };
        gate.pass(reason, || inbox.take(commands));
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
        let stops = self.gate.stops();
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
        // Before they go back to whoever asked, with what has ended.
        self.filter.let_go();
        self.link.keep(stops);
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
        self.link.read_into(&mut self.incoming)?;
        link::check(&self.incoming, &self.shared.embodiment)?;
        std::mem::swap(&mut self.measured, &mut self.incoming);
        for (history, sample) in self.histories.iter_mut().zip(&self.measured.samples) {
            history.push(self.tick, sample);
        }
        let positions = &self.measured.joints.positions;
        if let Some(found) = self.link.found() {
            // Another host may have had the robot meanwhile.
            self.gate.catch_up(found.stops);
            self.filter.continue_from(&found.commanded);
        } else if self.down.is_some() {
            self.lags.resume(positions, &mut self.filter);
        }
        self.lags.note(positions, self.filter.command());
        Ok(())
    }

    /// Ends every play because the link failed.
    fn give_up(&mut self, error: &LinkError) {
        self.shared.link_errors.fetch_add(1, Ordering::Release);
        let abandoned = self.player.playing.abandon().chain(self.drives.driving.abandon());
        self.over.extend(abandoned.map(|(answer, spent)| Over { answer, report: Err(error.clone().into()), spent }));
    }

    fn obey(&mut self, failure: &Option<LinkError>) {
        self.raised = self.fences.raised();
        self.player.playing.revoke(&self.fences, &mut self.over);
        self.drives.driving.revoke(&self.fences, &mut self.over);
        let mut commands = std::mem::take(&mut self.commands);
        for (number, command) in commands.drain(..) {
            match command {
                Command::Observe(answer) if answer.is_withdrawn() => {}
                Command::Observe(answer) => self.observers.push(answer),
                Command::Reach(tick, answer) => self.waiters.add(Waiter { tick, number, answer }),
                Command::Play(play, answer, waiting) => {
                    drop(waiting);
                    self.play(play, answer, failure);
                }
                Command::Drive(request, answer, waiting) => {
                    drop(waiting);
                    self.drive(request, answer, failure);
                }
            }
        }
        self.commands = commands;
    }

    fn play(&mut self, play: Box<Prepared>, answer: Answer<PlayReport>, failure: &Option<LinkError>) {
        if let Some(report) = self.refusal(&play.claim, failure) {
            self.over.push(Over { answer, report, spent: play });
            return;
        }
        let Self { player, filter, acted, shared, over, .. } = self;
        let (tick, filter) = (self.tick, &*filter);
        let report = |act| count(act, tick, acted, shared);
        player.start(play, answer, tick, |joint| filter.state(joint), over, report);
        self.drives.driving.end(Ended::Superseded, over, |drive| {
            drive.joints().iter().any(|&joint| player.playing.of_joint(joint).is_some())
        });
    }

    fn drive(&mut self, request: Box<DriveRequest>, answer: Answer<PlayReport>, failure: &Option<LinkError>) {
        if let Some(report) = self.refusal(&request.claim, failure) {
            self.over.push(Over { answer, report, spent: request });
            return;
        }
        self.player.playing.supersede(&request.claim.joints, &mut self.over);
        self.drives.start(request, answer, self.tick, &mut self.over);
    }

    /// Why what was asked may not begin to move anything.
    fn refusal(&self, claim: &Claim, failure: &Option<LinkError>) -> Option<Result<PlayReport, RobotError>> {
        if let Some(error) = failure {
            return Some(Err(error.clone().into()));
        }
        let stopped = claim.stops != self.stops || self.stops % 2 == 1;
        let ended = match (stopped, claim.is_revoked(&self.fences)) {
            (true, _) => Ended::Stopped,
            (false, true) => Ended::Held,
            (false, false) => return None,
        };
        Some(Ok(PlayReport { ended, interventions: Vec::new() }))
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
        for ((camera, age), known) in embodiment.cameras.iter().zip(&seen.frame_ages_ns).zip(&mut self.frozen) {
            let frozen = is_frozen(camera, *age);
            match (std::mem::replace(known, frozen), frozen) {
                (false, true) => tracing::warn!(tick, camera = %camera.name, "the camera is frozen"),
                (true, false) => tracing::info!(tick, camera = %camera.name, "the camera has a new frame"),
                _ => {}
            }
        }
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
        for (shown, times) in self.shared.link_interventions.iter().zip(self.link.interventions().into_iter().flatten())
        {
            shown.store(*times, Ordering::Release);
        }
        self.shared.tick.store(self.tick, Ordering::Release);
    }

    fn answer(&mut self) {
        for Over { answer, report, spent } in self.over.drain(..) {
            answer.send(report, Some(spent));
        }
        let last = self.observers.len().saturating_sub(1);
        for (index, answer) in self.observers.drain(..).enumerate() {
            // The last gets the loop's own, so that it is not the loop that frees it.
            let seen = if index == last { self.observed.take() } else { self.observed.clone() };
            if let Some(seen) = seen {
                answer.send(seen.map_err(RobotError::from), None);
            }
        }
        let tick = self.tick;
        self.drives.publish(tick, &self.measured, &self.gate);
        while let Some(answer) = self.waiters.due(tick) {
            answer.send(Ok(tick), None);
        }
    }
}

impl Drop for ControlLoop {
    fn drop(&mut self) {
        self.gate.end();
        self.inbox.drain();
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
