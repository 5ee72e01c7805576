//! The chunk player: turns plays into one demanded position per joint and tick.
//!
//! A play becomes a monotone cubic spline (Fritsch and Butland 1984) from where its joints are commanded to be, at the
//! speed they have, through its remaining rows: velocity is continuous, and between two rows no joint leaves their
//! range. Rows that follow a newer play's start within [`BLEND_S`] are mixed with what is left of the older play, the
//! way real-time chunking weights the overlap (Black et al. 2025), so that a change of mind becomes no jerk.
//!
//! Rows of a model jitter, and a spline through them turns harder than a joint may. So the demands follow the spline
//! within the joint's velocity, acceleration and jerk, and rows that cannot be met are reported. Where the rows lead is not
//! the player's business: positions and places are the safety filter's.

use std::sync::Arc;

use crate::control::answer::{Answer, Spent};
use crate::control::joint_holders::{Claim, JointHolder, JointHolders, Over, Task};
use crate::control::play::{Ended, Play, PlayReport};
use crate::embodiment::{Embodiment, Joint, Within};
use crate::safety::filter::Demand;
use crate::safety::{Act, Response, Rule};
use crate::trajectory::jerk_average::Shaper;
use crate::trajectory::limits::State;

/// How long a newer play takes to prevail over what is left of an older one, seconds.
const BLEND_S: f64 = 0.3;

/// A play whose joints have not come to rest this long after its last row is over all the same, seconds.
const SETTLE_S: f64 = 1.0;

/// A checked play in the player's own form, made on the caller's thread: one column a joint.
pub(crate) struct Prepared {
    pub claim: Claim,
    columns: Vec<Vec<f64>>,
    /// Ticks from row to row.
    spacing: f64,
    since_tick: Option<u64>,
    within: Option<Arc<Within>>,
    /// Where the joints are when the play starts.
    starts: Vec<State>,
}

impl Prepared {
    /// `play` has been checked against `embodiment`.
    pub fn new(play: &Play, embodiment: &Embodiment, claim: Claim) -> Self {
        let column = |&joint: &usize| play.rows.iter().map(|row| row[joint].into()).collect();
        Self {
            columns: claim.joints.iter().map(column).collect(),
            starts: vec![State::default(); claim.joints.len()],
            claim,
            spacing: f64::from(embodiment.control_hz) / f64::from(play.rate_hz),
            since_tick: play.since_tick,
            within: play.within.clone(),
        }
    }

    fn last(&self) -> usize {
        self.columns.first().map_or(0, |column| column.len().saturating_sub(1))
    }
}

/// How old an observation may be that a play acts on, ticks.
fn oldest(embodiment: &Embodiment) -> Option<f64> {
    embodiment.command_age_s.map(|seconds| f64::from(seconds) * f64::from(embodiment.control_hz))
}

/// A play that drives its joints.
pub(crate) struct Active {
    play: Box<Prepared>,
    /// The tick at which the rows were true.
    since: f64,
    /// The first row that was not too late.
    first: usize,
    /// When the play took over: the tick whose command `play.starts` is.
    started: f64,
    /// The row that the joints are on their way to.
    next: usize,
}

impl Task for Active {
    fn claim(&self) -> &Claim {
        &self.play.claim
    }

    fn claim_mut(&mut self) -> &mut Claim {
        &mut self.play.claim
    }

    fn spent(self) -> Spent {
        self.play
    }

    fn within(&self) -> Option<&Arc<Within>> {
        self.play.within.as_ref()
    }
}

impl Active {
    /// When a row is due, in ticks; the last one is reached late so that the joints come to rest on it.
    fn due(&self, row: usize) -> f64 {
        let rows = if row == self.play.last() { row + 2 } else { row + 1 };
        self.since + rows as f64 * self.play.spacing
    }

    fn end(&self) -> f64 {
        self.due(self.play.last())
    }

    /// Time and position of a row.
    fn knot(&self, column: usize, row: usize) -> (f64, f64) {
        (self.due(row), self.play.columns[column][row])
    }

    /// Time and position of the row before, or of the start.
    fn knot_before(&self, column: usize, row: usize) -> (f64, f64) {
        if row > self.first { self.knot(column, row - 1) } else { (self.started, self.play.starts[column].position) }
    }

    /// The slope at a row, rad per tick.
    fn slope(&self, column: usize, row: usize) -> f64 {
        if row >= self.play.last() {
            return 0.0;
        }
        let ((before, from), (at, here), (after, to)) =
            (self.knot_before(column, row), self.knot(column, row), self.knot(column, row + 1));
        let (left, right) = (at - before, after - at);
        let (arriving, leaving) = ((here - from) / left, (to - here) / right);
        if arriving * leaving <= 0.0 {
            return 0.0;
        }
        let (weight_left, weight_right) = (2.0 * right + left, right + 2.0 * left);
        (weight_left + weight_right) / (weight_left / arriving + weight_right / leaving)
    }

    /// Where the spline of a column is at a time, rad.
    fn position(&self, column: usize, time: f64) -> f64 {
        let last = self.play.last();
        let mut row = self.next;
        while row < last && self.due(row) < time {
            row += 1;
        }
        let ((before, from), (at, to)) = (self.knot_before(column, row), self.knot(column, row));
        if time >= at {
            return to;
        }
        let length = at - before;
        let leaving = match row > self.first {
            true => self.slope(column, row - 1),
            false => self.play.starts[column].velocity,
        };
        let s = ((time - before) / length).clamp(0.0, 1.0);
        let (s2, s3) = (s * s, s * s * s);
        (2.0 * s3 - 3.0 * s2 + 1.0) * from
            + (s3 - 2.0 * s2 + s) * length * leaving
            + (3.0 * s2 - 2.0 * s3) * to
            + (s3 - s2) * length * self.slope(column, row)
    }
}

/// Every play of a robot.
pub(crate) struct Player {
    pub playing: JointHolders<Active>,
    /// One a joint.
    shapers: Vec<Shaper>,
    control_hz: f64,
    /// The oldest observation that a play may act on, ticks.
    oldest: Option<f64>,
    /// How far out of reach the first rows may be, rad.
    discontinuity: Option<f64>,
}

impl Player {
    pub fn new(embodiment: &Embodiment) -> Self {
        let hz = embodiment.control_hz;
        let shaper = |joint: &Joint| Shaper::new(joint.limits(hz), hz);
        Self {
            playing: JointHolders::of(embodiment.joints.len()),
            shapers: embodiment.joints.iter().map(shaper).collect(),
            control_hz: hz.into(),
            oldest: oldest(embodiment),
            discontinuity: embodiment.discontinuity_rad.map(f64::from),
        }
    }

    /// Lets a play take over its joints at `tick`. Plays that lose a joint end; their other joints come to hold.
    ///
    /// `state` says where a joint was commanded to be in the tick before.
    pub fn start(
        &mut self,
        play: Box<Prepared>,
        answer: Answer<PlayReport>,
        tick: u64,
        state: impl Fn(usize) -> State,
        over: &mut Vec<Over>,
        mut report: impl FnMut(Act),
    ) {
        let now = tick as f64;
        let since = play.since_tick.map_or(now - 1.0, |since| since as f64);
        let mut new = Active { play, since, first: 0, started: now - 1.0, next: 0 };
        let last = new.play.last();
        let within = new.play.within.clone();
        let (oldest, discontinuity) = within.as_ref().map_or((self.oldest, self.discontinuity), |within| {
            let robot = within.embodiment();
            (oldest(robot), robot.discontinuity_rad.map(f64::from))
        });
        if let Some(oldest) = oldest.filter(|oldest| now - since > *oldest) {
            let excess = (now - since - oldest) / self.control_hz;
            let act = Act { rule: Rule::CommandAge, response: Response::Hold, joint: None, excess };
            report(act);
            let mut late = JointHolder::new(new, answer);
            late.record.note(act, tick);
            over.push(late.end(Ended::Late));
            return;
        }
        if since + (last + 1) as f64 * new.play.spacing < now {
            over.push(JointHolder::new(new, answer).end(Ended::Late));
            return;
        }
        // A row that is due at once would be reached with a jerk; half a row's time is left for the way to the first.
        while new.first < last && new.due(new.first) < new.started + 0.5 * new.play.spacing {
            new.first += 1;
        }
        new.next = new.first;
        for (column, &joint) in new.play.claim.joints.iter().enumerate() {
            new.play.starts[column] = state(joint);
        }
        let jump = self.out_of_reach(&new).map(|(joint, excess)| {
            let refused = discontinuity.is_some_and(|most| excess > most);
            let response = if refused { Response::Hold } else { Response::Slow };
            Act { rule: Rule::Discontinuity, response, joint: Some(joint), excess }
        });
        let mut new = JointHolder::new(new, answer);
        if let Some(act) = jump {
            new.record.note(act, tick);
            report(act);
            if act.response == Response::Hold {
                // Whoever is sent there does not know where it is: what it played before is no better.
                self.playing.hold(&new.task.play.claim.joints, over);
                over.push(new.end(Ended::Held));
                return;
            }
        }
        self.blend(&mut new.task, now);
        self.playing.supersede(&new.task.play.claim.joints, over);
        self.playing.add(new);
    }

    /// Lets the joints go on from where they are, and mixes the first rows with what is left of older plays.
    fn blend(&mut self, new: &mut Active, now: f64) {
        let (last, blend) = (new.play.last(), BLEND_S * self.control_hz);
        for column in 0..new.play.claim.joints.len() {
            let joint = new.play.claim.joints[column];
            let within = new.play.within.as_ref().map(|within| within.limits[joint]);
            self.shapers[joint].continue_from(within, new.play.starts[column]);
            let Some(old) = self.playing.of_joint(joint) else { continue };
            let Some(old_column) = old.play.claim.joints.iter().position(|&driven| driven == joint) else { continue };
            // Not the last row: the joints are to rest where it says.
            for row in new.first..last {
                let due = new.due(row);
                let weight = (due - now) / blend;
                if weight >= 1.0 || due > old.end() {
                    break;
                }
                let (was, will) = (old.position(old_column, due), &mut new.play.columns[column][row]);
                *will = was + weight.max(0.0) * (*will - was);
            }
        }
    }

    /// The joint whose first row is furthest out of its reach in the time until the row is due, and how far, rad. What it
    /// would make up for in a tick at full speed is in reach.
    fn out_of_reach(&self, new: &Active) -> Option<(usize, f64)> {
        let beyond = |(column, &joint): (usize, &usize)| {
            let (due, position) = new.knot(column, new.first);
            let robots = self.shapers[joint].speed();
            let speed = new.play.within.as_ref().map_or(robots, |within| within.limits[joint].speed);
            let reach = (due - new.started + 1.0) * speed;
            (joint, (position - new.play.starts[column].position).abs() - reach)
        };
        let furthest = new.play.claim.joints.iter().enumerate().map(beyond).max_by(|(_, a), (_, b)| a.total_cmp(b));
        furthest.filter(|(_, beyond)| *beyond > 0.0)
    }

    /// Where every joint is to be at `tick`; a joint that nothing drives holds.
    ///
    /// Whatever it reports is kept for the plays that it concerns.
    pub fn demands(&mut self, tick: u64, demands: &mut [Demand], mut report: impl FnMut(Act)) {
        demands.fill(Demand::Hold);
        let now = tick as f64;
        for JointHolder { task: active, record, .. } in self.playing.iter_mut() {
            while active.next < active.play.last() && active.due(active.next) < now {
                active.next += 1;
            }
            for (column, &joint) in active.play.claim.joints.iter().enumerate() {
                let shaper = &mut self.shapers[joint];
                let target = active.position(column, now + shaper.ahead());
                let position = shaper.follow(target);
                if let Some((rule, excess)) = shaper.lag(target, active.position(column, now)) {
                    let act = Act { rule, response: Response::Slow, joint: Some(joint), excess };
                    record.note(act, tick);
                    report(act);
                }
                demands[joint] = Demand::To(position);
            }
        }
    }

    /// Ends the plays whose last row was played and whose joints rest.
    pub fn end_finished(&mut self, tick: u64, rests: impl Fn(usize) -> bool, over: &mut Vec<Over>) {
        let (now, settle) = (tick as f64, SETTLE_S * self.control_hz);
        let Self { playing, shapers, .. } = self;
        playing.end(Ended::Finished, over, |active| {
            let played = |(&joint, column): (&usize, &Vec<f64>)| {
                rests(joint) && column.last().is_some_and(|&last| shapers[joint].rests_at(last))
            };
            let ended = active.end();
            now >= ended
                && (now >= ended + settle || active.play.claim.joints.iter().zip(&active.play.columns).all(played))
        });
    }
}
