//! How one joint follows a moving target within its limits: the law that the chunk player shapes its demands with and
//! that the safety filter enforces.
//!
//! A joint that lags behind its target approaches it no faster, relative to it, than it can stop: it arrives without
//! swinging past. Where there is a limit to its jerk, it can stop while its acceleration comes and goes by no more than
//! that (`brake.rs`).

use crate::rule::Rule;
use crate::trajectory::brake::Brake;
use crate::trajectory::limits::{Limits, ROUNDING_RAD, State};

/// Far above the rounding of a third difference of positions in `f32`, far below anything physical.
const RIPPLE_RAD: f64 = 1e-6;

/// Of its acceleration, what a joint counts on its target to go on with: the rest is left for meeting it.
const COUNTED_ON: f64 = 0.75;

/// Ticks over which a target's usual velocity is known, in the ticks that the acceleration takes to build up.
const USUAL: f64 = 4.0;

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
    followed: Target,
    /// The velocity that follows the target, as it was chosen last.
    chosen: f64,
    /// It is the jerk alone that has kept the joint off its target since it was last there.
    rounds: bool,
    /// Why the joint lags behind the target, while it does.
    lags: Option<Rule>,
}

/// How a target moves.
#[derive(Clone, Copy, Default)]
struct Target {
    position: f64,
    velocity: f64,
    change: f64,
    /// Its velocity over some time.
    usual: f64,
}

impl Target {
    /// One that goes on as a joint does.
    fn of(State { position, velocity, .. }: State) -> Self {
        Self { position, velocity, change: 0.0, usual: velocity }
    }

    /// The same target a tick later, for a joint of these limits.
    fn moved_to(&self, position: f64, limits: &Limits) -> Self {
        let velocity = position - self.position;
        let ticks = limits.jerk.map_or(1.0, |jerk| (USUAL * limits.change / jerk).max(1.0));
        let usual = self.usual + (velocity.clamp(-limits.speed, limits.speed) - self.usual) / ticks;
        Self { position, velocity, change: velocity - self.velocity, usual }
    }

    /// The velocity and the acceleration that a joint reckons with when it follows this target, which was `before` a
    /// tick ago.
    ///
    /// A motion that the joint could make itself is reckoned with as it is, so that the joint catches up with it for good.
    /// Any other is noise, or a jump: to meet such a velocity and acceleration as well, a joint would swing further than
    /// the target does.
    fn course(&self, before: &Self, limits: &Limits, jerk: f64) -> (f64, f64) {
        let turns = self.change - before.change;
        let values = [(self.velocity, limits.speed), (self.change, limits.change), (turns, jerk)];
        if values.iter().all(|(value, most)| value.abs() <= most + RIPPLE_RAD) {
            let most = COUNTED_ON * limits.change;
            (self.velocity, self.change.clamp(-most, most))
        } else if self.velocity * before.usual > 0.0 {
            (self.velocity.signum() * self.velocity.abs().min(before.usual.abs()), 0.0)
        } else {
            (0.0, 0.0)
        }
    }
}

impl Tracker {
    pub fn new(limits: Limits) -> Self {
        let state = State::default();
        Self { limits, within: limits, state, followed: Target::default(), chosen: 0.0, rounds: false, lags: None }
    }

    /// Goes on from `state`, without a memory of earlier targets.
    pub fn continue_from(&mut self, state: State) {
        self.state = state;
        self.forget();
    }

    fn forget(&mut self) {
        self.followed = Target::of(self.state);
        self.rounds = false;
        self.lags = None;
    }

    /// The velocity, rad per tick, that follows the target within what the joint may do, or brakes as hard as it can if
    /// there is none.
    pub fn velocity(&mut self, target: Option<f64>) -> f64 {
        let Some(target) = target else { return self.limits.braked(self.state.velocity) };
        let wanted = match self.within.jerk {
            Some(jerk) => self.roundly(target, jerk),
            None => {
                let lag = self.followed.position - self.state.position;
                let approach = lag.signum() * self.within.speed_that_stops_within(lag.abs());
                target - self.followed.position + approach
            }
        };
        let near = self.limits.nearest(self.within.nearest(wanted, self.state), self.state);
        // Braking has the joint's whole acceleration, whoever drives.
        let kept = Limits { change: self.limits.change, ..self.within }.stopping(near, self.state);
        self.chosen = self.limits.stopping(kept, self.state);
        self.chosen
    }

    /// The velocity that a joint wants whose acceleration comes and goes by `jerk` a tick.
    fn roundly(&mut self, target: f64, jerk: f64) -> f64 {
        let (within, state) = (self.within, self.state);
        let there = target - state.position;
        let moved = self.followed.moved_to(target, &within);
        let follows = (self.followed.position - state.position).abs() < ROUNDING_RAD;
        let meets = |limits: Limits| (limits.nearest(there, state) - there).abs() < ROUNDING_RAD;
        if follows {
            self.rounds = !meets(within) && meets(within.however_abruptly());
        }
        let arrives = (there - moved.velocity).abs() < ROUNDING_RAD;
        if (follows || arrives) && meets(within) {
            return there;
        }
        // As seen from the target, which goes on as reckoned, and behind which the joint is.
        let (velocity, change) = moved.course(&self.followed, &within, jerk);
        let distance = there - velocity;
        let way = if distance < 0.0 { -1.0 } else { 1.0 };
        let [low, high] = state.within(jerk).map(|it| way * (it - change));
        let brake = Brake { change: within.change + way * change, jerk };
        let approach = way * (state.velocity - velocity + change);
        let largest = brake.largest(approach, [low.min(high), low.max(high)], way * distance);
        state.velocity + change + way * largest
    }

    /// Goes on at a velocity: the chosen one, or what something else than the joint's limits makes of it.
    pub fn advance(&mut self, target: Option<f64>, velocity: f64) {
        let sum = self.state.position + velocity;
        // A joint that arrives is exactly there: what was added up would leave it creeping by roundings.
        let arrived = target.filter(|target| (target - sum).abs() < ROUNDING_RAD);
        let change = velocity - self.state.velocity;
        let abrupt = self.limits.jerk.or(self.within.jerk).is_some_and(|jerk| {
            let [low, high] = self.state.within(jerk);
            change < low - ROUNDING_RAD || change > high + ROUNDING_RAD
        });
        let braked = target.is_none() || velocity != self.chosen || abrupt;
        self.state = State { position: arrived.unwrap_or(sum), velocity, change, braked };
    }

    /// Says that something else than the joint's own limits makes it lag from here on.
    pub fn blame(&mut self, rule: Rule) {
        self.lags = Some(rule);
    }

    /// Which limit keeps the joint further than `tolerance` from the target, and how far, rad.
    pub fn lag(&mut self, target: Option<f64>, tolerance: f64) -> Option<(Rule, f64)> {
        let Some(target) = target else {
            self.forget();
            return None;
        };
        self.followed = self.followed.moved_to(target, &self.within);
        let excess = (target - self.state.position).abs();
        if excess <= tolerance {
            self.lags = None;
            return None;
        }
        let too_fast = self.followed.velocity.abs() > self.within.speed;
        let why = if self.rounds { Rule::Jerk } else { Rule::Acceleration };
        let rule = if too_fast { Rule::Velocity } else { self.lags.unwrap_or(why) };
        self.lags = Some(rule);
        Some((rule, excess))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2 rad/s and 12 rad/s² at 100 Hz, and an acceleration that takes 40 ms to build up.
    const LIMITS: Limits =
        Limits { low: -2.0, high: 2.0, speed: 0.02, change: 0.0012, effort: 6.0, jerk: Some(0.0003) };

    fn tick(tracker: &mut Tracker, target: f64) -> Option<(Rule, f64)> {
        let velocity = tracker.velocity(Some(target));
        tracker.advance(Some(target), velocity);
        tracker.lag(Some(target), 1e-3)
    }

    fn hold(tracker: &mut Tracker) {
        let velocity = tracker.velocity(None);
        tracker.advance(None, velocity);
        tracker.lag(None, 1e-3);
    }

    fn any_limits() -> impl Strategy<Value = Limits> {
        (0.01_f64..2.0, 0.01_f64..2.0, 0.002_f64..0.05, 1e-4_f64..3e-3, 0.04_f64..3.0).prop_map(
            |(below, above, speed, change, share)| Limits {
                low: -below,
                high: above,
                speed,
                change,
                jerk: Some(share * change),
                effort: 1.0,
            },
        )
    }

    /// Where a target is in the joint's range, how far it goes on each tick, and for how many ticks.
    fn any_spell() -> impl Strategy<Value = (f64, f64, usize)> {
        (-0.2_f64..1.2, prop_oneof![Just(0.0), -0.06_f64..0.06], 1_usize..100)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn whatever_the_target_does_no_limit_is_exceeded_and_when_it_stands_the_joint_arrives_and_stays(
            limits in any_limits(), spells in prop::collection::vec(any_spell(), 1..8)
        ) {
            let mut tracker = Tracker::new(limits);
            let mut was = tracker.state;
            let mut target = 0.0;
            let mut step = |tracker: &mut Tracker, target| {
                tick(tracker, target);
                let is = tracker.state;
                prop_assert!((limits.low - 1e-12..=limits.high + 1e-12).contains(&is.position), "at {} rad", is.position);
                prop_assert!(is.velocity.abs() <= limits.speed + 1e-12);
                prop_assert!(is.change.abs() <= limits.change + 1e-12);
                let jerk = (is.change - was.change).abs();
                prop_assert!(jerk <= limits.jerk.unwrap() + 1e-12, "{jerk} from {was:?} to {is:?}");
                was = is;
                Ok(())
            };
            for (share, drift, ticks) in spells {
                let begin = limits.low + share * (limits.high - limits.low);
                for passed in 0..ticks {
                    // As the filter clamps it.
                    target = (begin + drift * passed as f64).clamp(limits.low, limits.high);
                    step(&mut tracker, target)?;
                }
            }
            // Longer than any of these joints takes through its range.
            for _ in 0..3000 {
                step(&mut tracker, target)?;
            }
            prop_assert_eq!((tracker.state.position, tracker.state.velocity), (target, 0.0));
        }

        #[test]
        fn a_joint_at_rest_goes_to_a_target_that_stands_without_swinging_past(
            limits in any_limits(), share in 0.0_f64..=1.0
        ) {
            let mut tracker = Tracker::new(limits);
            let target = limits.low + share * (limits.high - limits.low);
            // What the joint can do in a tick may be the begin of a motion.
            prop_assume!(target.abs() > limits.jerk.unwrap());
            let mut ticks = 0;
            while tracker.state.position != target || tracker.state.velocity != 0.0 {
                tick(&mut tracker, target);
                prop_assert!((target - tracker.state.position) * target.signum() >= -ROUNDING_RAD);
                ticks += 1;
                prop_assert!(ticks < 3000);
            }
        }

        #[test]
        fn a_joint_catches_up_for_good_with_a_target_that_it_can_follow(
            amplitude in 0.01_f64..0.4, period in 80.0_f64..400.0, off in -0.3_f64..0.3
        ) {
            let turns = std::f64::consts::TAU / period;
            // With some of everything left.
            let fits = [(1, LIMITS.speed), (2, LIMITS.change), (3, 0.0003)];
            prop_assume!(fits.iter().all(|&(power, most)| amplitude * turns.powi(power) < 0.8 * most));
            let mut tracker = Tracker::new(LIMITS);
            let target = |tick: i32| off + amplitude * (1.0 - (turns * f64::from(tick)).cos());
            let late = (1..1500).filter(|&passed| {
                tick(&mut tracker, target(passed));
                tracker.state.position != target(passed)
            });
            let last = late.last().unwrap_or(0);
            prop_assert!(last < 400, "it is off after {last} ticks");
        }
    }

    #[test]
    fn a_step_takes_as_long_as_the_limits_ask_for() {
        let mut tracker = Tracker::new(LIMITS);
        let ticks = (1..).find(|_| {
            tick(&mut tracker, 1.5);
            tracker.state.position == 1.5
        });
        // 1.5 rad at 2 rad/s, 2 rad/s over 12 rad/s² and 12 rad/s² over 300 rad/s³: 0.957 s.
        assert!((94..=96).contains(&ticks.unwrap()), "{ticks:?}");
    }

    #[test]
    fn a_target_that_turns_harder_than_the_jerk_allows_does_not_swing_the_joint_up() {
        for (amplitude, period) in [(0.05, 30.0), (0.3, 60.0), (0.02, 20.0), (0.2, 45.0)] {
            for ticks in [4.0, 12.5] {
                let mut tracker = Tracker::new(Limits { jerk: Some(LIMITS.change / ticks), ..LIMITS });
                for passed in 0..2000 {
                    tick(&mut tracker, amplitude * (std::f64::consts::TAU * f64::from(passed) / period).sin());
                    let position = tracker.state.position;
                    assert!(position.abs() < 2.0 * amplitude, "{position} rad for {amplitude} rad in {period} ticks");
                }
            }
        }
    }

    #[test]
    fn noise_on_a_target_leaves_the_joint_behind_it_by_no_more_than_the_noise_asks_for() {
        let mut tracker = Tracker::new(LIMITS);
        let noise = |tick: i32| if tick % 3 == 0 { 1e-3 } else { -5e-4 };
        for passed in 0..300 {
            let target = 0.01 * f64::from(passed) - 1.5 + noise(passed);
            tick(&mut tracker, target);
            let lag = (target - tracker.state.position).abs();
            // A hundredth of a radian is a tick here.
            assert!(passed < 120 || lag < 0.01, "{lag} rad");
        }
    }

    #[test]
    fn the_limit_that_keeps_a_joint_back_is_named() {
        let rules = |target: fn(f64) -> f64| {
            let mut tracker = Tracker::new(LIMITS);
            let lags: std::collections::BTreeSet<_> =
                (0..60).filter_map(|passed| tick(&mut tracker, target(f64::from(passed))).map(|lag| lag.0)).collect();
            lags.into_iter().collect::<Vec<_>>()
        };
        // 11 rad/s² from one tick to the next, an acceleration that builds up to 20 rad/s², half a radian at once, and a
        // swing within every limit.
        assert_eq!(rules(|tick| 0.5 * 0.0011 * tick * tick.min(15.0)), [Rule::Jerk]);
        assert_eq!(rules(|tick| 0.0002 / 6.0 * tick * (tick * tick).min(100.0)), [Rule::Acceleration]);
        assert_eq!(rules(|tick| if tick < 3.0 { 0.0 } else { 0.5 }), [Rule::Velocity]);
        assert_eq!(rules(|tick| 0.1 * (tick / 12.0 - (tick / 12.0).sin())), []);
    }

    #[test]
    fn what_holds_brakes_at_once_and_what_comes_after_need_not_go_on_with_that() {
        let mut tracker = Tracker::new(LIMITS);
        for passed in 0..60 {
            tick(&mut tracker, 0.01 * f64::from(passed));
        }
        let moving = tracker.state;
        hold(&mut tracker);
        assert!((moving.velocity - tracker.state.velocity - LIMITS.change).abs() < 1e-15);
        hold(&mut tracker);
        // From braking at 12 rad/s², a joint that goes on is not led through a stand and back.
        let (mut was, begin) = (tracker.state, tracker.state.position);
        for passed in 1..100 {
            tick(&mut tracker, begin + 0.008 * f64::from(passed));
            let is = tracker.state;
            assert!(is.velocity > 0.0);
            assert!(passed == 1 || (is.change - was.change).abs() <= 0.0003 + 1e-15, "tick {passed}");
            was = is;
        }
        assert!((was.velocity - 0.008).abs() < 1e-12);
    }

    #[test]
    fn stricter_limits_are_met_within_their_jerk_and_the_robots_own_goes_before_them() {
        let mut tracker = Tracker::new(LIMITS);
        for passed in 0..60 {
            tick(&mut tracker, 0.018 * f64::from(passed) - 1.0);
        }
        // Slower, gentler and rounder, while it goes on at 1.8 rad/s.
        tracker.within = Limits { speed: 0.005, change: 0.0006, jerk: Some(0.00005), ..LIMITS };
        let (mut was, mut slowest) = (tracker.state, f64::MAX);
        for passed in 60..200 {
            tick(&mut tracker, 0.018 * f64::from(passed) - 1.0);
            let is = tracker.state;
            assert!((is.change - was.change).abs() <= 0.00005 + 1e-15 && is.change.abs() <= 0.0006 + 1e-15);
            slowest = slowest.min(is.velocity);
            was = is;
        }
        assert!((was.velocity - 0.005).abs() < 1e-12 && slowest >= 0.005 - 1e-12, "{slowest}");
        // And back: from braking at the driver's limits to following at the robot's.
        tracker.within = LIMITS;
        for passed in 200..300 {
            tick(&mut tracker, 0.018 * f64::from(passed) - 1.0);
            let is = tracker.state;
            assert!((is.change - was.change).abs() <= 0.0003 + 1e-15);
            was = is;
        }
    }
}
