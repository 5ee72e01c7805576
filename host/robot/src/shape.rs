//! How the demands on one joint are shaped: within its velocity and acceleration by the law of `track.rs`, and then
//! averaged over some ticks, so that its acceleration comes and goes within its jerk.
//!
//! The mean over `n` ticks of a motion whose acceleration stays within `a` changes its own by at most `2a / n` a tick, and
//! keeps every bound on velocity and acceleration that the motion kept (Biagiotti and Melchiorri 2012, FIR filters for
//! online trajectory planning). A mean is late by half its window, so the motion is asked to be early by as much.

use crate::embodiment::LONGEST_WINDOW_S;
use crate::limits::{Limits, State};
use crate::safety::Rule;
use crate::track::{ROUNDING_RAD, Tracker};

pub(crate) struct Shaper {
    /// The motion before it is averaged.
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
        let longest = (LONGEST_WINDOW_S * control_hz).ceil() as usize + 1;
        let past = Vec::with_capacity(longest.max(1));
        let mut this = Self { tracker: Tracker::new(limits), past, next: 0, state: State::default(), follows: 0 };
        this.refill(State::default());
        this
    }

    /// What a motion may be shaped to that nothing makes stricter.
    pub fn limits(&self) -> Limits {
        self.tracker.limits
    }

    /// Goes on from where the joint is commanded to be, within these limits. What was shaped before goes on as it was if
    /// the joint is where that had it.
    pub fn continue_from(&mut self, within: Limits, state: State) {
        self.tracker.within = within;
        let near = |a: f64, b: f64| (a - b).abs() <= ROUNDING_RAD;
        let goes_on = near(self.state.position, state.position) && near(self.state.velocity, state.velocity);
        if within.window > 1 && goes_on && self.past.len() == within.window {
            self.tracker.continue_from(self.tracker.state);
        } else {
            self.refill(state);
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
        self.state = State { position, velocity, change: velocity - self.state.velocity };
        position
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
    /// the acceleration, the mean's change goes on from there.
    fn refill(&mut self, state: State) {
        let window = self.tracker.within.window;
        let velocity = |tick: usize| state.velocity + state.change * (tick as f64 - (window - 1) as f64 / 2.0);
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
        self.tracker.continue_from(State { position, velocity, change: state.change });
    }
}
