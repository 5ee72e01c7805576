//! Who has which joints: a table over ticks of robot time, which are handed in. It knows no robot and no lock.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use waza_package::SkillId;
use waza_state::RunId;

use crate::leases::{Holder, LeaseError};

/// Spans of robot time, ticks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// After which a lease ends whose holder neither moves nor calls the host.
    pub silence: u64,
    /// The same, as it is told.
    pub term: Duration,
    /// How long a holder of lower priority may take to reach a safe point.
    pub grace: u64,
    /// How long joints that a run of higher priority was refused are kept for it, beyond the grace.
    pub kept: u64,
}

pub(super) struct Table {
    joints: Vec<String>,
    terms: Terms,
    live: BTreeMap<LeaseId, Live>,
    wants: Vec<Want>,
    next: u64,
    /// Joints of leases that have ended and have not been told to hold.
    released: BTreeSet<usize>,
}

/// Never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LeaseId(u64);

struct Live {
    holder: Holder,
    joints: BTreeSet<usize>,
    /// The callers' leases that it was cut from.
    lenders: BTreeSet<LeaseId>,
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

/// A lease that was given.
pub(super) struct Granted {
    pub id: LeaseId,
    /// Says why it ended once it has.
    pub why_lost: Arc<OnceLock<String>>,
}

impl Table {
    pub fn new(joints: Vec<String>, terms: Terms) -> Self {
        Self { joints, terms, live: BTreeMap::new(), wants: Vec::new(), next: 0, released: BTreeSet::new() }
    }

    /// The joints that must be told to hold before anybody else can have them. Taken by whoever can tell them.
    pub fn take_released(&mut self) -> BTreeSet<usize> {
        std::mem::take(&mut self.released)
    }

    pub fn acquire(&mut self, holder: &Holder, joints: BTreeSet<usize>, now: u64) -> Result<Granted, LeaseError> {
        let (mut lenders, mut inherited, mut ending, mut moving) =
            <(BTreeSet<LeaseId>, Vec<LeaseId>, Vec<_>, Vec<LeaseId>)>::default();
        for (&id, other) in &self.live {
            let Some(&joint) = other.joints.intersection(&joints).next() else { continue };
            let name = || self.joints.get(joint).cloned().unwrap_or_default();
            if other.holder.run == holder.run {
                if other.holder.instance == holder.instance {
                    return Err(LeaseError::Own { joint: name() });
                }
                inherited.push(id);
            } else if holder.callers.contains(&other.holder.run) {
                lenders.insert(id);
            } else if self.is_silent(other, now) {
                ending.push((id, self.silence()));
            } else if other.holder.priority < holder.priority {
                let patience = other.wanted.as_ref().map(|(_, since)| since.saturating_add(self.terms.grace));
                if patience.is_some_and(|end| now >= end) || !self.moves(id) {
                    ending.push((id, format!("{} has priority and took the joint {}", holder.skill, name())));
                } else {
                    moving.push(id);
                }
            } else {
                return Err(LeaseError::Held { by: other.holder.skill.clone(), joint: name() });
            }
        }
        self.wants.retain(|want| want.run != holder.run && want.until_tick > now);
        let of_ones_own = |joint: &usize| {
            inherited.iter().chain(&lenders).any(|id| self.live.get(id).is_some_and(|it| it.joints.contains(joint)))
        };
        let stands_back = |want: &&Want| {
            want.priority > holder.priority && joints.iter().any(|it| want.joints.contains(it) && !of_ones_own(it))
        };
        if let Some(want) = self.wants.iter().find(stands_back) {
            return Err(LeaseError::Awaited { by: want.skill.clone() });
        }
        if !moving.is_empty() {
            return Err(self.want(holder, joints, &moving, now));
        }
        for (id, why) in ending {
            self.end(|other, _| other == id, &why);
        }
        for id in inherited {
            // What the successor does not take stays with the run until it has settled.
            if let Entry::Occupied(mut left) = self.live.entry(id) {
                left.get_mut().joints.retain(|joint| !joints.contains(joint));
                left.get_mut().orphaned = true;
                if left.get().joints.is_empty() {
                    left.remove();
                }
            }
        }
        let id = LeaseId(self.next);
        self.next += 1;
        let why_lost = Arc::new(OnceLock::new());
        let live = Live {
            holder: holder.clone(),
            joints,
            lenders,
            motions: 0,
            orphaned: false,
            wanted: None,
            why_lost: why_lost.clone(),
        };
        self.live.insert(id, live);
        holder.heartbeat.beat(now);
        Ok(Granted { id, why_lost })
    }

    /// Notes that a run waits for joints that others move.
    fn want(&mut self, holder: &Holder, joints: BTreeSet<usize>, moving: &[LeaseId], now: u64) -> LeaseError {
        let until_tick = now.saturating_add(self.terms.grace).saturating_add(self.terms.kept);
        let (run, skill, priority) = (holder.run, holder.skill.clone(), holder.priority);
        self.wants.push(Want { run, skill: skill.clone(), priority, joints, until_tick });
        let mut by = BTreeSet::new();
        for id in moving {
            if let Some(other) = self.live.get_mut(id) {
                other.wanted.get_or_insert_with(|| (skill.clone(), now));
                by.insert(other.holder.skill.to_string());
            }
        }
        LeaseError::Moving { by: by.into_iter().collect::<Vec<_>>().join(", ") }
    }

    /// Whether a lease is still the authority over its joints. Asking is a sign of life.
    pub fn check(&mut self, id: LeaseId, why_lost: &OnceLock<String>, now: u64) -> Result<(), LeaseError> {
        if self.live.get(&id).is_some_and(|lease| self.is_silent(lease, now)) {
            let why = self.silence();
            self.end(|other, _| other == id, &why);
        }
        if let Some(borrower) = self.live.values().find(|lease| lease.lenders.contains(&id)) {
            return Err(LeaseError::Lent { to: borrower.holder.skill.clone() });
        }
        match self.live.get(&id) {
            Some(lease) if !lease.orphaned => {
                lease.holder.heartbeat.beat(now);
                Ok(())
            }
            _ => {
                let why = why_lost.get().map_or("the lease was given up", String::as_str);
                Err(LeaseError::Lost { why: why.into() })
            }
        }
    }

    /// A motion begins under a lease, which is a safe point before it.
    pub fn begin(&mut self, id: LeaseId, why_lost: &OnceLock<String>, now: u64) -> Result<(), LeaseError> {
        self.give_way(|other, _| other == id);
        self.check(id, why_lost, now)?;
        if let Some(lease) = self.live.get_mut(&id) {
            lease.motions += 1;
        }
        Ok(())
    }

    /// A motion under a lease has ended; with the last of them comes a safe point.
    pub fn ended(&mut self, id: LeaseId) {
        let left = self.live.get_mut(&id).map(|lease| {
            lease.motions = lease.motions.saturating_sub(1);
            lease.motions
        });
        if left == Some(0) {
            self.give_way(|other, _| other == id);
        }
    }

    /// The holder gives a lease up.
    pub fn give_up(&mut self, id: LeaseId) {
        self.end(|other, lease| other == id && !lease.orphaned, "the lease was given up");
    }

    /// Ends every lease of a skill, whatever it is doing.
    pub fn revoke(&mut self, skill: &SkillId) {
        self.end(|_, lease| lease.holder.skill == *skill, "the operator revoked the lease");
    }

    /// A safe point of a run: what somebody of higher priority wants of it goes.
    pub fn safe_point(&mut self, run: RunId) {
        self.give_way(|_, lease| lease.holder.run == run);
    }

    /// The instances of a run up to this one are about to go; a successor may take over what they held.
    pub fn bequeath(&mut self, run: RunId, instance: u32) {
        let of_it = |lease: &&mut Live| lease.holder.run == run && lease.holder.instance <= instance;
        self.live.values_mut().filter(of_it).for_each(|lease| {
            lease.orphaned = true;
            lease.motions = 0;
        });
    }

    /// The joints that a run holds.
    pub fn of_run(&self, run: RunId) -> BTreeSet<usize> {
        let of_it = self.live.values().filter(|lease| lease.holder.run == run);
        of_it.flat_map(|lease| lease.joints.iter().copied()).collect()
    }

    /// What no successor took over is free.
    pub fn settle(&mut self, run: RunId) {
        self.end(|_, lease| lease.holder.run == run && lease.orphaned, "its holder is gone");
    }

    /// A run is over.
    pub fn end_run(&mut self, run: RunId) {
        self.end(|_, lease| lease.holder.run == run, "its holder is gone");
        self.wants.retain(|want| want.run != run);
    }

    /// Whether anything moves under a lease, or under one that was cut from it.
    fn moves(&self, id: LeaseId) -> bool {
        self.live.iter().any(|(&other, lease)| (other == id || lease.lenders.contains(&id)) && lease.motions > 0)
    }

    fn is_silent(&self, lease: &Live, now: u64) -> bool {
        lease.motions == 0
            && !lease.orphaned
            && lease.holder.heartbeat.silent_since().is_some_and(|since| now > since.saturating_add(self.terms.silence))
    }

    fn silence(&self) -> String {
        format!("the lease expired: its holder said nothing for {:?}", self.terms.term)
    }

    /// Ends leases, and those that were cut from them.
    fn end(&mut self, which: impl Fn(LeaseId, &Live) -> bool, why: &str) {
        let mut ended: BTreeSet<LeaseId> =
            self.live.iter().filter(|(id, lease)| which(**id, lease)).map(|(&id, _)| id).collect();
        loop {
            let cut = |(id, lease): (&LeaseId, &Live)| (!lease.lenders.is_disjoint(&ended)).then_some(*id);
            let more: Vec<_> = self.live.iter().filter_map(cut).filter(|id| !ended.contains(id)).collect();
            if more.is_empty() {
                break;
            }
            ended.extend(more);
        }
        for id in ended {
            if let Some(lease) = self.live.remove(&id) {
                self.released.extend(&lease.joints);
                // Only the first end of a lease is one.
                let _ = lease.why_lost.set(why.into());
            }
        }
    }

    /// Ends those leases that somebody of higher priority wants.
    fn give_way(&mut self, which: impl Fn(LeaseId, &Live) -> bool) {
        let wanted = self.live.iter().filter(|(id, lease)| which(**id, lease));
        let wanted = wanted.filter_map(|(&id, lease)| lease.wanted.as_ref().map(|(by, _)| (id, by.clone())));
        for (id, by) in wanted.collect::<Vec<_>>() {
            self.end(|other, _| other == id, &format!("{by} has priority"));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::leases::Heartbeat;

    const JOINTS: usize = 4;
    const TERMS: Terms = Terms { silence: 50, term: Duration::from_millis(500), grace: 20, kept: 20 };

    #[derive(Debug, Clone)]
    enum Step {
        Acquire { run: u64, instance: u32, caller: Option<u64>, joints: BTreeSet<usize> },
        Begin(usize),
        Ended(usize),
        GiveUp(usize),
        Revoke(u64),
        SafePoint(u64),
        Bequeath(u64, u32),
        Settle(u64),
        EndRun(u64),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let run = 0..4_u64;
        let joints = proptest::collection::btree_set(0..JOINTS, 1..=JOINTS);
        prop_oneof![
            4 => (run.clone(), 0..3_u32, proptest::option::of(0..4_u64), joints)
                .prop_map(|(run, instance, caller, joints)| Step::Acquire { run, instance, caller, joints }),
            2 => (0..8_usize).prop_map(Step::Begin),
            1 => (0..8_usize).prop_map(Step::Ended),
            1 => (0..8_usize).prop_map(Step::GiveUp),
            1 => run.clone().prop_map(Step::Revoke),
            1 => run.clone().prop_map(Step::SafePoint),
            1 => (run.clone(), 0..3_u32).prop_map(|(run, instance)| Step::Bequeath(run, instance)),
            1 => run.clone().prop_map(Step::Settle),
            1 => run.prop_map(Step::EndRun),
            2 => (1..60_u64).prop_map(Step::Pass),
        ]
    }

    fn skill(run: u64) -> SkillId {
        SkillId::try_from(format!("test/skill{run}")).unwrap()
    }

    proptest! {
        /// Whatever happens in whatever order: a joint has one holder, but for what a caller has lent; and a joint that loses
        /// its holder is told to hold before anybody else can have it.
        #[test]
        fn a_joint_has_one_holder_and_is_released_before_the_next(steps in proptest::collection::vec(step(), 1..60)) {
            let mut table = Table::new((0..JOINTS).map(|joint| format!("joint {joint}")).collect(), TERMS);
            let beats: Vec<Arc<Heartbeat>> = (0..4).map(|_| Arc::default()).collect();
            let mut leases: Vec<(LeaseId, Arc<OnceLock<String>>)> = Vec::new();
            let mut now = 0;
            for step in steps {
                let before: Vec<_> = table.live.iter().map(|(id, lease)| (*id, lease.joints.clone())).collect();
                let mut inherits = None;
                match step {
                    Step::Acquire { run, instance, caller, joints } => {
                        let holder = Holder {
                            run: RunId::new(run),
                            instance,
                            skill: skill(run),
                            priority: run as u8,
                            callers: caller.filter(|caller| *caller != run).map(RunId::new).into_iter().collect(),
                            heartbeat: beats[run as usize].clone(),
                        };
                        inherits = Some(RunId::new(run));
                        if let Ok(granted) = table.acquire(&holder, joints, now) {
                            leases.push((granted.id, granted.why_lost));
                        }
                    }
                    Step::Begin(index) => if let Some((id, why)) = leases.get(index) {
                        let lost = table.begin(*id, why, now).is_err();
                        prop_assert!(lost || table.live.contains_key(id), "a motion begins under a lease that is gone");
                    },
                    Step::Ended(index) => if let Some((id, _)) = leases.get(index) { table.ended(*id) },
                    Step::GiveUp(index) => if let Some((id, _)) = leases.get(index) { table.give_up(*id) },
                    Step::Revoke(run) => {
                        table.revoke(&skill(run));
                        prop_assert!(table.of_run(RunId::new(run)).is_empty(), "a revoked skill has joints");
                    }
                    Step::SafePoint(run) => table.safe_point(RunId::new(run)),
                    Step::Bequeath(run, instance) => table.bequeath(RunId::new(run), instance),
                    Step::Settle(run) => table.settle(RunId::new(run)),
                    Step::EndRun(run) => {
                        table.end_run(RunId::new(run));
                        prop_assert!(table.of_run(RunId::new(run)).is_empty(), "a run that is over has joints");
                    }
                    Step::Pass(ticks) => now += ticks,
                }
                let released = table.take_released();
                for (id, joints) in before.iter().filter(|(id, _)| !table.live.contains_key(id)) {
                    // A successor in the same run takes joints over without a hold.
                    let of_the_run = inherits.map(|run| table.of_run(run)).unwrap_or_default();
                    let dropped: Vec<_> = joints.iter().filter(|it| !released.contains(it) && !of_the_run.contains(it)).collect();
                    prop_assert!(dropped.is_empty(), "the joints {dropped:?} of {id:?} were dropped");
                }
                let live: Vec<_> = table.live.iter().collect();
                for (index, (id, lease)) in live.iter().enumerate() {
                    for (other, theirs) in &live[index + 1..] {
                        let lent = lease.lenders.contains(other) || theirs.lenders.contains(id)
                            || !lease.lenders.is_disjoint(&theirs.lenders);
                        prop_assert!(lent || lease.joints.is_disjoint(&theirs.joints), "{id:?} and {other:?} share a joint");
                    }
                }
            }
        }
    }
}
