//! Which request is served next. No threads, no clock and no model: time is handed in.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ticket::{Priority, Ticket};
use crate::error::ModelError;

/// Requests of one skill that may wait: as many as run together at most.
pub const QUOTA: usize = 16;
/// Requests that may wait; it takes so many skills at their quota that something else is wrong.
pub const MOST_WAITING: usize = 16 * QUOTA;
/// How long a request without a deadline may wait: long enough for the slowest model, and not for ever.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// How long after its deadline a request that has begun may still be answered. A chunk of actions is of some use until its
/// last row is due, at most 5 s with 50 rows at 10 a second; a device that takes longer hangs, for all that its caller knows.
const GRACE: Duration = Duration::from_secs(5);
/// By how much of the model's time a skill may get ahead of another one that waits. Less, and deadlines count for less;
/// more, and a skill that asks without pause holds the others up for longer.
const LEAD: Duration = Duration::from_millis(250);

/// Requests that have come and have not gone. They are a few dozen at most and looked at one by one.
///
/// The order: by priority; then, of the skills that are at most [`LEAD`] ahead of the one that was served least, the
/// earliest deadline; then, of equal deadlines, the skill that was served least; then as they came. Deadlines alone would
/// let a skill that asks often and urgently push everybody else to the edge of theirs.
#[derive(Debug)]
pub(super) struct Queue<J> {
    entries: Vec<Entry<J>>,
    accounts: HashMap<Arc<str>, Account>,
    /// What the skill that was served last had been served when its turn began. A skill that comes, or comes back, starts
    /// here, so that nobody saves up turns by not asking.
    served: Duration,
    last: u64,
}

/// A request that waits or is being answered.
#[derive(Debug)]
pub(super) struct Entry<J> {
    pub id: u64,
    pub job: J,
    /// It was hit by a failure of the device and is tried for the second time.
    pub again: bool,
    /// It is its turn now: the device works on it.
    running: bool,
    skill: Arc<str>,
    priority: Priority,
    deadline: Instant,
    arrived: Instant,
}

#[derive(Debug)]
struct Account {
    entries: usize,
    /// Of the model's time; see [`Queue::served`].
    served: Duration,
}

impl<J> Entry<J> {
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Why it is not served once its deadline has passed.
    pub fn late(&self) -> ModelError {
        ModelError::Late { given: self.deadline.saturating_duration_since(self.arrived) }
    }

    fn is_late(&self, now: Instant) -> bool {
        let grace = if self.running { GRACE } else { Duration::ZERO };
        self.deadline <= now && now - self.deadline >= grace
    }
}

impl<J> Queue<J> {
    pub fn new() -> Self {
        Self { entries: Vec::new(), accounts: HashMap::new(), served: Duration::ZERO, last: 0 }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Lets a request wait; returns its number and its deadline.
    pub fn push(&mut self, ticket: &Ticket, job: J, now: Instant) -> Result<(u64, Instant), ModelError> {
        let waiting = self.entries.len();
        if waiting >= MOST_WAITING {
            return Err(ModelError::Busy { waiting });
        }
        if self.accounts.get(&ticket.skill).is_some_and(|account| account.entries >= QUOTA) {
            return Err(ModelError::Quota { most: QUOTA });
        }
        self.last += 1;
        let (since, account) = (self.served, self.account(&ticket.skill));
        if account.entries == 0 {
            account.served = account.served.max(since);
        }
        account.entries += 1;
        let deadline = ticket.deadline.unwrap_or(now + LONGEST_WAIT);
        self.entries.push(Entry {
            id: self.last,
            job,
            again: false,
            running: false,
            skill: Arc::clone(&ticket.skill),
            priority: ticket.priority,
            deadline,
            arrived: now,
        });
        Ok((self.last, deadline))
    }

    pub fn get(&self, id: u64) -> Option<&Entry<J>> {
        self.entries.iter().find(|entry| entry.id == id)
    }

    pub fn get_mut(&mut self, id: u64) -> Option<&mut Entry<J>> {
        self.entries.iter_mut().find(|entry| entry.id == id)
    }

    /// Removes a request, whatever for.
    pub fn remove(&mut self, id: u64) -> Option<Entry<J>> {
        let at = self.entries.iter().position(|entry| entry.id == id)?;
        let entry = self.entries.swap_remove(at);
        self.account(&entry.skill).entries -= 1;
        let served = self.served;
        self.accounts.retain(|_, account| account.entries > 0 || account.served > served);
        Some(entry)
    }

    /// Removes everything that is too late: what has not begun at its deadline, what has begun [`GRACE`] after it.
    pub fn remove_late(&mut self, now: Instant) -> Vec<Entry<J>> {
        let late: Vec<u64> = self.entries.iter().filter(|entry| entry.is_late(now)).map(|entry| entry.id).collect();
        late.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    /// When a request is late next, if none is now; not later than that, whatever begins or ends its turn until then.
    pub fn late_next(&self, now: Instant) -> Option<Instant> {
        let next = |entry: &Entry<J>| {
            if entry.deadline > now {
                entry.deadline
            } else {
                entry.deadline.checked_add(GRACE).unwrap_or(entry.deadline)
            }
        };
        self.entries.iter().map(next).min()
    }

    /// Removes everything.
    pub fn clear(&mut self) -> Vec<Entry<J>> {
        self.accounts.clear();
        std::mem::take(&mut self.entries)
    }

    /// What is to be served next.
    pub fn most_urgent(&mut self) -> Option<&mut Entry<J>> {
        let class = self.entries.iter().map(|entry| entry.priority).max()?;
        let served = |entry: &Entry<J>| self.accounts.get(&entry.skill).map_or(self.served, |account| account.served);
        let of_class = || self.entries.iter().enumerate().filter(|(_, entry)| entry.priority == class);
        let least = of_class().map(|(_, entry)| served(entry)).min()?;
        let within = of_class().filter(|(_, entry)| served(entry) <= least + LEAD);
        let (at, _) = within.min_by_key(|(_, entry)| (entry.deadline, served(entry), entry.id))?;
        self.entries.get_mut(at)
    }

    /// All requests, the earliest deadline first, to find some that go along with the most urgent one.
    pub fn by_deadline(&mut self) -> Vec<&mut Entry<J>> {
        let mut entries: Vec<_> = self.entries.iter_mut().collect();
        entries.sort_by_key(|entry| (entry.deadline, entry.id));
        entries
    }

    /// The turn of a request begins; returns whose it is.
    pub fn begin(&mut self, id: u64) -> Option<Arc<str>> {
        let entry = self.get_mut(id)?;
        entry.running = true;
        let skill = Arc::clone(&entry.skill);
        self.served = self.served.max(self.account(&skill).served);
        Some(skill)
    }

    /// The turn of a request of `skill` has ended, after this much of the model's time. It may be gone, or wait once more.
    pub fn end(&mut self, id: u64, skill: &Arc<str>, time: Duration) {
        if let Some(entry) = self.get_mut(id) {
            entry.running = false;
        }
        let account = self.account(skill);
        account.served += time;
        let served = account.served;
        if self.entries.is_empty() {
            // Nobody was kept waiting, so whoever comes next begins like everybody else.
            self.served = self.served.max(served);
            self.accounts.clear();
        }
    }

    fn account(&mut self, skill: &Arc<str>) -> &mut Account {
        let fresh = Account { entries: 0, served: self.served };
        self.accounts.entry(Arc::clone(skill)).or_insert(fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves until nothing is left, each request taking `took`; names in order.
    fn drain(queue: &mut Queue<&'static str>, took: Duration) -> Vec<&'static str> {
        let mut names = Vec::new();
        while let Some(id) = queue.most_urgent().map(|entry| entry.id) {
            let skill = queue.begin(id).unwrap();
            names.push(queue.remove(id).unwrap().job);
            queue.end(id, &skill, took);
        }
        names
    }

    #[test]
    fn a_skill_that_is_always_more_urgent_gets_ahead_by_a_quarter_of_a_second_only() {
        let (mut queue, now) = (Queue::new(), Instant::now());
        queue.push(&Ticket::new("patient").until(now + Duration::from_secs(60)), "patient", now).unwrap();
        for _ in 0..10 {
            queue.push(&Ticket::new("urgent").until(now + Duration::from_secs(1)), "urgent", now).unwrap();
        }
        let order = drain(&mut queue, Duration::from_millis(100));
        assert_eq!(order.iter().position(|name| *name == "patient"), Some(3));
    }

    #[test]
    fn nobody_saves_up_turns_by_not_asking() {
        let (mut queue, now) = (Queue::new(), Instant::now());
        let ask = |queue: &mut Queue<_>, skill: &'static str| queue.push(&Ticket::new(skill), skill, now).unwrap();
        for _ in 0..8 {
            ask(&mut queue, "old");
        }
        drain(&mut queue, Duration::from_secs(1));
        // All ask at the same moment.
        for skill in ["new", "new", "new", "old", "old", "old"] {
            ask(&mut queue, skill);
        }
        assert_eq!(drain(&mut queue, Duration::from_secs(1)), ["new", "old", "new", "old", "new", "old"]);
    }

    #[test]
    fn what_has_begun_is_late_some_seconds_after_its_deadline_and_is_looked_at_no_later() {
        let (mut queue, start) = (Queue::new(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let late = |queue: &mut Queue<_>, now| queue.remove_late(now).iter().map(|entry| entry.job).collect::<Vec<_>>();
        for (name, deadline) in [("begun", 1), ("waits", 1), ("waits longer", 3)] {
            queue.push(&Ticket::new(name).until(after(deadline)), name, start).unwrap();
        }
        queue.begin(1).unwrap();
        assert_eq!((queue.late_next(start), late(&mut queue, after(1))), (Some(after(1)), vec!["waits"]));
        assert_eq!((queue.late_next(after(1)), late(&mut queue, after(5))), (Some(after(3)), vec!["waits longer"]));
        assert_eq!((queue.late_next(after(5)), late(&mut queue, after(6))), (Some(after(6)), vec!["begun"]));
        assert_eq!(queue.late_next(after(6)), None);
    }

    #[test]
    fn a_skill_that_has_gone_leaves_no_account_behind() {
        let (mut queue, now) = (Queue::new(), Instant::now());
        for skill in ["a", "b", "c", "a"] {
            queue.push(&Ticket::new(skill), skill, now).unwrap();
            queue.push(&Ticket::new("withdrawn"), "withdrawn", now).unwrap();
            queue.remove(queue.last).unwrap();
            drain(&mut queue, Duration::from_secs(1));
        }
        assert!(queue.accounts.is_empty(), "{:?}", queue.accounts);
    }
}
