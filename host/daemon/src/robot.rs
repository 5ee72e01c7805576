//! What becomes of the robot: its host stop, its link and its control loop. What changes is news.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use waza_robot::{Robot, Statistics};

use crate::news::{News, Report};
use crate::runs::Runs;
use crate::wire::Condition;

/// How often it is looked at. Braking does not wait for this; ending runs does.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Ticks over which the link's errors are counted. A link that fails now and then is not down.
const LINK_TICKS: u64 = 10;

/// What was last seen of the robot.
#[derive(Default)]
pub(crate) struct Watched(AtomicU8);

impl Watched {
    const ALL: [Condition; 3] = [Condition::Works, Condition::LinkDown, Condition::Ended];

    /// Waits for nobody.
    pub fn condition(&self) -> Condition {
        let index = self.0.load(Ordering::Acquire);
        Self::ALL.get(usize::from(index)).copied().unwrap_or_default()
    }

    fn note(&self, condition: Condition) {
        self.0.store(condition as u8, Ordering::Release);
    }
}

/// Follows the robot for as long as this is driven. Ends every run when the host stop is latched, whatever latched it.
pub(crate) async fn follow(robot: Robot, runs: Arc<Runs>, watched: Arc<Watched>, report: Report) {
    let (mut latched, mut condition, mut link) = (None, Condition::Works, LinkWatch::new(&robot.statistics()));
    let mut looking = tokio::time::interval(LOOK_EVERY);
    loop {
        looking.tick().await;
        let stopped = robot.stopped();
        if stopped != latched {
            latched = stopped;
            report(match stopped {
                Some(stop) => {
                    runs.interrupt_all();
                    News::Stopped { stop: stop.number() }
                }
                None => News::Reset,
            });
        }
        let now = if robot.has_ended() { Condition::Ended } else { link.look(&robot.statistics()) };
        if now != condition {
            condition = now;
            watched.note(now);
            report(match now {
                Condition::Works => News::LinkBack,
                Condition::LinkDown => News::LinkDown,
                Condition::Ended => News::RobotEnded,
            });
        }
    }
}

/// Tells from a robot's counts whether its link is down: there is an error in every tick.
struct LinkWatch {
    ticks: u64,
    errors: u64,
    condition: Condition,
}

impl LinkWatch {
    fn new(begin: &Statistics) -> Self {
        Self { ticks: begin.ticks, errors: begin.link_errors, condition: Condition::Works }
    }

    fn look(&mut self, now: &Statistics) -> Condition {
        let (ticks, errors) = (now.ticks.saturating_sub(self.ticks), now.link_errors.saturating_sub(self.errors));
        if ticks >= LINK_TICKS {
            let condition = if errors >= ticks { Condition::LinkDown } else { Condition::Works };
            *self = Self { ticks: now.ticks, errors: now.link_errors, condition };
        }
        self.condition
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn counts(ticks: u64, link_errors: u64) -> Statistics {
        let (longest_work, latest_start) = (Duration::ZERO, Duration::ZERO);
        Statistics {
            ticks,
            missed: 0,
            longest_work,
            latest_start,
            link_errors,
            interventions: BTreeMap::new(),
            link_interventions: BTreeMap::new(),
        }
    }

    #[test]
    fn a_link_is_down_when_every_tick_has_an_error_and_back_when_they_have_none() {
        let mut link = LinkWatch::new(&counts(100, 7));
        for (ticks, errors, expected) in [
            // Two ticks fail; too few to say.
            (102, 11, Condition::Works),
            (110, 13, Condition::Works),
            // Reading fails and writing does, in each of ten ticks.
            (120, 33, Condition::LinkDown),
            (125, 43, Condition::LinkDown),
            (130, 53, Condition::LinkDown),
            (131, 53, Condition::LinkDown),
            (140, 53, Condition::Works),
        ] {
            assert_eq!(link.look(&counts(ticks, errors)), expected, "{ticks} ticks, {errors} errors");
        }
    }

    #[test]
    fn what_is_noted_is_seen() {
        let watched = Watched::default();
        assert_eq!(watched.condition(), Condition::Works);
        for condition in Watched::ALL {
            watched.note(condition);
            assert_eq!(watched.condition(), condition);
        }
    }
}
