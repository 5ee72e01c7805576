//! How far a pick and place has come, told from joint positions alone.

use waza_sdk::serde::{Deserialize, Serialize};

/// Joint positions of one moment, rad.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(crate = "waza_sdk::serde")]
pub struct Posture {
    /// Every joint but the gripper, in the robot's order.
    pub arm: Vec<f32>,
    /// Larger is wider.
    pub gripper: f32,
}

/// What tells the phases apart, rad.
#[derive(Debug, Clone, Copy)]
pub struct Thresholds {
    /// A gripper below this angle has closed, around a block or around nothing.
    pub closed_rad: f32,
    /// A gripper above this angle is open, to grasp.
    pub open_rad: f32,
    /// A gripper that holds has let go once it is wider than at its tightest by this angle. A block is dropped from a hand
    /// that need not open as far as to grasp it.
    pub release_rad: f32,
    /// A gripper within this angle of where it started, closed and empty, holds nothing either.
    pub empty_rad: f32,
    /// Each joint of an arm that is home stands within this angle of where it started.
    pub home_rad: f32,
    /// An arm that stands there for so many looks in a row stays: one that missed sets out again.
    pub home_looks: u32,
}

/// One after the other; none is skipped.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(crate = "waza_sdk::serde")]
pub enum Phase {
    /// Has not opened its gripper yet.
    Reaching,
    /// Has opened it, to grasp.
    Grasping,
    /// Has closed it.
    Carrying {
        /// The narrowest that it has been since, rad.
        tightest: f32,
    },
    /// Has opened it again.
    Returning {
        /// Looks in a row at which it stood where it started.
        home_looks: u32,
    },
    /// Stands where it started.
    Home,
}

impl Phase {
    /// The phase once the robot has been seen in `posture`.
    pub fn after(self, posture: &Posture, home: &Posture, thresholds: &Thresholds) -> Self {
        let near = |(now, start): (&f32, &f32)| (now - start).abs() <= thresholds.home_rad;
        let let_go = |tightest: f32| {
            posture.gripper > tightest + thresholds.release_rad
                || posture.gripper <= home.gripper + thresholds.empty_rad
        };
        match self {
            Self::Reaching if posture.gripper > thresholds.open_rad => Self::Grasping,
            Self::Grasping if posture.gripper < thresholds.closed_rad => Self::Carrying { tightest: posture.gripper },
            Self::Carrying { tightest } if let_go(tightest) => Self::Returning { home_looks: 0 },
            Self::Carrying { tightest } => Self::Carrying { tightest: tightest.min(posture.gripper) },
            Self::Returning { home_looks } if posture.arm.iter().zip(&home.arm).all(near) => {
                if home_looks + 1 >= thresholds.home_looks {
                    Self::Home
                } else {
                    Self::Returning { home_looks: home_looks + 1 }
                }
            }
            Self::Returning { .. } => Self::Returning { home_looks: 0 },
            unchanged => unchanged,
        }
    }

    /// The phase of a hand that pressed on something. One that seemed to return was still at work: it has let go only once
    /// it closes on nothing.
    pub fn pressed(self) -> Self {
        match self {
            Self::Returning { .. } => Self::Grasping,
            unchanged => unchanged,
        }
    }

    /// For people.
    pub fn note(self) -> &'static str {
        match self {
            Self::Reaching => "reaching",
            Self::Grasping => "grasping",
            Self::Carrying { .. } => "carrying",
            Self::Returning { .. } => "returning",
            Self::Home => "home",
        }
    }

    /// The share of the phases that are over.
    pub fn progress(self) -> f32 {
        match self {
            Self::Reaching => 0.0,
            Self::Grasping => 0.25,
            Self::Carrying { .. } => 0.5,
            Self::Returning { .. } => 0.75,
            Self::Home => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THRESHOLDS: Thresholds = Thresholds {
        closed_rad: 0.45,
        open_rad: 0.65,
        release_rad: 0.2,
        empty_rad: 0.03,
        home_rad: 0.15,
        home_looks: 2,
    };

    fn posture(pan: f32, gripper: f32) -> Posture {
        Posture { arm: vec![pan, 0.5], gripper }
    }

    fn last_phase(moments: &[Posture]) -> Phase {
        moments.iter().fold(Phase::Reaching, |phase, moment| phase.after(moment, &posture(0.0, 0.1), &THRESHOLDS))
    }

    #[test]
    fn an_arm_that_closed_opened_and_returned_is_home() {
        let moments = [posture(0.0, 0.1), posture(0.6, 0.8), posture(0.6, 0.3), posture(-0.4, 0.8), posture(0.1, 0.1)];
        assert_eq!(last_phase(&moments), Phase::Returning { home_looks: 1 });
        assert_eq!(last_phase(&[&moments[..], &[posture(0.0, 0.1)]].concat()), Phase::Home);
    }

    #[test]
    fn an_arm_that_never_opened_its_gripper_again_still_carries() {
        let moments = [posture(0.6, 0.8), posture(0.6, 0.3), posture(0.0, 0.3)];
        assert_eq!(last_phase(&moments), Phase::Carrying { tightest: 0.3 });
    }

    #[test]
    fn a_hand_lets_go_without_opening_as_far_as_to_grasp() {
        let moments = [posture(0.6, 0.8), posture(0.6, 0.4), posture(0.6, 0.3), posture(-0.4, 0.55)];
        assert_eq!(last_phase(&moments), Phase::Returning { home_looks: 0 });
    }

    #[test]
    fn a_hand_that_closes_on_nothing_has_let_go_though_nobody_saw_it_open() {
        let moments = [posture(0.6, 0.8), posture(0.6, 0.3), posture(-0.4, 0.24), posture(-0.3, 0.12)];
        assert_eq!(last_phase(&moments), Phase::Returning { home_looks: 0 });
    }

    #[test]
    fn a_hand_that_pressed_on_something_was_not_returning_and_has_let_go_once_it_closes_on_nothing() {
        let moments = [posture(0.6, 0.8), posture(0.6, 0.3), posture(-0.4, 0.8)];
        let pressed = last_phase(&moments).pressed();
        assert_eq!(pressed, Phase::Grasping);
        let after = |moments: &[Posture]| {
            moments.iter().fold(pressed, |phase, moment| phase.after(moment, &posture(0.0, 0.1), &THRESHOLDS))
        };
        assert_eq!(after(&[posture(0.0, 0.8), posture(0.0, 0.8)]), Phase::Grasping, "it may have gone back this far");
        assert_eq!(after(&[posture(0.0, 0.3), posture(0.0, 0.1), posture(0.0, 0.1), posture(0.0, 0.1)]), Phase::Home);
        assert_eq!(Phase::Carrying { tightest: 0.3 }.pressed(), Phase::Carrying { tightest: 0.3 });
    }

    #[test]
    fn an_arm_that_sets_out_again_has_not_come_home() {
        let moments = [posture(0.6, 0.8), posture(0.6, 0.3), posture(-0.4, 0.8), posture(0.0, 0.1), posture(0.5, 0.7)];
        assert_eq!(last_phase(&moments), Phase::Returning { home_looks: 0 });
    }

    #[test]
    fn an_arm_that_let_go_far_from_its_start_is_still_returning() {
        let moments = [posture(0.6, 0.8), posture(0.6, 0.3), posture(-0.4, 0.8)];
        assert_eq!(last_phase(&moments), Phase::Returning { home_looks: 0 });
    }
}
