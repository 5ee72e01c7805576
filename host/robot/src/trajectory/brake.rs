//! How a joint comes to rest when its acceleration may not change by more than its jerk from tick to tick.
//!
//! Time is in ticks, as in `limits.rs`. Such a joint brakes by one policy: in every tick as hard as it may be braked and
//! still lead the braking back to nothing, a jerk a tick, in just as many ticks as the speed lasts. It ends at rest and
//! without an acceleration, never swings back, and whoever has followed it for a tick goes on with it: a joint that could
//! stop within a distance still can after that tick.

/// The largest first term of a series `x + (x - step) + (x - 2 step) + …` of positive terms that sums up to `sum`.
pub(crate) fn first_of_falling(sum: f64, step: f64) -> f64 {
    if sum <= 0.0 {
        return 0.0;
    }
    let sum = sum / step;
    let terms = ((1.0 + 8.0 * sum).sqrt() / 2.0 - 0.5).floor();
    (sum + terms * (terms + 1.0) / 2.0) / (terms + 1.0) * step
}

/// What the positive terms of `first + (first - step) + (first - 2 step) + …` sum up to.
fn sum_of_falling(first: f64, step: f64) -> f64 {
    if first <= 0.0 {
        return 0.0;
    }
    let more = (first / step).floor();
    (more + 1.0) * first - step * more * (more + 1.0) / 2.0
}

/// Halvings of a range of accelerations: what is left of it is less than the rounding of a position.
const HALVINGS: usize = 40;

/// What a joint brakes with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Brake {
    /// The hardest braking, rad per tick².
    pub change: f64,
    /// Most that an acceleration may change from tick to tick, rad per tick³.
    pub jerk: f64,
}

impl Brake {
    /// The acceleration of the next tick of a joint that brakes, out of those in `range`.
    pub fn first(&self, velocity: f64, [low, high]: [f64; 2]) -> f64 {
        (-self.hardest(velocity)).max(low).min(high)
    }

    /// The largest acceleration of the next tick, out of those in `range`, after which a joint can still stop within
    /// `distance`, that tick included; the policy's if it cannot.
    pub fn largest(&self, velocity: f64, range: [f64; 2], distance: f64) -> f64 {
        let stops = |change: f64| self.way(velocity + change, change) <= distance - velocity - change;
        let (mut low, mut high) = (self.first(velocity, range), range[1].min(self.change));
        if high <= low {
            return low;
        }
        if stops(high) {
            return high;
        }
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(low, high);
            *(if stops(middle) { &mut low } else { &mut high }) = middle;
        }
        low
    }

    /// How far forward a joint of this velocity and acceleration gets before it stands; 0 if it only moves back.
    pub fn way(&self, velocity: f64, change: f64) -> f64 {
        if velocity <= 0.0 && change <= 0.0 {
            return 0.0;
        }
        if change + self.jerk < -first_of_falling(velocity, self.jerk) {
            return self.way_until_turning(velocity, change);
        }
        let (mut velocity, mut way) = self.after_turning_down(velocity, change);
        if velocity <= 0.0 {
            return way.max(0.0);
        }
        // At the hardest, for as long as the speed outlasts leading it back.
        let outlasts = velocity - sum_of_falling(self.change, self.jerk);
        if outlasts >= 0.0 {
            let ticks = (outlasts / self.change).floor() + 1.0;
            way += ticks * velocity - self.change * ticks * (ticks + 1.0) / 2.0;
            velocity -= ticks * self.change;
        }
        // And back: a speed of x + (x - jerk) + … loses the first of these in the next tick, and covers the others.
        let braking = first_of_falling(velocity, self.jerk);
        let ticks = (braking / self.jerk).floor();
        way += braking * ticks * (ticks + 1.0) / 2.0;
        way -= self.jerk * ticks * (ticks + 1.0) * (2.0 * ticks + 1.0) / 6.0;
        way.max(0.0)
    }

    /// The policy's braking, whatever the acceleration was.
    fn hardest(&self, velocity: f64) -> f64 {
        first_of_falling(velocity, self.jerk).min(self.change)
    }

    /// The velocity, and the way so far, after the ticks in which the acceleration falls by the whole jerk.
    fn after_turning_down(&self, velocity: f64, change: f64) -> (f64, f64) {
        let after = |ticks: f64| velocity + change * ticks - self.jerk * ticks * (ticks + 1.0) / 2.0;
        let falls = |ticks: f64| {
            let braking = ticks * self.jerk - change;
            braking <= self.change && sum_of_falling(braking, self.jerk) <= after(ticks - 1.0).max(0.0)
        };
        let ticks = last((change + self.change) / self.jerk + 1.0, falls);
        let way = ticks * velocity + change * ticks * (ticks + 1.0) / 2.0
            - self.jerk * ticks * (ticks + 1.0) * (ticks + 2.0) / 6.0;
        (after(ticks), way)
    }

    /// The way of a joint that brakes so hard that it turns back, however soon it leads its braking back.
    fn way_until_turning(&self, velocity: f64, change: f64) -> f64 {
        let after = |ticks: f64| velocity + change * ticks + self.jerk * ticks * (ticks + 1.0) / 2.0;
        let ticks = last(-change / self.jerk, |ticks| after(ticks) > 0.0);
        ticks * velocity
            + change * ticks * (ticks + 1.0) / 2.0
            + self.jerk * ticks * (ticks + 1.0) * (ticks + 2.0) / 6.0
    }
}

/// The last whole number, at most `most`, of those from 1 on for which something holds that then ceases to; 0 if none.
fn last(most: f64, holds: impl Fn(f64) -> bool) -> f64 {
    let (mut holding, mut ceased) = (0.0, most.floor() + 1.0);
    while ceased - holding > 1.0 {
        let middle = f64::midpoint(holding, ceased).floor();
        *(if holds(middle) { &mut holding } else { &mut ceased }) = middle;
    }
    holding
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Ticks of the policy from a velocity and an acceleration, each with what they are after it, until nothing moves
    /// forward any more.
    fn braking(brake: Brake, velocity: f64, change: f64) -> Vec<(f64, f64)> {
        let mut ticks = vec![(velocity, change)];
        while let Some((velocity, change)) = ticks.last().copied().filter(|(v, a)| v.max(*a) > 1e-15) {
            let next = brake.first(velocity, [change - brake.jerk, change + brake.jerk]);
            ticks.push((velocity + next, next));
        }
        ticks
    }

    /// Anything from an acceleration that builds up at once to one that takes half a second at 100 Hz.
    fn any_brake() -> impl Strategy<Value = Brake> {
        (1e-4_f64..3e-3, 0.02_f64..3.0).prop_map(|(change, share)| Brake { change, jerk: share * change })
    }

    proptest! {
        #[test]
        fn the_way_is_the_sum_of_the_policys_ticks(
            brake in any_brake(), velocity in -0.05_f64..0.05, share in -1.0_f64..1.0
        ) {
            let change = share * brake.change;
            let mut there = 0.0;
            let ticks = braking(brake, velocity, change);
            let furthest = ticks[1..].iter().fold(0.0, |furthest: f64, (velocity, _)| {
                there += velocity;
                furthest.max(there)
            });
            let way = brake.way(velocity, change);
            prop_assert!((way - furthest).abs() < 1e-12, "{way} instead of {furthest}");
        }

        #[test]
        fn a_joint_brakes_to_a_stand_within_its_acceleration_and_jerk_and_never_turns_back(
            brake in any_brake(), velocity in 0.0_f64..0.05
        ) {
            let ticks = braking(brake, velocity, 0.0);
            for pair in ticks.windows(2) {
                let ((_, was), (speed, is)) = (pair[0], pair[1]);
                prop_assert!(speed >= -1e-15 && is >= -brake.change);
                prop_assert!((is - was).abs() <= brake.jerk + 1e-15);
            }
        }

        #[test]
        fn the_largest_acceleration_that_stops_within_a_distance_uses_it_up(
            brake in any_brake(), velocity in 0.0_f64..0.05, more in 0.0_f64..0.3
        ) {
            let range = [-brake.jerk, brake.jerk];
            let distance = brake.way(velocity, 0.0) + more;
            let change = brake.largest(velocity, range, distance);
            let way = velocity + change + brake.way(velocity + change, change);
            prop_assert!(way <= distance + 1e-15);
            let most = brake.jerk.min(brake.change);
            prop_assert!(change == most || distance - way < 1e-12, "{} is left", distance - way);
        }
    }

    #[test]
    fn a_joint_that_cannot_stop_in_time_brakes_by_the_policy() {
        let brake = Brake { change: 1e-3, jerk: 2e-4 };
        let range = [-2e-4, 2e-4];
        assert_eq!(brake.largest(0.02, range, 0.05), brake.first(0.02, range));
        assert_eq!(brake.largest(0.02, range, -1.0), -2e-4);
    }
}
