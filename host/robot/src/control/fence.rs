//! Fences: who may move which joint, as the control loop sees it.
//!
//! Every joint has a counter. Whoever takes joints over, or tells them to hold, counts theirs on: that *raises a fence*.
//! Every play and drive carries the counts of its joints under which it was authorised. The loop compares them in every
//! tick: one whose joints have another count ends, and one that has not begun never does. Raising a fence takes neither a
//! lock nor a place in a queue, so nothing that others ask of the loop can delay it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One counter a joint.
pub(crate) struct Fences(Box<[AtomicU64]>);

/// The authority over some joints, as of one moment: it is current until a newer fence is raised around any of them.
///
/// Made by [`Robot::fence`](crate::Robot::fence). What is played or driven under it moves nothing any more once it is not
/// current: from the next tick on, and also if it was asked before and only arrives later.
#[derive(Clone)]
pub struct Fence {
    fences: Arc<Fences>,
    /// Joints and their counts, by joint.
    marks: Arc<[(usize, u64)]>,
}

impl Fence {
    /// Its joints, in ascending order.
    pub fn joints(&self) -> impl Iterator<Item = usize> + '_ {
        self.marks.iter().map(|(joint, _)| *joint)
    }

    /// Whether no newer fence has been raised around any of its joints. The answer may be out of date at once: only what is
    /// asked under the fence is sure to be asked while it is current.
    pub fn is_current(&self) -> bool {
        self.marks.iter().all(|&(joint, count)| self.fences.count(joint) == count)
    }
}

impl std::fmt::Debug for Fence {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_map().entries(self.marks.iter().copied()).finish()
    }
}

impl Fences {
    pub fn new(joints: usize) -> Arc<Self> {
        Arc::new(Self((0..joints).map(|_| AtomicU64::new(0)).collect()))
    }

    fn count(&self, joint: usize) -> u64 {
        self.0[joint].load(Ordering::SeqCst)
    }

    /// Raises a fence around those of `joints` that the robot has.
    pub fn raise(self: &Arc<Self>, joints: impl Iterator<Item = usize>) -> Fence {
        let raised = joints.filter_map(|joint| {
            let count = self.0.get(joint)?.fetch_add(1, Ordering::SeqCst) + 1;
            Some((joint, count))
        });
        Fence { fences: self.clone(), marks: raised.collect() }
    }

    /// The fence that stands around `joints` now, whoever raised it. Joints that the robot lacks are passed over.
    pub fn standing(self: &Arc<Self>, joints: impl Iterator<Item = usize>) -> Fence {
        let marks = joints.filter_map(|joint| Some((joint, self.0.get(joint)?.load(Ordering::SeqCst))));
        Fence { fences: self.clone(), marks: marks.collect() }
    }

    /// Raises a new fence around those joints of `old` around which nobody else has raised one since; `None` if that is not
    /// all of them.
    pub fn renew(self: &Arc<Self>, old: &Fence) -> Option<Fence> {
        if !Arc::ptr_eq(self, &old.fences) {
            return None;
        }
        let renew = |&(joint, count): &(usize, u64)| {
            let renewed = self.0[joint].compare_exchange(count, count + 1, Ordering::SeqCst, Ordering::SeqCst);
            renewed.is_ok().then_some((joint, count + 1))
        };
        // All of them are tried before it is said that one was not current.
        let renewed: Vec<_> = old.marks.iter().map(renew).collect();
        let marks = renewed.into_iter().collect::<Option<_>>()?;
        Some(Fence { fences: self.clone(), marks })
    }

    /// The counts of `joints`: under the fence, or as they are now. The joint that the fence is not around, if there is one,
    /// is the error.
    pub fn counts(self: &Arc<Self>, joints: &[usize], under: Option<&Fence>) -> Result<Vec<u64>, usize> {
        let count = |&joint: &usize| match under {
            None => Ok(self.count(joint)),
            Some(fence) => {
                let of_this_robot = Arc::ptr_eq(self, &fence.fences);
                let place = fence.marks.binary_search_by_key(&joint, |(fenced, _)| *fenced);
                place.ok().filter(|_| of_this_robot).map(|place| fence.marks[place].1).ok_or(joint)
            }
        };
        joints.iter().map(count).collect()
    }

    /// Whether a fence has been raised around any of `joints` since they had these counts.
    pub fn raised_since(&self, joints: &[usize], counts: &[u64]) -> bool {
        joints.iter().zip(counts).any(|(&joint, &count)| self.count(joint) != count)
    }

    /// How many fences were raised, each counted once a joint.
    pub fn raised(&self) -> u64 {
        self.0.iter().map(|count| count.load(Ordering::SeqCst)).sum()
    }
}
