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

/// A request that waits, or that is being answered word by word.
#[derive(Debug)]
pub(super) struct Entry<J> {
    pub id: u64,
    pub job: J,
    /// It was hit by a failure of the device and is tried for the second time.
    pub again: bool,
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
    pub fn skill(&self) -> Arc<str> {
        Arc::clone(&self.skill)
    }

    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Why it is not served once its deadline has passed.
    pub fn late(&self) -> ModelError {
        ModelError::Late { given: self.deadline.saturating_duration_since(self.arrived) }
    }
}

impl<J> Queue<J> {
    pub fn new() -> Self {
        Self { entries: Vec::new(), accounts: HashMap::new(), served: Duration::ZERO, last: 0 }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Lets a request wait; returns its number.
    pub fn push(&mut self, ticket: &Ticket, job: J, now: Instant) -> Result<u64, ModelError> {
        let waiting = self.entries.len();
        if waiting >= MOST_WAITING {
            return Err(ModelError::Busy { waiting });
        }
        if self.accounts.get(&ticket.skill).is_some_and(|account| account.entries >= QUOTA) {
            return Err(ModelError::Quota { most: QUOTA });
        }
        self.last += 1;
        self.put_back(Entry {
            id: self.last,
            job,
            again: false,
            skill: Arc::clone(&ticket.skill),
            priority: ticket.priority,
            deadline: ticket.deadline.unwrap_or(now + LONGEST_WAIT),
            arrived: now,
        });
        Ok(self.last)
    }

    /// Lets a request that was taken wait once more; it was let in already.
    pub fn put_back(&mut self, entry: Entry<J>) {
        let (since, account) = (self.served, self.account(&entry.skill));
        if account.entries == 0 {
            account.served = account.served.max(since);
        }
        account.entries += 1;
        self.entries.push(entry);
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

    /// Removes everything whose deadline has passed.
    pub fn remove_late(&mut self, now: Instant) -> Vec<Entry<J>> {
        let late: Vec<u64> = self.entries.iter().filter(|entry| entry.deadline <= now).map(|entry| entry.id).collect();
        late.into_iter().filter_map(|id| self.remove(id)).collect()
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

    /// A turn of `skill` begins.
    pub fn begin(&mut self, skill: &Arc<str>) {
        self.served = self.served.max(self.account(skill).served);
    }

    /// A turn of `skill` has ended, after this much of the model's time.
    pub fn charge(&mut self, skill: &Arc<str>, time: Duration) {
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
            let entry = queue.remove(id).unwrap();
            queue.begin(&entry.skill());
            queue.charge(&entry.skill(), took);
            names.push(entry.job);
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
