//! What a request says about itself, whatever it asks for.

use std::sync::Arc;
use std::time::{Duration, Instant};

/// Who asks, how much depends on it, and until when an answer is of use.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// Who asks, of those among whom the model's time is shared first.
    pub skill: Arc<str>,
    /// Which run of it, of those among whom the skill's part is shared.
    pub run: u64,
    /// Before all others of a lower one.
    pub priority: Priority,
    /// A request that has not begun by then is dropped, one that has begun 5 s later. Without one it is dropped after ten
    /// minutes.
    pub deadline: Option<Instant>,
}

/// Classes of requests. A class is served only when none waits of a higher one: what moves a robot must not be late because
/// somebody's question has a nearer deadline, and no deadline says how much is lost when it passes. So a class may wait for
/// as long as a higher one takes all of the model's time, and its requests then end at their deadlines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Nobody waits for it: a measurement, say.
    Low,
    /// A skill waits for it.
    #[default]
    Normal,
    /// A robot waits for it, or is about to.
    High,
}

impl Ticket {
    /// Of normal priority, without a deadline, of a skill that has one run.
    pub fn new(skill: impl Into<Arc<str>>) -> Self {
        Self { skill: skill.into(), run: 0, priority: Priority::Normal, deadline: None }
    }

    /// Asked by this run of the skill.
    #[must_use]
    pub fn by(self, run: u64) -> Self {
        Self { run, ..self }
    }

    /// Of this priority.
    #[must_use]
    pub fn of(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    /// To begin before this moment.
    #[must_use]
    pub fn until(self, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// To begin within this time from now.
    #[must_use]
    pub fn within(self, time: Duration) -> Self {
        Self { deadline: Instant::now().checked_add(time), ..self }
    }
}
