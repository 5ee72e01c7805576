//! How one joint follows a moving target within its limits: the law that the chunk player shapes its demands with and
//! that the safety filter enforces.

use crate::limits::{Limits, State};
use crate::safety::Rule;

/// Far above the rounding of a sum of positions in `f64`, far below anything physical.
pub(crate) const ROUNDING_RAD: f64 = 1e-12;

/// One joint behind a target.
///
/// A tick is [`Tracker::velocity`], [`Tracker::advance`], [`Tracker::lag`], in this order and with one target.
pub(crate) struct Tracker {
    /// What the joint can do. Never left, whatever `within` was and becomes.
    pub limits: Limits,
    /// What it may do: inside `limits`, and kept from where they can be kept on.
    pub within: Limits,
    pub state: State,
    /// The target of the tick before.
    followed: f64,
    /// Why the joint lags behind the target, while it does.
    lags: Option<Rule>,
}

impl Tracker {
    pub fn new(limits: Limits) -> Self {
        Self { limits, within: limits, state: State::default(), followed: 0.0, lags: None }
    }

    /// Goes on from `state`, without a memory of earlier targets.
    pub fn continue_from(&mut self, state: State) {
        self.state = state;
        self.followed = state.position;
        self.lags = None;
    }

    /// The velocity, rad per tick, that follows the target within what the joint may do, or brakes as hard as it can if
    /// there is none.
    ///
    /// A joint that lags behind its target approaches it no faster, relative to it, than it can stop: it arrives
    /// without swinging past.
    pub fn velocity(&self, target: Option<f64>) -> f64 {
        let Some(target) = target else { return self.limits.braked(self.state.velocity) };
        let lag = self.followed - self.state.position;
        let wanted = target - self.followed + lag.signum() * self.within.speed_that_stops_within(lag.abs());
        self.limits.nearest(self.within.nearest(wanted, self.state), self.state)
    }

    pub fn advance(&mut self, target: Option<f64>, velocity: f64) {
        let sum = self.state.position + velocity;
        // A joint that arrives is exactly there: what was added up would leave it creeping by roundings.
        let arrived = target.filter(|target| (target - sum).abs() < ROUNDING_RAD);
        let change = velocity - self.state.velocity;
        self.state = State { position: arrived.unwrap_or(sum), velocity, change };
    }

    /// Says that something else than the joint's own limits makes it lag from here on.
    pub fn blame(&mut self, rule: Rule) {
        self.lags = Some(rule);
    }

    /// Which limit keeps the joint further than `tolerance` from the target, and how far, rad.
    pub fn lag(&mut self, target: Option<f64>, tolerance: f64) -> Option<(Rule, f64)> {
        let Some(target) = target else {
            self.followed = self.state.position;
            self.lags = None;
            return None;
        };
        let before = std::mem::replace(&mut self.followed, target);
        let excess = (target - self.state.position).abs();
        if excess <= tolerance {
            self.lags = None;
            return None;
        }
        let too_fast = (target - before).abs() > self.within.speed;
        let rule = if too_fast { Rule::Velocity } else { self.lags.unwrap_or(Rule::Acceleration) };
        self.lags = Some(rule);
        Some((rule, excess))
    }
}
