//! The handle to a robot's control loop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::clock::{self, Pace};
pub use crate::control::RobotOptions;
use crate::control::answer::{Answer, Keeper};
pub use crate::control::answer::{Pending, Playing, Reply};
use crate::control::external_drive::{Drive, DriveRequest, Mailbox};
pub use crate::control::fence::Fence;
use crate::control::fence::Fences;
use crate::control::gate::Gate;
pub use crate::control::gate::TimeHold;
use crate::control::inbox::{Inbox, Sent};
use crate::control::joint_holders::Claim;
use crate::control::play::{Play, PlayReport, check_joints, check_limits};
use crate::control::player::Prepared;
use crate::control::stop::{SourceState, Sources, StopSource, Stopped};
use crate::control::{Command, ControlLoop, Shared, Waiting};
use crate::embodiment::{Embodiment, EmbodimentError, Tightening, Within};
use crate::error::{PlayError, RobotError};
use crate::link::Link;
use crate::observation::Observation;
use crate::safety::{Guard, Rule};

/// A robot under control. Cloning gives another handle to the same control loop; the loop brings the robot to a hold
/// and ends when the last handle is dropped.
///
/// Methods return at once, and futures do not need to be polled for their request to be made. All work in the next tick
/// after the call. At the end of a tick plays are answered first, then observers, then whoever waited for the tick: who
/// waits for several of these and looks in this order sees the same however threads are scheduled.
#[derive(Clone)]
pub struct Robot(Arc<Owner>);

struct Owner {
    gate: Arc<Gate>,
    inbox: Arc<Inbox<Command>>,
    fences: Arc<Fences>,
    /// How many plays and drives the loop has not taken.
    waiting: Arc<AtomicUsize>,
    questions: Keeper,
    /// Apart, so that however many questions are kept, few plays are.
    moves: Keeper,
    shared: Arc<Shared>,
    sources: Sources,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.gate.close();
    }
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
    /// And each of a filter that the link has of its own: what of this host's commands did not reach the robot as it was sent.
    pub link_interventions: BTreeMap<Rule, u64>,
}

impl Robot {
    /// Starts the control loop on a thread of its own. It reads the link once. Where the robot's own process has kept what is
    /// commanded, and the host stop, it goes on with these; else it holds where the joints are.
    ///
    /// # Errors
    /// [`RobotError::Link`] if the link cannot be read, or not in the shape that the embodiment promises;
    /// [`RobotError::Unguarded`]; [`RobotError::Thread`].
    pub fn start(embodiment: Arc<Embodiment>, link: Box<dyn Link>, options: RobotOptions) -> Result<Self, RobotError> {
        if options.guard == Guard::Off && !link.is_simulated() {
            return Err(RobotError::Unguarded);
        }
        let (robot, control) = Self::with_loop(embodiment, link, options)?;
        std::thread::Builder::new()
            .name("waza-control".into())
            .spawn(move || control.run())
            .map_err(|error| RobotError::Thread(error.to_string()))?;
        Ok(robot)
    }

    /// A control loop that has not begun, and the handle to it.
    pub(crate) fn with_loop(
        embodiment: Arc<Embodiment>,
        link: Box<dyn Link>,
        options: RobotOptions,
    ) -> Result<(Self, ControlLoop), RobotError> {
        let gate = Gate::new(options.pace);
        let inbox = Arc::new(Inbox::new(gate.clone()));
        let fences = Fences::new(embodiment.joints.len());
        let shared = Arc::new(Shared::new(embodiment));
        let seams = (gate.clone(), inbox.clone(), fences.clone());
        let control = ControlLoop::new(link, options, seams, shared.clone())?;
        let (waiting, questions, moves, sources) = Default::default();
        Ok((Self(Arc::new(Owner { gate, inbox, fences, waiting, questions, moves, shared, sources })), control))
    }

    /// What the robot is.
    pub fn embodiment(&self) -> &Arc<Embodiment> {
        &self.0.shared.embodiment
    }

    /// How fast robot time passes.
    pub fn pace(&self) -> Pace {
        self.0.gate.pace()
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
        self.0.gate.hold_time()
    }

    /// Under [`Pace::Lockstep`], blocks until everybody who is answered in the tick that is under way has been, so that
    /// who waits for several answers sees all of one tick together; in real time this does nothing.
    pub fn settle(&self) {
        self.0.gate.settle();
    }

    /// Everything that the robot senses at the next tick. Frames are captured then, and only because of this.
    pub fn observe(&self) -> Pending<Arc<Observation>> {
        self.question(Command::Observe)
    }

    /// Resolves at the end of that tick, or of the next one if it is over, with the tick then.
    pub fn reach(&self, tick: u64) -> Pending<u64> {
        self.question(|answer| Command::Reach(tick, answer))
    }

    /// Plays rows on some joints from the next tick on, instead of what drove them; resolves when it is over.
    ///
    /// It is authorised at the moment of this call: when its joints are told to hold after it, also before the next tick, it
    /// ends [`Held`](crate::Ended::Held).
    pub fn play(&self, play: Play) -> Playing {
        self.play_if(play, None)
    }

    /// [`Robot::play`] under a fence that may have been raised long before. If the fence is not current any more when the
    /// play arrives, nothing moves, and the play ends [`Held`](crate::Ended::Held).
    pub fn play_under(&self, play: Play, fence: &Fence) -> Playing {
        self.play_if(play, Some(fence))
    }

    fn play_if(&self, play: Play, fence: Option<&Fence>) -> Playing {
        let embodiment = self.embodiment();
        let prepared = self.armed().and_then(|()| {
            play.check(embodiment, self.tick())?;
            let waiting = self.waiting()?;
            Ok((Box::new(Prepared::new(&play, embodiment, self.claim(&play.joints, fence)?)), waiting))
        });
        match prepared {
            Ok((prepared, waiting)) => self.motion(|answer| Command::Play(prepared, answer, waiting)),
            Err(error) => {
                let (answer, pending) = self.0.moves.pending(&self.0.gate);
                answer.send(Err(error), None);
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

    /// Drives some joints from the next tick on, tick by tick, instead of what drove them, and within these stricter limits if
    /// there are any; until the first demand they hold.
    ///
    /// # Errors
    /// [`RobotError::NotArmed`]; [`RobotError::Busy`]; [`RobotError::Play`] if there are no joints, or one that the robot
    /// lacks, or the limits were made for another robot.
    pub fn drive(&self, joints: &BTreeSet<usize>, within: Option<Arc<Within>>) -> Result<Drive, RobotError> {
        self.drive_if(joints, within, None)
    }

    /// [`Robot::drive`] under a fence that may have been raised long before. If the fence is not current any more when the
    /// drive arrives, nothing moves, and the drive ends [`Held`](crate::Ended::Held).
    ///
    /// # Errors
    /// As [`Robot::drive`]; [`RobotError::Play`] if the fence is not around one of the joints.
    pub fn drive_under(
        &self,
        joints: &BTreeSet<usize>,
        within: Option<Arc<Within>>,
        fence: &Fence,
    ) -> Result<Drive, RobotError> {
        self.drive_if(joints, within, Some(fence))
    }

    fn drive_if(
        &self,
        joints: &BTreeSet<usize>,
        within: Option<Arc<Within>>,
        fence: Option<&Fence>,
    ) -> Result<Drive, RobotError> {
        let embodiment = self.embodiment();
        self.armed()?;
        check_joints(joints, embodiment)?;
        check_limits(within.as_ref(), embodiment)?;
        let seat = Mailbox::new(embodiment);
        let driven = Box::new(DriveRequest {
            claim: self.claim(joints, fence)?,
            seat: seat.clone(),
            demand: vec![0.0; embodiment.joints.len()],
            within,
        });
        let waiting = self.waiting()?;
        let playing = self.motion(|answer| Command::Drive(driven, answer, waiting));
        Ok(Drive::new(seat, playing, embodiment))
    }

    /// Ends every play and drive that drives any of these joints, and everything that was asked for them before and has not
    /// begun. They stop within their limits, and stay until something is asked anew. The loop sees it in its next tick,
    /// however much else is asked of it.
    pub fn hold(&self, joints: &BTreeSet<usize>) {
        drop(self.fence(joints));
    }

    /// [`Robot::hold`], and the authority over these joints from now on, for [`Robot::play_under`] and
    /// [`Robot::drive_under`]; joints that the robot lacks are passed over.
    ///
    /// Whoever gives joints away keeps the fence for the new holder: nothing that an earlier holder asked under an earlier
    /// fence moves them after this. Fences around common joints are raised one after the other; of two that are raised at
    /// once it may be that neither is current.
    pub fn fence(&self, joints: &BTreeSet<usize>) -> Fence {
        let fence = self.0.fences.raise(joints.iter().copied());
        self.0.gate.rouse();
        fence
    }

    /// The fence that stands around these joints, without raising one: what is asked under it moves nothing any more once
    /// somebody raises another. For a holder who may move them now and asks later.
    pub fn standing_fence(&self, joints: &BTreeSet<usize>) -> Fence {
        self.0.fences.standing(joints.iter().copied())
    }

    /// [`Robot::fence`] around the joints of `fence`, if it is still current. `None`: it is not. Joints around which nobody
    /// else has raised a fence since are told to hold all the same: they were the caller's, and the others' are left alone.
    pub fn hold_under(&self, fence: &Fence) -> Option<Fence> {
        let renewed = self.0.fences.renew(fence);
        self.0.gate.rouse();
        renewed
    }

    /// The host stop: ends every play and brings every joint to a hold, and latches. This is no emergency stop.
    pub fn stop(&self) {
        self.stop_for_now();
    }

    /// [`Robot::stop`] for a caller who will [take it back](Robot::take_back). `None`: a stop was latched already.
    pub fn stop_for_now(&self) -> Option<Stopped> {
        self.0.gate.stop().map(Stopped)
    }

    /// The host stop that is latched, to be acknowledged with [`Robot::reset`].
    pub fn stopped(&self) -> Option<Stopped> {
        let stops = self.0.gate.stops();
        (stops % 2 == 1).then_some(Stopped(stops))
    }

    /// Lifts the host stop that was seen; a stop that came after it stays. Says whether it did. Nothing moves until
    /// something is played anew.
    pub fn reset(&self, acknowledged: Stopped) -> bool {
        self.0.gate.reset(acknowledged.0)
    }

    /// Lifts a stop of [`Robot::stop_for_now`], if nobody has asked for one since. Says whether it did.
    pub fn take_back(&self, own: Stopped) -> bool {
        self.0.gate.take_back(own.0)
    }

    /// Declares one way in which this robot may be stopped. From here on plays are refused with
    /// [`RobotError::NotArmed`] until the source has been seen alive.
    pub fn declare_stop_source(&self, name: &str) -> StopSource {
        self.0.sources.declare(name, &self.0.gate)
    }

    /// The declared stop sources, in the order of their declaration.
    pub fn stop_sources(&self) -> Vec<SourceState> {
        self.0.sources.states()
    }

    /// Whether the host stop is latched.
    pub fn is_stopped(&self) -> bool {
        self.0.gate.stops() % 2 == 1
    }

    /// Counts up to the newest tick.
    pub fn statistics(&self) -> Statistics {
        let shared = &self.0.shared;
        let count = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        let acted = |counters: &[AtomicU64; Rule::ALL.len()]| {
            let began = |rule: Rule| (rule, count(&counters[rule as usize]));
            Rule::ALL.into_iter().map(began).filter(|(_, times)| *times > 0).collect()
        };
        Statistics {
            ticks: self.tick(),
            missed: count(&shared.missed),
            longest_work: Duration::from_nanos(count(&shared.longest_work_ns)),
            latest_start: Duration::from_nanos(count(&shared.latest_start_ns)),
            link_errors: count(&shared.link_errors),
            interventions: acted(&shared.interventions),
            link_interventions: acted(&shared.link_interventions),
        }
    }

    /// Whether the control loop is gone: nothing moves any more, whatever is asked.
    pub fn has_ended(&self) -> bool {
        self.0.gate.has_ended()
    }

    fn armed(&self) -> Result<(), RobotError> {
        let unseen = self.0.sources.unseen();
        if unseen.is_empty() { Ok(()) } else { Err(RobotError::NotArmed { unseen }) }
    }

    fn claim(&self, joints: &BTreeSet<usize>, fence: Option<&Fence>) -> Result<Claim, RobotError> {
        let Owner { gate, fences, shared, .. } = &*self.0;
        Claim::new(joints.iter().copied().collect(), fences, fence, gate.stops()).map_err(|joint| {
            let joint = shared.embodiment.joints[joint].name.clone();
            PlayError::NotFenced { joint }.into()
        })
    }

    fn waiting(&self) -> Result<Waiting, RobotError> {
        Waiting::one_of(&self.0.waiting).ok_or(RobotError::Busy { most: Waiting::MOST })
    }

    /// What is of no use to anybody once its answer is not waited for.
    fn question<T: Send + 'static>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Pending<T> {
        let (answer, pending) = self.0.questions.pending(&self.0.gate);
        match self.send(command(answer)) {
            Some(sent) => pending.asked(self.0.inbox.clone(), sent),
            None => pending,
        }
    }

    fn motion(&self, command: impl FnOnce(Answer<PlayReport>) -> Command) -> Playing {
        let (answer, pending) = self.0.moves.pending(&self.0.gate);
        self.send(command(answer));
        pending
    }

    /// `None`: it is answered already.
    fn send(&self, command: Command) -> Option<Sent> {
        let unsent = match self.0.inbox.send(command) {
            Ok(sent) => return Some(sent),
            Err(unsent) => unsent,
        };
        if !self.0.gate.has_ended() {
            unsent.refuse(RobotError::Busy { most: Inbox::<Command>::MOST });
        }
        None
    }
}
