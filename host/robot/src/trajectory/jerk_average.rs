//! How the demands on one joint are shaped: within its velocity and acceleration by the law of `track.rs`, and then
//! averaged over some ticks, so that its acceleration comes and goes within its jerk.
//!
//! The mean over `n` ticks of a motion whose acceleration stays within `a` changes its own by at most `2a / n` a tick, and
//! keeps every bound on velocity and acceleration that the motion kept (Biagiotti and Melchiorri 2012, FIR filters for
//! online trajectory planning). A mean is late by half its window, so the motion is asked to be early by as much: this is
//! what the filter, which keeps the jerk in the end, cannot do. It does not know what comes next.

use crate::rule::Rule;
use crate::trajectory::limits::{Limits, ROUNDING_RAD, State};
use crate::trajectory::track::Tracker;

/// The longest that a motion may be averaged to keep its jerk, seconds.
pub(crate) const LONGEST_WINDOW_S: f32 = 0.5;

pub(crate) struct Shaper {
    /// What may be shaped where nothing makes it stricter.
    limits: Limits,
    /// The motion before it is averaged: that is what its jerk is kept by.
    tracker: Tracker,
    /// Its newest positions, as many as the window has, oldest at `next`.
    past: Vec<f64>,
    next: usize,
    /// The mean.
    state: State,
    /// Ticks since the motion lagged behind its target.
    follows: usize,
}

impl Shaper {
    /// `limits` are the robot's; nothing allocates afterwards.
    pub fn new(limits: Limits, control_hz: f32) -> Self {
        let limits = limits.anywhere();
        let longest = (LONGEST_WINDOW_S * control_hz).ceil() as usize + 1;
        let past = Vec::with_capacity(longest.max(1));
        let (tracker, state) = (Tracker::new(limits.however_abruptly()), State::default());
        let mut this = Self { limits, tracker, past, next: 0, state, follows: 0 };
        this.refill(limits.window(), state);
        this
    }

    /// The highest speed where nothing makes it stricter, rad per tick.
    pub fn speed(&self) -> f64 {
        self.limits.speed
    }

    /// Goes on from where the joint is commanded to be, within these limits if they are stricter. What was shaped before
    /// goes on as it was if the joint is where that had it.
    pub fn continue_from(&mut self, within: Option<Limits>, state: State) {
        let within = within.map_or(self.limits, Limits::anywhere);
        let window = within.window();
        self.tracker.within = within.however_abruptly();
        let near = |a: f64, b: f64| (a - b).abs() <= ROUNDING_RAD;
        let goes_on = near(self.state.position, state.position) && near(self.state.velocity, state.velocity);
        if window > 1 && goes_on && self.past.len() == window {
            self.tracker.continue_from(self.tracker.state);
        } else {
            self.refill(window, state);
        }
        self.follows = 0;
    }

    /// How much earlier than the demand the target has to be due, ticks.
    pub fn ahead(&self) -> f64 {
        (self.past.len() - 1) as f64 / 2.0
    }

    /// The demand of this tick, whose motion before it was averaged followed `target`.
    pub fn follow(&mut self, target: f64) -> f64 {
        let target = Some(target);
        let velocity = self.tracker.velocity(target);
        self.tracker.advance(target, velocity);
        self.past[self.next] = self.tracker.state.position;
        self.next = (self.next + 1) % self.past.len();
        // Anew in every tick: a running sum would drift, and a joint that has arrived shall stand.
        let position = self.past.iter().sum::<f64>() / self.past.len() as f64;
        let velocity = position - self.state.position;
        let change = velocity - self.state.velocity;
        self.state = State { position, velocity, change, ..State::default() };
        position
    }

    /// Whether the demands have come to rest: `target` is where they lead.
    pub fn rests_at(&self, target: f64) -> bool {
        self.state.rests_at(target)
    }

    /// What keeps the joint away from where it would be at `time` without limits, and how far, rad. What it would make up
    /// for in a tick at full speed is no news: servos lag by about as much.
    pub fn lag(&mut self, target: f64, due: f64) -> Option<(Rule, f64)> {
        let tolerance = self.tracker.within.speed;
        if let Some(lag) = self.tracker.lag(Some(target), tolerance) {
            self.follows = 0;
            return Some(lag);
        }
        self.follows += 1;
        let away = (due - self.state.position).abs();
        // A mean remembers for as long as its window that the motion lagged.
        (away > tolerance && self.follows > self.past.len()).then_some((Rule::Jerk, away))
    }

    /// A past whose mean is `state`, and whose velocities rise by its change from tick to tick: whatever follows within
    /// the acceleration, the mean's change goes on from there. A braking's does not: it is over.
    fn refill(&mut self, window: usize, state: State) {
        let change = if state.braked { 0.0 } else { state.change };
        let velocity = |tick: usize| state.velocity + change * (tick as f64 - (window - 1) as f64 / 2.0);
        let mut position = 0.0;
        self.past.clear();
        for tick in 0..window {
            position += if tick == 0 { 0.0 } else { velocity(tick) };
            self.past.push(position);
        }
        let shift = state.position - self.past.iter().sum::<f64>() / window as f64;
        self.past.iter_mut().for_each(|position| *position += shift);
        self.next = 0;
        self.state = state;
        let (position, velocity) = (position + shift, velocity(window - 1));
        self.tracker.continue_from(State { position, velocity, change, ..State::default() });
    }
}
