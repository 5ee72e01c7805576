//! Which request is served next. No threads, no clock and no model: time is handed in.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ticket::{Priority, Ticket};
use crate::error::ModelError;

/// Requests of one run that may wait.
pub const QUOTA: usize = 16;
/// Requests of one skill that may wait.
const SKILL_QUOTA: usize = 4 * QUOTA;
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
/// The same for the runs of one skill. They do the same, so their deadlines say little about who needs it more.
const RUN_LEAD: Duration = Duration::from_millis(20);

/// Requests that have come and have not gone. They are a few dozen at most and looked at one by one.
///
/// The order: by priority; then, of the skills that are at most [`LEAD`] ahead of the one that was served least, and of their
/// runs that are at most [`RUN_LEAD`] ahead, the earliest deadline; then, of equal deadlines, the skill that was served
/// least, and its run that was; then as they came. Deadlines alone would let a skill that asks often and urgently push
/// everybody else to the edge of theirs, and the run of a skill that began first push away all others.
#[derive(Debug)]
pub(super) struct Queue<J> {
    entries: Vec<Entry<J>>,
    skills: Shares<Arc<str>>,
    /// Of the skills that have an account.
    runs: HashMap<Arc<str>, Shares<u64>>,
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
    caller: Caller,
    priority: Priority,
    deadline: Instant,
    arrived: Instant,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    skill: Arc<str>,
    run: u64,
}

/// What each of those was served among whom the model's time is shared.
#[derive(Debug)]
struct Shares<K> {
    accounts: HashMap<K, Account>,
    /// What the one that was served least of those that waited for the last turn, in its class, had been served when it began.
    /// Who comes, or comes back, starts here, so that nobody saves up turns by not asking, and nobody loses any by asking one
    /// by one.
    served: Duration,
}

#[derive(Debug)]
struct Account {
    entries: usize,
    /// Of the model's time; see [`Shares::served`].
    served: Duration,
}

impl<K> Default for Shares<K> {
    fn default() -> Self {
        Self { accounts: HashMap::new(), served: Duration::ZERO }
    }
}

impl<K: Eq + Hash + Clone> Shares<K> {
    fn entries(&self, key: &K) -> usize {
        self.accounts.get(key).map_or(0, |account| account.entries)
    }

    fn served(&self, key: &K) -> Duration {
        self.accounts.get(key).map_or(self.served, |account| account.served)
    }

    fn enter(&mut self, key: &K) {
        let (since, account) = (self.served, self.account(key));
        if account.entries == 0 {
            account.served = account.served.max(since);
        }
        account.entries += 1;
    }

    fn leave(&mut self, key: &K) {
        self.account(key).entries -= 1;
        let served = self.served;
        self.accounts.retain(|_, account| account.entries > 0 || account.served > served);
    }

    /// A turn begins for which these waited.
    fn begin<'a>(&mut self, waited: impl Iterator<Item = &'a K>)
    where
        K: 'a,
    {
        let least = waited.map(|key| self.served(key)).min();
        self.served = self.served.max(least.unwrap_or_default());
    }

    /// Returns what it was served by now.
    fn end(&mut self, key: &K, time: Duration) -> Duration {
        let account = self.account(key);
        account.served += time;
        account.served
    }

    fn account(&mut self, key: &K) -> &mut Account {
        let fresh = Account { entries: 0, served: self.served };
        self.accounts.entry(key.clone()).or_insert(fresh)
    }
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
        Self { entries: Vec::new(), skills: Shares::default(), runs: HashMap::new(), last: 0 }
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
        let caller = Caller { skill: Arc::clone(&ticket.skill), run: ticket.run };
        if self.runs.get(&caller.skill).is_some_and(|runs| runs.entries(&caller.run) >= QUOTA) {
            return Err(ModelError::Quota { most: QUOTA });
        }
        if self.skills.entries(&caller.skill) >= SKILL_QUOTA {
            return Err(ModelError::Quota { most: SKILL_QUOTA });
        }
        self.last += 1;
        self.skills.enter(&caller.skill);
        self.runs.entry(Arc::clone(&caller.skill)).or_default().enter(&caller.run);
        let deadline = ticket.deadline.unwrap_or(now + LONGEST_WAIT);
        self.entries.push(Entry {
            id: self.last,
            job,
            again: false,
            running: false,
            caller,
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
        self.skills.leave(&entry.caller.skill);
        self.runs.entry(Arc::clone(&entry.caller.skill)).or_default().leave(&entry.caller.run);
        self.runs.retain(|skill, _| self.skills.accounts.contains_key(skill));
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
        self.skills.accounts.clear();
        self.runs.clear();
        std::mem::take(&mut self.entries)
    }

    /// What is to be served next.
    pub fn most_urgent(&mut self) -> Option<&mut Entry<J>> {
        let class = self.entries.iter().map(|entry| entry.priority).max()?;
        let of_class = || self.entries.iter().enumerate().filter(|(_, entry)| entry.priority == class);
        let served = |entry: &Entry<J>| {
            let Caller { skill, run } = &entry.caller;
            (self.skills.served(skill), self.runs.get(skill).map_or(Duration::ZERO, |runs| runs.served(run)))
        };
        let least = of_class().map(|(_, entry)| served(entry).0).min()?;
        let mut least_runs = HashMap::new();
        for (_, entry) in of_class() {
            let run = served(entry).1;
            least_runs
                .entry(&entry.caller.skill)
                .and_modify(|least: &mut Duration| *least = run.min(*least))
                .or_insert(run);
        }
        let within = of_class().filter(|(_, entry)| {
            let (skill, run) = served(entry);
            skill <= least + LEAD && least_runs.get(&entry.caller.skill).is_none_or(|least| run <= *least + RUN_LEAD)
        });
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
    pub fn begin(&mut self, id: u64) -> Option<Caller> {
        let entry = self.get_mut(id)?;
        entry.running = true;
        let (caller, class) = (entry.caller.clone(), entry.priority);
        // Whoever waits in a lower class is served nothing for as long as there is a higher one.
        let of_class = || self.entries.iter().filter(|entry| entry.priority == class).map(|entry| &entry.caller);
        self.skills.begin(of_class().map(|caller| &caller.skill));
        let of_skill = of_class().filter(|other| other.skill == caller.skill);
        self.runs.entry(Arc::clone(&caller.skill)).or_default().begin(of_skill.map(|caller| &caller.run));
        Some(caller)
    }

    /// The turn of a request has ended, after this much of the model's time. It may be gone, or wait once more.
    pub fn end(&mut self, id: u64, caller: &Caller, time: Duration) {
        if let Some(entry) = self.get_mut(id) {
            entry.running = false;
        }
        let served = self.skills.end(&caller.skill, time);
        self.runs.entry(Arc::clone(&caller.skill)).or_default().end(&caller.run, time);
        if self.entries.is_empty() {
            // Nobody was kept waiting, so whoever comes next begins like everybody else.
            self.skills.served = self.skills.served.max(served);
            self.skills.accounts.clear();
            self.runs.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves until nothing is left, each request taking `took`; names in order.
    fn drain(queue: &mut Queue<&'static str>, took: Duration) -> Vec<&'static str> {
        let mut names = Vec::new();
        while let Some(id) = queue.most_urgent().map(|entry| entry.id) {
            let caller = queue.begin(id).unwrap();
            names.push(queue.remove(id).unwrap().job);
            queue.end(id, &caller, took);
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

    /// Jain's index: 1 where all get the same, 1/n where one gets everything.
    fn fairness(served: impl Iterator<Item = f64> + Clone) -> f64 {
        let (sum, squares) = (served.clone().sum::<f64>(), served.clone().map(|it| it * it).sum::<f64>());
        sum * sum / (served.count() as f64 * squares)
    }

    #[test]
    fn skills_share_the_model_first_and_the_runs_of_each_second_whatever_their_deadlines_are() {
        let (mut queue, now) = (Queue::new(), Instant::now());
        // Of the first skill there is one run, of the last there are eight; each asks anew as soon as it is answered, and who
        // began first has the earliest deadline.
        let callers: Vec<(usize, u64)> = [1, 2, 4, 5, 8]
            .into_iter()
            .zip(0..)
            .flat_map(|(runs, skill)| (0..runs).map(move |run| (skill, run)))
            .collect();
        let names = ["a", "b", "c", "d", "e"];
        let ask = |queue: &mut Queue<usize>, at: usize| {
            let (skill, run) = callers[at];
            let until = now + Duration::from_secs(600) + Duration::from_millis(at as u64);
            queue.push(&Ticket::new(names[skill]).by(run).until(until), at, now).unwrap();
        };
        (0..callers.len()).for_each(|at| ask(&mut queue, at));
        let mut served = vec![0.0; callers.len()];
        for _ in 0..2000 {
            let id = queue.most_urgent().unwrap().id;
            let caller = queue.begin(id).unwrap();
            let at = queue.remove(id).unwrap().job;
            // What the last skill asks takes twice as long.
            let time = Duration::from_millis(if callers[at].0 == 4 { 10 } else { 5 });
            served[at] += time.as_secs_f64();
            ask(&mut queue, at);
            queue.end(id, &caller, time);
        }
        let of = |skill: usize| {
            callers.iter().zip(&served).filter(move |((it, _), _)| *it == skill).map(|(_, served)| *served)
        };
        let skills = fairness((0..5).map(|skill| of(skill).sum::<f64>()));
        assert!(skills > 0.99, "{skills}");
        for (skill, name) in names.iter().enumerate() {
            let runs = fairness(of(skill));
            assert!(runs > 0.99, "of {name}: {runs}");
        }
    }

    #[test]
    fn who_waits_in_a_lower_class_saves_up_no_turns_for_those_who_come_late() {
        let (mut queue, now) = (Queue::new(), Instant::now());
        let ask = |queue: &mut Queue<_>, skill: &'static str, priority| {
            queue.push(&Ticket::new(skill).of(priority), skill, now).unwrap();
        };
        let serve = |queue: &mut Queue<&'static str>, turns: usize| {
            let serve = |_| {
                let id = queue.most_urgent().unwrap().id;
                let caller = queue.begin(id).unwrap();
                let name = queue.remove(id).unwrap().job;
                queue.end(id, &caller, Duration::from_secs(1));
                name
            };
            (0..turns).map(serve).collect::<Vec<_>>()
        };
        ask(&mut queue, "starves", Priority::Low);
        (0..8).for_each(|_| ask(&mut queue, "old", Priority::High));
        serve(&mut queue, 8);
        ["new", "new", "new", "old", "old", "old"].into_iter().for_each(|skill| ask(&mut queue, skill, Priority::High));
        assert_eq!(serve(&mut queue, 6), ["new", "new", "old", "new", "old", "old"]);
    }

    #[test]
    fn a_run_at_its_quota_leaves_places_to_the_other_runs_of_its_skill() {
        let (mut queue, now) = (Queue::new(), Instant::now());
        let refused = |queue: &mut Queue<()>, run| queue.push(&Ticket::new("a").by(run), (), now).is_err();
        assert_eq!((0..100).filter(|_| refused(&mut queue, 1)).count(), 100 - QUOTA);
        assert!(!refused(&mut queue, 2));
        assert_eq!((3..100).filter(|run| refused(&mut queue, *run)).count(), 97 - (SKILL_QUOTA - QUOTA - 1));
        assert!(refused(&mut queue, 100) && queue.push(&Ticket::new("b"), (), now).is_ok());
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
        assert!(queue.skills.accounts.is_empty() && queue.runs.is_empty(), "{:?} {:?}", queue.skills, queue.runs);
    }
}
