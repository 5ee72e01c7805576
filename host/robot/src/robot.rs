//! The handle to a robot's control loop.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_channel::oneshot;

use crate::clock::{self, Pace};
use crate::control::ControlLoop;
use crate::control::external_drive::{Drive, Driven, Seat};
use crate::control::inbox::{Answer, Command, Inbox};
pub use crate::control::inbox::{Reply, TimeHold};
use crate::control::play::{Play, PlayError, PlayReport, check_joints, check_limits};
use crate::control::player::Prepared;
use crate::control::stop::{SourceState, Sources, StopSource, Stopped};
use crate::embodiment::{Embodiment, EmbodimentError, Tightening, Within};
use crate::link::{Link, LinkError};
use crate::observation::Observation;
use crate::safety::{Guard, Kinematics, Rule};

/// What a control loop needs beside an embodiment and a link.
pub struct RobotOptions {
    /// How fast robot time passes.
    pub pace: Pace,
    /// The arm's forward kinematics: the workspace limit cannot be kept without.
    pub kinematics: Box<dyn Kinematics>,
    /// Whether the safety filter acts; [`Guard::Off`] is for simulated links only.
    pub guard: Guard,
}

/// A robot under control. Cloning gives another handle to the same control loop; the loop brings the robot to a hold
/// and ends when the last handle is dropped.
///
/// Methods return at once, and futures do not need to be polled for their request to be made. All work in the next tick
/// after the call. At the end of a tick plays are answered first, then observers, then whoever waited for the tick: who
/// waits for several of these and looks in this order sees the same however threads are scheduled.
#[derive(Clone)]
pub struct Robot(Arc<Owner>);

struct Owner {
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    sources: Sources,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.inbox.close();
    }
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
}

/// Counts since the control loop began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statistics {
    /// Ticks of the control loop.
    pub ticks: u64,
    /// Control periods in which no tick could start; under [`Pace::Lockstep`], ticks that worked longer than a period.
    pub missed: u64,
    /// The longest work of a tick: wall time, or under [`Pace::Lockstep`] the processor time of the loop's thread.
    pub longest_work: Duration,
    /// The longest that a tick started after its deadline; zero under [`Pace::Lockstep`].
    pub latest_start: Duration,
    /// Reads and writes of the link that failed.
    pub link_errors: u64,
    /// How often each rule of the safety filter began to act.
    pub interventions: BTreeMap<Rule, u64>,
}

/// Why a robot does not do what was asked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RobotError {
    /// The play is wrong in itself.
    #[error(transparent)]
    Play(#[from] PlayError),
    /// The link is down. The robot holds, and the control loop keeps trying.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Declared sources of the host stop have not been seen alive.
    #[error("the robot is not armed: nothing has been heard of the stop source {}", .unseen.join(", "))]
    NotArmed {
        /// Their names.
        unseen: Vec<String>,
    },
    /// The safety filter may be off for a simulated link only.
    #[error("the safety filter can be off for a simulated robot only, and this link is none")]
    Unguarded,
    /// The control loop is gone: the last handle was dropped, or the link panicked.
    #[error("the robot's control loop has ended; start it again")]
    Ended,
    /// The operating system refused the control loop its thread.
    #[error("cannot start the control loop's thread: {0}")]
    Thread(String),
}

/// An answer of the control loop, when it is there. Dropping it withdraws nothing that was asked.
pub struct Pending<T> {
    answer: oneshot::Receiver<Reply<Result<T, RobotError>>>,
    inbox: Arc<Inbox>,
}

/// The end of a play.
pub type Playing = Pending<PlayReport>;

impl<T> Future for Pending<T> {
    type Output = Reply<Result<T, RobotError>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answered = Pin::new(&mut self.answer).poll(context);
        answered.map(|reply| {
            reply.unwrap_or_else(|_| Reply { value: Err(RobotError::Ended), hold: self.inbox.hold_time() })
        })
    }
}

impl Robot {
    /// Starts the control loop on a thread of its own. It reads the link once, and holds where the joints then are.
    ///
    /// # Errors
    /// [`RobotError::Link`] if the link cannot be read, or not in the shape that the embodiment promises;
    /// [`RobotError::Unguarded`]; [`RobotError::Thread`].
    pub fn start(embodiment: Arc<Embodiment>, link: Box<dyn Link>, options: RobotOptions) -> Result<Self, RobotError> {
        if options.guard == Guard::Off && !link.is_simulated() {
            return Err(RobotError::Unguarded);
        }
        let inbox = Inbox::new(options.pace);
        let shared = Arc::new(Shared {
            tick: AtomicU64::new(0),
            commanded: embodiment.joints.iter().map(|_| AtomicU32::new(0)).collect(),
            missed: AtomicU64::new(0),
            longest_work_ns: AtomicU64::new(0),
            latest_start_ns: AtomicU64::new(0),
            link_errors: AtomicU64::new(0),
            interventions: Default::default(),
            embodiment,
        });
        let control = ControlLoop::new(link, options, inbox.clone(), shared.clone())?;
        std::thread::Builder::new()
            .name("waza-control".into())
            .spawn(move || control.run())
            .map_err(|error| RobotError::Thread(error.to_string()))?;
        Ok(Self(Arc::new(Owner { inbox, shared, sources: Sources::default() })))
    }

    /// What the robot is.
    pub fn embodiment(&self) -> &Arc<Embodiment> {
        &self.0.shared.embodiment
    }

    /// How fast robot time passes.
    pub fn pace(&self) -> Pace {
        self.0.inbox.pace()
    }

    /// The newest tick that is over; 0 before the first.
    pub fn tick(&self) -> u64 {
        self.0.shared.tick.load(Ordering::Acquire)
    }

    /// Nanoseconds of robot time at a tick.
    pub fn tick_ns(&self, tick: u64) -> u64 {
        clock::tick_ns(tick, self.embodiment().control_hz)
    }

    /// Where the joints are commanded to be, rad. A new move starts here, not where the joints were measured.
    pub fn commanded(&self) -> Vec<f32> {
        self.0.shared.commanded.iter().map(|bits| f32::from_bits(bits.load(Ordering::Acquire))).collect()
    }

    /// Makes robot time stand still under [`Pace::Lockstep`] until the guard is dropped.
    pub fn hold_time(&self) -> TimeHold {
        self.0.inbox.hold_time()
    }

    /// Under [`Pace::Lockstep`], blocks until everybody who is answered in the tick that is under way has been, so that
    /// who waits for several answers sees all of one tick together; in real time this does nothing.
    pub fn settle(&self) {
        self.0.inbox.settle();
    }

    /// Everything that the robot senses at the next tick. Frames are captured then, and only because of this.
    pub fn observe(&self) -> Pending<Arc<Observation>> {
        self.ask(Command::Observe)
    }

    /// Resolves at the end of that tick, or of the next one if it is over, with the tick then.
    pub fn reach(&self, tick: u64) -> Pending<u64> {
        self.ask(|answer| Command::Reach(tick, answer))
    }

    /// Plays rows on some joints from the next tick on, instead of what drove them; resolves when it is over.
    pub fn play(&self, play: Play) -> Playing {
        let embodiment = self.embodiment();
        match self.armed().and_then(|()| Ok(play.check(embodiment, self.tick())?)) {
            Ok(()) => {
                let prepared = Prepared::new(&play, embodiment, self.0.inbox.stops());
                self.ask(|answer| Command::Play(prepared, answer))
            }
            Err(error) => {
                let (answer, pending) = self.pending();
                self.0.inbox.reply(answer, Err(error));
                pending
            }
        }
    }

    /// This robot within the limits of a skill, for [`Play::within`]; `origin` is named in errors.
    ///
    /// # Errors
    /// [`EmbodimentError::Invalid`] if nothing is left of a limit, or the limits are of something that the robot lacks.
    pub fn within(&self, by: &Tightening, origin: &str) -> Result<Arc<Within>, EmbodimentError> {
        self.embodiment().within(by, origin)
    }

    /// Drives some joints from the next tick on, tick by tick, instead of what drove them, and within these stricter limits
    /// if there are any; until the first demand they hold.
    ///
    /// # Errors
    /// [`RobotError::NotArmed`]; [`RobotError::Play`] if there are no joints, or one that the robot lacks, or the limits were
    /// made for another robot.
    pub fn drive(&self, joints: &BTreeSet<usize>, within: Option<Arc<Within>>) -> Result<Drive, RobotError> {
        let embodiment = self.embodiment();
        self.armed()?;
        check_joints(joints, embodiment)?;
        check_limits(within.as_ref(), embodiment)?;
        let seat = Seat::new(embodiment);
        let driven = Driven {
            joints: joints.iter().copied().collect(),
            seat: seat.clone(),
            stops: self.0.inbox.stops(),
            demand: vec![0.0; embodiment.joints.len()],
            within,
        };
        let playing = self.ask(|answer| Command::Drive(driven, answer));
        Ok(Drive::new(seat, playing, embodiment))
    }

    /// Ends every play and drive that drives any of these joints. Its joints stop within their limits, and stay.
    pub fn hold(&self, joints: &BTreeSet<usize>) {
        self.0.inbox.send(Command::Hold(joints.iter().copied().collect()));
    }

    /// The host stop: ends every play and brings every joint to a hold, and latches. This is no emergency stop.
    pub fn stop(&self) {
        self.0.inbox.stop();
    }

    /// The host stop that is latched, to be acknowledged with [`Robot::reset`].
    pub fn stopped(&self) -> Option<Stopped> {
        let stops = self.0.inbox.stops();
        (stops % 2 == 1).then_some(Stopped(stops))
    }

    /// Lifts the host stop that was seen; a stop that came after it stays. Says whether it did. Nothing moves until
    /// something is played anew.
    pub fn reset(&self, acknowledged: Stopped) -> bool {
        self.0.inbox.reset(acknowledged.0)
    }

    /// Declares one way in which this robot may be stopped. From here on plays are refused with
    /// [`RobotError::NotArmed`] until the source has been seen alive.
    pub fn declare_stop_source(&self, name: &str) -> StopSource {
        self.0.sources.declare(name, &self.0.inbox)
    }

    /// The declared stop sources, in the order of their declaration.
    pub fn stop_sources(&self) -> Vec<SourceState> {
        self.0.sources.states()
    }

    /// Whether the host stop is latched.
    pub fn is_stopped(&self) -> bool {
        self.0.inbox.stops() % 2 == 1
    }

    /// Counts up to the newest tick.
    pub fn statistics(&self) -> Statistics {
        let shared = &self.0.shared;
        let count = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        let began = |rule: Rule| (rule, count(&shared.interventions[rule as usize]));
        Statistics {
            ticks: self.tick(),
            missed: count(&shared.missed),
            longest_work: Duration::from_nanos(count(&shared.longest_work_ns)),
            latest_start: Duration::from_nanos(count(&shared.latest_start_ns)),
            link_errors: count(&shared.link_errors),
            interventions: Rule::ALL.into_iter().map(began).filter(|(_, times)| *times > 0).collect(),
        }
    }

    fn armed(&self) -> Result<(), RobotError> {
        let unseen = self.0.sources.unseen();
        if unseen.is_empty() { Ok(()) } else { Err(RobotError::NotArmed { unseen }) }
    }

    fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Pending<T> {
        let (answer, pending) = self.pending();
        self.0.inbox.send(command(answer));
        pending
    }

    fn pending<T>(&self) -> (Answer<T>, Pending<T>) {
        let (sender, answer) = oneshot::channel();
        (sender, Pending { answer, inbox: self.0.inbox.clone() })
    }
}
