//! Who may move which joints.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use waza_robot::Robot;

use crate::bindings::Refusal;
use crate::manifest::SkillId;

/// All leases of a robot. No joint is in two of them.
#[derive(Clone)]
pub(crate) struct Leases(Arc<Registry>);

struct Registry {
    robot: Robot,
    live: Mutex<BTreeMap<u64, Live>>,
    next: AtomicU64,
}

struct Live {
    holder: SkillId,
    joints: BTreeSet<usize>,
}

/// Authority over some joints, as a skill holds it. Dropping the last clone gives it up.
pub type Lease = Arc<Authority>;

pub struct Authority {
    registry: Arc<Registry>,
    id: u64,
    joints: BTreeSet<usize>,
    /// Counts the motions that were begun under this lease; the newest is in charge.
    motions: AtomicU64,
}

/// One motion under a lease.
pub(crate) struct Motion {
    lease: Lease,
    number: u64,
}

impl Leases {
    pub fn new(robot: Robot) -> Self {
        Self(Arc::new(Registry { robot, live: Mutex::default(), next: AtomicU64::new(0) }))
    }

    /// Never waits for another holder.
    pub fn acquire(&self, holder: &SkillId, joints: BTreeSet<usize>) -> Result<Lease, Refusal> {
        let registry = &self.0;
        let mut live = registry.lock();
        for other in live.values() {
            if let Some(&joint) = other.joints.intersection(&joints).next() {
                let name = &registry.robot.embodiment().joints[joint].name;
                return Err(Refusal::Unavailable(format!("{} holds the joint {name}", other.holder)));
            }
        }
        let id = registry.next.fetch_add(1, Ordering::Relaxed);
        live.insert(id, Live { holder: holder.clone(), joints: joints.clone() });
        Ok(Arc::new(Authority { registry: registry.clone(), id, joints, motions: AtomicU64::new(0) }))
    }

    /// Takes every lease of a skill away; its joints hold.
    pub fn revoke(&self, holder: &SkillId) {
        self.0.end(|_, lease| lease.holder == *holder);
    }
}

impl Registry {
    /// The joints are told to hold before anybody else can have them.
    fn end(&self, which: impl Fn(u64, &Live) -> bool) {
        self.lock().extract_if(.., |id, lease| which(*id, lease)).for_each(|(_, lease)| self.robot.hold(&lease.joints));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Live>> {
        // Every change under this lock is a single step, so a panic cannot leave it half done.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Authority {
    /// Whether this is still the authority over its joints.
    pub fn check(&self) -> Result<(), Refusal> {
        let live = self.registry.lock().contains_key(&self.id);
        live.then_some(()).ok_or_else(|| Refusal::Preempted("the lease was revoked or given up".into()))
    }

    /// Gives the lease up; its joints hold.
    pub fn end(&self) {
        self.registry.end(|id, _| id == self.id);
    }

    /// Ends whatever motion is in charge; the joints hold.
    pub fn hold(self: &Arc<Self>) -> Result<(), Refusal> {
        self.begin()?.end();
        Ok(())
    }

    /// Puts a new motion in charge.
    pub fn begin(self: &Arc<Self>) -> Result<Motion, Refusal> {
        self.check()?;
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
