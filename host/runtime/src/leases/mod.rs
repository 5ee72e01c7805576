//! Who may move which joints.
//!
//! A lease is exclusive: no joint is in two of them, but for one that a caller lends to the skill that it invokes. It ends
//! when its holder gives it up or ends, when the operator revokes it, when the holder has not said anything for the lease's
//! term, and when a run of higher priority wants it: then at its next safe point, which is the end of a motion, the beginning
//! of another, or a checkpoint, and after two seconds wherever it is. However it ends, its joints hold before anybody else can
//! have them.
//!
//! When another version of a skill goes on with a run, the leases pass over: the successor takes what its predecessor held,
//! without a hold in between, so that the arm plays its chunk meanwhile.

mod table;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use waza_package::SkillId;
use waza_robot::{Fence, Robot};
use waza_state::RunId;

use table::{LeaseId, Table, Terms};

/// How long a holder of lower priority may take to reach a safe point, s.
const GRACE_S: f64 = 2.0;

/// How long joints that a run of higher priority was refused are kept for it, s.
const KEPT_S: f64 = 2.0;

/// Why a lease is not to be had, or not any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// Another skill has one of the joints.
    #[error("{by} holds the joint {joint}")]
    Held {
        /// Which skill.
        by: SkillId,
        /// By its name.
        joint: String,
    },
    /// The run itself has one of the joints in another lease.
    #[error("this run holds the joint {joint} already")]
    Own {
        /// By its name.
        joint: String,
    },
    /// A skill of higher priority was refused these joints, and they are kept for it.
    #[error("{by} has priority and waits for these joints")]
    Awaited {
        /// Which skill.
        by: SkillId,
    },
    /// Skills of lower priority are in motion, and give the joints up at their next safe point.
    #[error("{by} moves these joints and gives them up soon; ask again")]
    Moving {
        /// Which skills.
        by: String,
    },
    /// The joints are lent to a skill that was invoked.
    #[error("{to} was lent these joints until it ends")]
    Lent {
        /// Which skill.
        to: SkillId,
    },
    /// The lease has ended.
    #[error("{why}")]
    Lost {
        /// In words.
        why: String,
    },
    /// A newer motion of the same lease is in charge.
    #[error("a newer motion of the same lease took its place")]
    Superseded,
}

/// All leases of a robot.
#[derive(Clone)]
pub(crate) struct Leases(Arc<Registry>);

struct Registry {
    robot: Robot,
    table: Mutex<Table>,
}

/// Who asks for a lease.
#[derive(Clone)]
pub(crate) struct Holder {
    pub run: RunId,
    /// Counts the instances that have worked on the run; a later one inherits.
    pub instance: u32,
    pub skill: SkillId,
    pub priority: u8,
    /// The runs that wait for this one's outcome.
    pub callers: Arc<[RunId]>,
    pub heartbeat: Arc<Heartbeat>,
}

/// When a run last called the host.
#[derive(Default)]
pub(crate) struct Heartbeat {
    tick: AtomicU64,
    /// Calls that may take long and have not returned.
    waiting: AtomicU32,
}

/// The run waits for somebody else, and is not to blame for how long that takes.
pub(crate) struct Waiting {
    heartbeat: Arc<Heartbeat>,
    robot: Robot,
}

impl Heartbeat {
    pub fn beat(&self, tick: u64) {
        // A look is cheaper than a write, and most calls are made in the tick of the one before.
        if self.tick.load(Ordering::Acquire) < tick {
            self.tick.fetch_max(tick, Ordering::AcqRel);
        }
    }

    pub fn wait(self: &Arc<Self>, robot: &Robot) -> Waiting {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        self.beat(robot.tick());
        Waiting { heartbeat: self.clone(), robot: robot.clone() }
    }

    fn silent_since(&self) -> Option<u64> {
        (self.waiting.load(Ordering::Acquire) == 0).then(|| self.tick.load(Ordering::Acquire))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.heartbeat.beat(self.robot.tick());
        self.heartbeat.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Authority over some joints, as a skill holds it. Dropping the last clone gives it up.
pub type Lease = Arc<Authority>;

/// What a [`Lease`] shares.
pub struct Authority {
    registry: Arc<Registry>,
    id: LeaseId,
    joints: BTreeSet<usize>,
    /// Counts the motions that were begun under this lease; the newest is in charge.
    motions: AtomicU64,
    why_lost: Arc<OnceLock<String>>,
}

/// One motion under a lease.
pub(crate) struct Motion {
    lease: Lease,
    number: u64,
    /// The authority over the joints as it was when the motion began. Whoever ends the lease, or tells the joints to hold,
    /// raises another, and the control loop refuses what comes later under this one: what was checked and what is done cannot
    /// fall apart.
    fence: Fence,
}

impl Leases {
    /// `term`: robot time after which a lease ends whose holder neither moves nor calls the host.
    pub fn new(robot: Robot, term: Duration) -> Self {
        let embodiment = robot.embodiment();
        let ticks = |seconds: f64| (seconds * f64::from(embodiment.control_hz)).ceil() as u64;
        let terms = Terms { silence: ticks(term.as_secs_f64()), term, grace: ticks(GRACE_S), kept: ticks(KEPT_S) };
        let names = embodiment.joints.iter().map(|joint| joint.name.clone()).collect();
        let table = Mutex::new(Table::new(names, terms));
        Self(Arc::new(Registry { robot, table }))
    }

    /// Never waits for another holder.
    pub fn acquire(&self, holder: &Holder, joints: BTreeSet<usize>) -> Result<Lease, LeaseError> {
        let granted = self.0.change(|table, now| table.acquire(holder, joints.clone(), now))?;
        let (id, why_lost) = (granted.id, granted.why_lost);
        Ok(Arc::new(Authority { registry: self.0.clone(), id, joints, motions: AtomicU64::new(0), why_lost }))
    }

    /// Takes every lease of a skill away, whatever it is doing; its joints hold.
    pub fn revoke(&self, skill: &SkillId) {
        self.0.change(|table, _| table.revoke(skill));
    }

    /// A safe point of a run: what somebody of higher priority wants of it goes.
    pub fn safe_point(&self, run: RunId) {
        self.0.change(|table, _| table.safe_point(run));
    }

    /// The instances of a run up to this one are about to go; a successor may take over what they held.
    pub fn bequeath(&self, run: RunId, instance: u32) {
        self.0.change(|table, _| table.bequeath(run, instance));
    }

    /// Brings everything that a run holds to a stand; the leases stay.
    pub fn hold(&self, run: RunId) {
        self.0.change(|table, _| self.0.robot.hold(&table.of_run(run)));
    }

    /// What no successor took over is free.
    pub fn settle(&self, run: RunId) {
        self.0.change(|table, _| table.settle(run));
    }

    /// A run is over.
    pub fn end_run(&self, run: RunId) {
        self.0.change(|table, _| table.end_run(run));
    }
}

impl Registry {
    /// Changes the table at this tick. The joints of leases that end by it are told to hold before anybody else can have
    /// them.
    fn change<T>(&self, change: impl FnOnce(&mut Table, u64) -> T) -> T {
        let mut table = self.table.lock();
        let changed = change(&mut table, self.robot.tick());
        let released = table.take_released();
        if !released.is_empty() {
            self.robot.hold(&released);
        }
        changed
    }
}

impl Authority {
    /// Whether this is still the authority over its joints.
    ///
    /// # Errors
    /// [`LeaseError::Lost`], [`LeaseError::Lent`].
    pub fn check(&self) -> Result<(), LeaseError> {
        self.registry.change(|table, now| table.check(self.id, &self.why_lost, now))
    }

    /// Gives the lease up; its joints hold.
    pub fn end(&self) {
        self.registry.change(|table, _| table.give_up(self.id));
    }

    /// Ends whatever motion is in charge; the joints hold.
    ///
    /// # Errors
    /// As [`Authority::check`].
    pub fn hold(self: &Arc<Self>) -> Result<(), LeaseError> {
        self.begin()?.end();
        Ok(())
    }

    /// Puts a new motion in charge.
    pub(crate) fn begin(self: &Arc<Self>) -> Result<Motion, LeaseError> {
        self.registry.change(|table, now| {
            table.begin(self.id, &self.why_lost, now)?;
            let number = self.motions.fetch_add(1, Ordering::AcqRel) + 1;
            Ok(Motion { lease: self.clone(), number, fence: self.registry.robot.standing_fence(&self.joints) })
        })
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.end();
    }
}

impl Motion {
    pub fn joints(&self) -> &BTreeSet<usize> {
        &self.lease.joints
    }

    /// Whether the lease is still there.
    pub fn check_lease(&self) -> Result<(), LeaseError> {
        self.lease.check()
    }

    /// Whether the lease is still there and no newer motion took this one's place.
    pub fn check(&self) -> Result<(), LeaseError> {
        self.lease.check()?;
        if self.is_in_charge() { Ok(()) } else { Err(LeaseError::Superseded) }
    }

    fn is_in_charge(&self) -> bool {
        self.lease.motions.load(Ordering::Acquire) == self.number
    }

    /// Under what the control loop takes a play or a drive of this motion.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Brings the joints to a hold unless something else is in charge of them by now.
    pub fn end(&self) {
        // Whoever is in charge decides.
        let _ = self.hold(&self.lease.joints);
    }

    /// Brings some of the joints to a hold.
    ///
    /// # Errors
    /// As [`Motion::check`]; nothing holds then.
    pub fn hold(&self, joints: &BTreeSet<usize>) -> Result<(), LeaseError> {
        let registry = &self.lease.registry;
        // Nobody else can have the joints before this returns.
        registry.change(|table, now| {
            table.check(self.lease.id, &self.lease.why_lost, now)?;
            if !self.is_in_charge() {
                return Err(LeaseError::Superseded);
            }
            registry.robot.hold(joints);
            Ok(())
        })
    }
}

impl Drop for Motion {
    fn drop(&mut self) {
        self.lease.registry.change(|table, _| table.ended(self.lease.id));
    }
}

#[cfg(test)]
mod tests {
    use std::hint::spin_loop;
    use std::sync::Barrier;

    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};
    use waza_robot::observation::Measurement;
    use waza_robot::{
        Embodiment, Ended, Frame, Guard, Link, LinkError, Pace, Play, Proprioception, Robot, RobotOptions,
    };

    use super::*;

    /// The joints are where they were commanded to be.
    struct Follower(Vec<f32>);

    impl Link for Follower {
        fn read_into(&mut self, into: &mut Measurement) -> Result<(), LinkError> {
            let still = vec![0.0; self.0.len()];
            into.joints = Proprioception { positions: self.0.clone(), velocities: still.clone(), efforts: still };
            into.samples = vec![vec![0.0; 6]];
            Ok(())
        }

        fn write(&mut self, positions: &[f32]) -> Result<(), LinkError> {
            self.0 = positions.to_vec();
            Ok(())
        }

        fn capture(&mut self) -> Result<Vec<Frame>, LinkError> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn what_is_played_under_a_lease_that_is_revoked_at_the_same_time_never_moves_on_after_it() {
        const ROUNDS: u32 = 10_000;
        let embodiment = Arc::new(Embodiment::so101());
        let options = RobotOptions {
            pace: Pace::Lockstep,
            kinematics: Box::new(waza_robot::sim::arm::tool_position),
            guard: Guard::On,
        };
        let rest = vec![0.0, -0.6, 0.8, 0.6, 0.0, 0.3];
        let robot = Robot::start(embodiment.clone(), Box::new(Follower(rest)), options).unwrap();
        let leases = Leases::new(robot.clone(), Duration::from_secs(30));
        let joints = embodiment.part_joints("arm").unwrap();
        let skill = SkillId::try_from("test/skill".to_owned()).unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let mut spins = || random.next_u32() % 3000;
        let meet = Barrier::new(2);
        for round in 0..ROUNDS {
            let holder = Holder {
                run: RunId::new(round.into()),
                instance: 0,
                skill: skill.clone(),
                priority: 0,
                callers: [].into(),
                heartbeat: Arc::default(),
            };
            let lease = leases.acquire(&holder, joints.clone()).unwrap();
            let (mine, theirs) = (spins(), spins());
            let here = robot.commanded();
            let mut there = here.clone();
            there[0] = if here[0] > 0.0 { -1.0 } else { 1.0 };
            // So that both happen before the next tick, in either order.
            let hold = robot.hold_time();
            let playing = std::thread::scope(|scope| {
                let (meet, leases, skill) = (&meet, &leases, &skill);
                scope.spawn(move || {
                    meet.wait();
                    (0..theirs).for_each(|_| spin_loop());
                    leases.revoke(skill);
                });
                meet.wait();
                let motion = lease.begin().ok()?;
                (0..mine).for_each(|_| spin_loop());
                let play = Play::joints_to(&embodiment, joints.clone(), &here, &there, 1.0).unwrap();
                Some(robot.play_under(play, motion.fence()))
            });
            drop(hold);
            let Some(playing) = playing else { continue };
            let played = futures_executor::block_on(playing);
            assert_eq!(played.value.unwrap().ended, Ended::Held, "round {round}: it went on under no lease");
            drop(played.hold);
        }
    }
}
