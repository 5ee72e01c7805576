//! What one joint can do in whole control ticks: how fast it may be, and how far it travels until it stands.
//!
//! Lengths of time are ticks here: speeds are rad per tick, accelerations rad per tick². A joint that goes on at speed
//! `v` for one tick and then slows by `change` in every tick covers `v + (v - c) + (v - 2c) + …`, which these functions
//! sum and invert exactly; the continuous `v²/2a` would overshoot by up to a tick's travel.

use crate::trajectory::brake::{Brake, first_of_falling};

/// Further than any joint ever gets, and still exact to a nanoradian in `f64`, rad.
const FAR_RAD: f64 = 1e6;

/// Far above the rounding of a sum of positions in `f64`, far below anything physical.
pub(crate) const ROUNDING_RAD: f64 = 1e-12;

/// A joint's limits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Limits {
    /// Lowest position, rad.
    pub low: f64,
    /// Highest position, rad.
    pub high: f64,
    /// Highest speed, rad per tick.
    pub speed: f64,
    /// Most that the speed may change from tick to tick, rad per tick².
    pub change: f64,
    /// Highest torque, N m.
    pub effort: f64,
    /// Most that the acceleration may change from tick to tick where nothing brakes, rad per tick³.
    pub jerk: Option<f64>,
}

/// Where a joint is commanded to be, and how far the last tick moved it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct State {
    /// rad.
    pub position: f64,
    /// rad per tick.
    pub velocity: f64,
    /// How much the last tick changed the velocity, rad per tick².
    pub change: f64,
    /// The last tick held, or braked for what protects or more abruptly than a jerk allows: that may be over at once.
    pub braked: bool,
}

impl State {
    /// Whether the joint has come to rest: it stands, and not because it is just turning back to `target`.
    pub fn rests_at(&self, target: f64) -> bool {
        self.velocity == 0.0 && (self.change == 0.0 || (target - self.position).abs() < ROUNDING_RAD)
    }

    /// The accelerations of the next tick that keep a jerk.
    pub fn within(&self, jerk: f64) -> [f64; 2] {
        let [low, high] = if self.braked { [self.change.min(0.0), self.change.max(0.0)] } else { [self.change; 2] };
        [low - jerk, high + jerk]
    }
}

impl Limits {
    /// Ticks over which a motion within velocity and acceleration is averaged to keep the jerk too.
    pub fn window(&self) -> usize {
        // A hair less, so that a whole number stays one.
        self.jerk.map_or(1, |jerk| (2.0 * self.change / jerk - 1e-6).ceil().max(1.0) as usize)
    }

    /// The same limits but for the jerk.
    pub fn however_abruptly(self) -> Self {
        Self { jerk: None, ..self }
    }

    /// The same limits with room for every position: what a path may be shaped with before its positions are checked.
    pub fn anywhere(self) -> Self {
        Self { low: -FAR_RAD, high: FAR_RAD, ..self }
    }

    /// The velocity of the next tick that is nearest to a wanted one and from which every limit can still be kept.
    ///
    /// A joint found outside its position limits may only move inwards. One that cannot keep its speed or its position,
    /// because it moved under wider limits until now, comes as near as its acceleration lets it. Where there is a limit to
    /// the jerk, that goes before all others; [`Limits::stopping`] then brakes for the position where it has to.
    pub fn nearest(&self, wanted: f64, state: State) -> f64 {
        let State { position, velocity, .. } = state;
        let Some(jerk) = self.jerk else {
            let up = self.speed.min(self.speed_that_stops_within(self.high - position));
            let down = self.speed.min(self.speed_that_stops_within(position - self.low));
            return wanted.min(up).max(-down).min(velocity + self.change).max(velocity - self.change);
        };
        let [low, high] = state.within(jerk);
        let brake = Brake { change: self.change, jerk };
        let room = |velocity: f64, range, distance| {
            let faster = self.speed - velocity;
            let change = faster.signum() * first_of_falling(faster.abs(), jerk).min(self.change);
            change.min(brake.largest(velocity, range, distance))
        };
        let most = room(velocity, [low, high], self.high - position);
        let least = -room(-velocity, [-high, -low], position - self.low);
        let near = velocity + (wanted - velocity).min(most).max(least).max(low).min(high);
        // A joint that arrives shall stand, not tremble by roundings.
        if (near - wanted).abs() < ROUNDING_RAD { wanted } else { near }
    }

    /// The velocity of the next tick that is nearest to a wanted one and from which the joint can stop within its position
    /// limits, if it brakes with its whole acceleration at once.
    pub fn stopping(&self, wanted: f64, State { position, velocity, .. }: State) -> f64 {
        let up = self.speed_that_stops_within(self.high - position);
        let down = self.speed_that_stops_within(position - self.low);
        let hardest = self.change.max((wanted - velocity).abs());
        wanted.min(up).max(-down).min(velocity + hardest).max(velocity - hardest)
    }

    /// The velocity of the next tick of a joint that stops as fast as it may.
    pub fn braked(&self, velocity: f64) -> f64 {
        velocity.signum() * (velocity.abs() - self.change).max(0.0)
    }

    /// The highest speed of the next tick after which the joint can stop within `distance`, that tick included.
    pub fn speed_that_stops_within(&self, distance: f64) -> f64 {
        first_of_falling(distance, self.change)
    }

    /// How far a joint goes in the first `ticks` ticks of stopping.
    pub fn braking_travel(&self, velocity: f64, ticks: f64) -> f64 {
        let ticks = ticks.min((velocity.abs() / self.change).floor());
        velocity.signum() * (velocity.abs() * ticks - self.change * ticks * (ticks + 1.0) / 2.0)
    }

    /// Ticks until a joint stands.
    pub fn braking_ticks(&self, velocity: f64) -> f64 {
        (velocity.abs() / self.change).ceil()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { low: -1.0, high: 1.0, speed: 0.02, change: 0.0012, effort: 6.0, jerk: None };

    #[test]
    fn a_joint_at_the_stopping_speed_stops_exactly_within_the_distance() {
        for distance in [1e-6, 0.0005, 0.0012, 0.002, 0.05, 0.7] {
            let mut velocity = LIMITS.speed_that_stops_within(distance);
            let mut travelled = 0.0;
            while velocity > 0.0 {
                travelled += velocity;
                velocity = LIMITS.braked(velocity);
            }
            assert!((travelled - distance).abs() < 1e-12, "{travelled} for {distance}");
        }
    }

    #[test]
    fn the_braking_travel_is_the_sum_of_the_ticks() {
        for start in [0.0199, -0.0007, 0.0012, -0.0175] {
            let (mut velocity, mut travelled) = (start, 0.0);
            for ticks in 0..30 {
                assert!((LIMITS.braking_travel(start, f64::from(ticks)) - travelled).abs() < 1e-12);
                assert_eq!(f64::from(ticks) >= LIMITS.braking_ticks(start), velocity == 0.0, "{start} {ticks}");
                velocity = LIMITS.braked(velocity);
                travelled += velocity;
            }
        }
    }

    #[test]
    fn a_joint_outside_its_limits_may_only_move_inwards() {
        let outside = State { position: 1.2, ..State::default() };
        assert_eq!(LIMITS.nearest(0.001, outside), 0.0);
        assert_eq!(LIMITS.nearest(-0.001, outside), -0.001);
    }

    #[test]
    fn a_joint_that_is_faster_than_it_may_be_slows_by_its_acceleration_whichever_way_it_goes() {
        for way in [1.0, -1.0] {
            let fast = State { velocity: way * 0.05, ..State::default() };
            for wanted in [0.05, -0.05, 0.0] {
                let slower = LIMITS.nearest(wanted, fast);
                assert!((slower - way * (0.05 - LIMITS.change)).abs() < 1e-15, "{slower}");
            }
        }
    }
}
