//! Who may move which joints.
//!
//! A lease is exclusive: no joint is in two of them, but for one that a caller lends to the skill that it invokes. It ends
//! when its holder gives it up or ends, when the operator revokes it, when the holder has not said anything for the lease's
//! term, and when a run of higher priority wants it: then at its next safe point, which is the end of a motion, the beginning
//! of another, or a checkpoint, and after [`GRACE_S`] wherever it is. However it ends, its joints hold before anybody else can
//! have them.
//!
//! When another version of a skill goes on with a run, the leases pass over: the successor takes what its predecessor held,
//! without a hold in between, so that the arm plays its chunk meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use waza_robot::Robot;

use crate::contract::Refusal;
use crate::manifest::SkillId;
use crate::run::registry::RunId;

/// How long a holder of lower priority may take to reach a safe point, s.
const GRACE_S: f64 = 2.0;

/// How long joints that a run of higher priority was refused are kept for it, s.
const KEPT_S: f64 = 2.0;

/// All leases of a robot.
#[derive(Clone)]
pub(crate) struct Leases(Arc<Registry>);

struct Registry {
    robot: Robot,
    term: Duration,
    table: Mutex<Table>,
    next: AtomicU64,
}

#[derive(Default)]
struct Table {
    live: BTreeMap<u64, Live>,
    wants: Vec<Want>,
}

struct Live {
    holder: Holder,
    joints: BTreeSet<usize>,
    /// The callers' leases that it was cut from.
    lenders: BTreeSet<u64>,
    /// Motions under it that have not ended.
    motions: u32,
    /// Its holder is gone or going; only a successor in the same run may have the joints.
    orphaned: bool,
    /// Who of higher priority wants it, and since which tick.
    wanted: Option<(SkillId, u64)>,
    why_lost: Arc<OnceLock<String>>,
}

/// A run of higher priority was refused these joints and is expected back.
struct Want {
    run: RunId,
    skill: SkillId,
    priority: u8,
    joints: BTreeSet<usize>,
    until_tick: u64,
}

/// Who asks for a lease.
#[derive(Clone)]
pub(crate) struct Holder {
    pub run: RunId,
    /// Counts the versions that have worked on the run; a later one inherits.
    pub incarnation: u32,
    pub skill: SkillId,
    pub priority: u8,
    /// The runs that wait for this one's outcome.
    pub callers: Arc<[RunId]>,
    pub pulse: Arc<Pulse>,
}

/// When a run last said anything.
#[derive(Default)]
pub(crate) struct Pulse {
    tick: AtomicU64,
    /// Calls that may take long and have not returned.
    waiting: AtomicU32,
}

/// The run waits for somebody else, and is not to blame for how long that takes.
pub(crate) struct Waiting {
    pulse: Arc<Pulse>,
    robot: Robot,
}

impl Pulse {
    pub fn beat(&self, tick: u64) {
        self.tick.fetch_max(tick, Ordering::AcqRel);
    }

    pub fn wait(self: &Arc<Self>, robot: &Robot) -> Waiting {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        self.beat(robot.tick());
        Waiting { pulse: self.clone(), robot: robot.clone() }
    }

    fn silent_since(&self) -> Option<u64> {
        (self.waiting.load(Ordering::Acquire) == 0).then(|| self.tick.load(Ordering::Acquire))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.pulse.beat(self.robot.tick());
        self.pulse.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Authority over some joints, as a skill holds it. Dropping the last clone gives it up.
pub type Lease = Arc<Authority>;

pub struct Authority {
    registry: Arc<Registry>,
    id: u64,
    joints: BTreeSet<usize>,
    /// Counts the motions that were begun under this lease; the newest is in charge.
    motions: AtomicU64,
    why_lost: Arc<OnceLock<String>>,
}

/// One motion under a lease.
pub(crate) struct Motion {
    lease: Lease,
    number: u64,
}

impl Leases {
    /// `term`: robot time after which a lease ends whose holder neither moves nor says anything.
    pub fn new(robot: Robot, term: Duration) -> Self {
        Self(Arc::new(Registry { robot, term, table: Mutex::default(), next: AtomicU64::new(0) }))
    }

    /// Never waits for another holder.
    pub fn acquire(&self, holder: &Holder, joints: BTreeSet<usize>) -> Result<Lease, Refusal> {
        let registry = &self.0;
        let now = registry.robot.tick();
        let mut table = registry.lock();
        let (mut lenders, mut inherited, mut ending, mut moving) =
            <(BTreeSet<u64>, Vec<u64>, Vec<_>, Vec<u64>)>::default();
        for (&id, other) in &table.live {
            let Some(&joint) = other.joints.intersection(&joints).next() else { continue };
            let name = || &registry.robot.embodiment().joints[joint].name;
            if other.holder.run == holder.run {
                if other.holder.incarnation == holder.incarnation {
                    return Err(Refusal::Unavailable(format!("this run holds the joint {} already", name())));
                }
                inherited.push(id);
            } else if holder.callers.contains(&other.holder.run) {
                lenders.insert(id);
            } else if registry.is_silent(other, now) {
                ending.push((id, registry.expired()));
            } else if other.holder.priority < holder.priority {
                let patience = registry.ticks(GRACE_S);
                let waited = other.wanted.as_ref().is_some_and(|(_, since)| now >= since + patience);
                if waited || !table.moves(id) {
                    ending.push((id, format!("{} has priority and took the joint {}", holder.skill, name())));
                } else {
                    moving.push(id);
                }
            } else {
                return Err(Refusal::Unavailable(format!("{} holds the joint {}", other.holder.skill, name())));
            }
        }
        table.wants.retain(|want| want.run != holder.run && want.until_tick > now);
        let of_ones_own = |joint: &usize| {
            inherited.iter().chain(&lenders).any(|id| table.live.get(id).is_some_and(|it| it.joints.contains(joint)))
        };
        let stands_back = |want: &&Want| {
            want.priority > holder.priority && joints.iter().any(|it| want.joints.contains(it) && !of_ones_own(it))
        };
        if let Some(want) = table.wants.iter().find(stands_back) {
            return Err(Refusal::Unavailable(format!("{} has priority and waits for these joints", want.skill)));
        }
        if !moving.is_empty() {
            let until_tick = now + registry.ticks(GRACE_S + KEPT_S);
            let (run, skill, priority) = (holder.run, holder.skill.clone(), holder.priority);
            table.wants.push(Want { run, skill: skill.clone(), priority, joints, until_tick });
            let mut others = BTreeSet::new();
            for id in moving {
                if let Some(other) = table.live.get_mut(&id) {
                    other.wanted.get_or_insert_with(|| (skill.clone(), now));
                    others.insert(other.holder.skill.to_string());
                }
            }
            let others: Vec<_> = others.into_iter().collect();
            let what = format!("{} moves these joints and gives them up soon; ask again", others.join(", "));
            return Err(Refusal::Unavailable(what));
        }
        for (id, why) in ending {
            registry.end(&mut table, |other, _| other == id, &why);
        }
        for id in inherited {
            // What the successor does not take stays with the run until it has settled.
            let rest = table.live.get_mut(&id).map(|left| {
                left.joints = left.joints.difference(&joints).copied().collect();
                left.orphaned = true;
                left.joints.is_empty()
            });
            if rest == Some(true) {
                table.live.remove(&id);
            }
        }
        let id = registry.next.fetch_add(1, Ordering::Relaxed);
        let why_lost = Arc::new(OnceLock::new());
        let live = Live {
            holder: holder.clone(),
            joints: joints.clone(),
            lenders,
            motions: 0,
            orphaned: false,
            wanted: None,
            why_lost: why_lost.clone(),
        };
        table.live.insert(id, live);
        holder.pulse.beat(now);
        Ok(Arc::new(Authority { registry: registry.clone(), id, joints, motions: AtomicU64::new(0), why_lost }))
    }

    /// Takes every lease of a skill away, whatever it is doing; its joints hold.
    pub fn revoke(&self, skill: &SkillId) {
        self.0.end(&mut self.0.lock(), |_, lease| lease.holder.skill == *skill, "the operator revoked the lease");
    }

    /// A safe point of a run: what somebody of higher priority wants of it goes.
    pub fn safe_point(&self, run: RunId) {
        self.0.give_way(&mut self.0.lock(), |_, lease| lease.holder.run == run);
    }

    /// A version that works on a run is about to go; its successor may take over what it held.
    pub fn bequeath(&self, run: RunId, incarnation: u32) {
        let mut table = self.0.lock();
        let of_it = |lease: &&mut Live| lease.holder.run == run && lease.holder.incarnation <= incarnation;
        table.live.values_mut().filter(of_it).for_each(|lease| {
            lease.orphaned = true;
            lease.motions = 0;
        });
    }

    /// Brings everything that a run holds to a stand; the leases stay.
    pub fn hold(&self, run: RunId) {
        let table = self.0.lock();
        let of_run = table.live.values().filter(|lease| lease.holder.run == run);
        of_run.for_each(|lease| self.0.robot.hold(&lease.joints));
    }

    /// What no successor took over is free.
    pub fn settle(&self, run: RunId) {
        let orphaned = |_, lease: &Live| lease.holder.run == run && lease.orphaned;
        self.0.end(&mut self.0.lock(), orphaned, "its holder is gone");
    }

    /// The run is over.
    pub fn end_run(&self, run: RunId) {
        let mut table = self.0.lock();
        self.0.end(&mut table, |_, lease| lease.holder.run == run, "its holder is gone");
        table.wants.retain(|want| want.run != run);
    }
}

impl Table {
    /// Whether anything moves under a lease, or under one that was cut from it.
    fn moves(&self, id: u64) -> bool {
        self.live.iter().any(|(&other, lease)| (other == id || lease.lenders.contains(&id)) && lease.motions > 0)
    }
}

impl Registry {
    fn ticks(&self, seconds: f64) -> u64 {
        (seconds * f64::from(self.robot.embodiment().control_hz)).ceil() as u64
    }

    fn is_silent(&self, lease: &Live, now: u64) -> bool {
        let term = self.ticks(self.term.as_secs_f64());
        lease.motions == 0
            && !lease.orphaned
            && lease.holder.pulse.silent_since().is_some_and(|since| now > since.saturating_add(term))
    }

    fn expired(&self) -> String {
        format!("the lease expired: its holder said nothing for {:?}", self.term)
    }

    /// Ends leases, and those that were cut from them. The joints are told to hold before anybody else can have them.
    fn end(&self, table: &mut Table, which: impl Fn(u64, &Live) -> bool, why: &str) {
        let mut ended: BTreeSet<u64> =
            table.live.iter().filter(|(id, lease)| which(**id, lease)).map(|(&id, _)| id).collect();
        loop {
            let cut = |(id, lease): (&u64, &Live)| (!lease.lenders.is_disjoint(&ended)).then_some(*id);
            let more: Vec<_> = table.live.iter().filter_map(cut).filter(|id| !ended.contains(id)).collect();
            if more.is_empty() {
                break;
            }
            ended.extend(more);
        }
        for id in ended {
            if let Some(lease) = table.live.remove(&id) {
                self.robot.hold(&lease.joints);
                // Only the first end of a lease is one.
                let _ = lease.why_lost.set(why.into());
            }
        }
    }

    /// Ends those leases that somebody of higher priority wants.
    fn give_way(&self, table: &mut Table, which: impl Fn(u64, &Live) -> bool) {
        let wanted: Vec<_> = table
            .live
            .iter()
            .filter(|(id, lease)| which(**id, lease))
            .filter_map(|(&id, lease)| lease.wanted.as_ref().map(|(by, _)| (id, format!("{by} has priority"))))
            .collect();
        for (id, why) in wanted {
            self.end(table, |other, _| other == id, &why);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Every change under this lock leaves a table that is true, so a panic cannot leave it half done.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Authority {
    /// Whether this is still the authority over its joints.
    pub fn check(&self) -> Result<(), Refusal> {
        self.checked(&mut self.registry.lock()).map(drop)
    }

    fn checked<'a>(&self, table: &'a mut Table) -> Result<&'a mut Live, Refusal> {
        let now = self.registry.robot.tick();
        if table.live.get(&self.id).is_some_and(|lease| self.registry.is_silent(lease, now)) {
            self.registry.end(table, |id, _| id == self.id, &self.registry.expired());
        }
        if let Some(borrower) = table.live.values().find(|lease| lease.lenders.contains(&self.id)) {
            let what = format!("{} was lent these joints until it ends", borrower.holder.skill);
            return Err(Refusal::Unavailable(what));
        }
        match table.live.get_mut(&self.id) {
            Some(lease) if !lease.orphaned => {
                lease.holder.pulse.beat(now);
                Ok(lease)
            }
            _ => Err(Refusal::Preempted(self.why_lost.get().map_or("the lease was given up", String::as_str).into())),
        }
    }

    /// Gives the lease up; its joints hold.
    pub fn end(&self) {
        let own = |id, lease: &Live| id == self.id && !lease.orphaned;
        self.registry.end(&mut self.registry.lock(), own, "the lease was given up");
    }

    /// Ends whatever motion is in charge; the joints hold.
    pub fn hold(self: &Arc<Self>) -> Result<(), Refusal> {
        self.begin()?.end();
        Ok(())
    }

    /// Puts a new motion in charge.
    pub fn begin(self: &Arc<Self>) -> Result<Motion, Refusal> {
        let mut table = self.registry.lock();
        self.registry.give_way(&mut table, |id, _| id == self.id);
        self.checked(&mut table)?.motions += 1;
        let number = self.motions.fetch_add(1, Ordering::AcqRel) + 1;
        Ok(Motion { lease: self.clone(), number })
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
    pub fn check_lease(&self) -> Result<(), Refusal> {
        self.lease.check()
    }

    /// Whether the lease is still there and no newer motion took this one's place.
    pub fn check(&self) -> Result<(), Refusal> {
        self.lease.check()?;
        if self.is_in_charge() {
            Ok(())
        } else {
            Err(Refusal::Preempted("a newer motion of the same lease took its place".into()))
        }
    }

    fn is_in_charge(&self) -> bool {
        self.lease.motions.load(Ordering::Acquire) == self.number
    }

    /// Brings the joints to a hold unless something else is in charge of them by now.
    pub fn end(&self) {
        if self.check().is_ok() {
            self.lease.registry.robot.hold(&self.lease.joints);
        }
    }
}

impl Drop for Motion {
    fn drop(&mut self) {
        let registry = &self.lease.registry;
        let mut table = registry.lock();
        let left = table.live.get_mut(&self.lease.id).map(|lease| {
            lease.motions = lease.motions.saturating_sub(1);
            lease.motions
        });
        if left == Some(0) {
            registry.give_way(&mut table, |id, _| id == self.lease.id);
        }
    }
}
