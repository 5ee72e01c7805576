//! The vocabulary of the safety filter: its rules, how hard each acts, and what it reports.
//!
//! | rule | when | response | who clears it |
//! |---|---|---|---|
//! | `host_stop` | a stop source stopped the robot | latch | an operator who acknowledges that stop; nothing restarts |
//! | `clock_jump` | the clock leapt by more than 250 ms or went backwards | hold, every play ends | a new play |
//! | `command_age` | a play acted on an observation older than `command_age_s` | hold: it ends late, unmoved | a new play |
//! | `command_age` | whoever drives joints did not answer the tick before | hold: they brake for this tick | the next answer; after [`PATIENCE_S`] the drive ends late |
//! | `command_age` | a host's next command does not reach the process that owns the robot within a period of when it is due | hold: the joints brake | the next command |
//! | `not_a_number` | a demand is no finite number | hold, that joint | the next demand |
//! | `position` | a demand is beyond a joint's limits | clamp | the next demand |
//! | `workspace` | the tool would leave its box | clamp; hold where that fails or it comes too fast | the next demand |
//! | `forbidden` | a capsule would enter a forbidden box | hold | a demand that leads away |
//! | `self_collision` | two capsules would meet that may not | hold | a demand that leads away |
//! | `force` | a wrist or foot feels more than a force limit for 30 ms | hold: plays and drives end held | a demand that leads away |
//! | `effort` | a joint feels more than its effort limit for 50 ms | slow, that joint, where it presses on | its effort, when it has fallen by a tenth |
//! | `effort` | and for 250 ms | hold, that joint: plays and drives that press on end held | a demand that leads away |
//! | `discontinuity` | a play's first rows are out of the joints' reach in the time that they leave | slow; hold where they are further than `discontinuity_rad` out of it: the play ends held, unmoved, and so does what it would have replaced | the next play |
//! | `velocity` | a demand is faster than a joint may be | slow | the command, when it has caught up |
//! | `acceleration` | a demand turns harder than a joint may | slow | the command, when it has caught up |
//! | `jerk` | a demand changes an acceleration faster than a joint may | slow: its corners are rounded off | the command, when it has caught up |
//!
//! What is no rule of the filter, and has an outcome of its own:
//!
//! | what | outcome |
//! |---|---|
//! | a link that drops, for however long | every play ends with [`RobotError::Link`](crate::RobotError::Link), and so does what is played meanwhile; the arm brakes; when the link is back it holds, and only a new play moves it |
//! | a robot that was moved meanwhile | it holds where it is found |
//! | a camera that freezes | [`Observation::frozen`](crate::Observation::frozen) names it, and the log does |
//! | a frame whose pixels are lost | [`Frame::image`](crate::Frame::image) says so, and names the camera |
//! | a stop source that was declared and not heard of | plays are refused with [`RobotError::NotArmed`](crate::RobotError::NotArmed) |
//! | a play whose rows are all due before it takes effect | it ends [`Late`](crate::Ended::Late); nothing moves |
//!
//! `velocity`, `acceleration` and `jerk` are also what the chunk player reports of rows that it cannot meet within a tick
//! at full speed, and `discontinuity` is the player's alone: it sees the rows, and it can look ahead.
//!
//! What holds of jerk: a joint that has a limit to it keeps that from tick to tick, whatever is demanded and whoever
//! drives, and may still brake with the whole acceleration at once, or it could not always stop. What brakes so, and the
//! tick in which that ends:
//!
//! - every hold: nothing drives the joint any more, the host stop, a play or drive that ends early, a driver that missed a
//!   tick, a demand that is no number;
//! - what protects: a place, a force, an effort that slows or holds;
//! - a position limit, where the way that a jerk leaves is too short: after one of the above, or under a new driver whose
//!   range is narrower.
//!
//! A driver's own stricter jerk is kept in the same way: a joint that comes under it, or under a lower speed or
//! acceleration, while it moves slows down within that jerk.
//!
//! The filter guards commands, not the arm: how far the joints lag behind is the servos' business.
//!
//! This is no certified safety function (ISO 10218, ISO 13482): a robot's hardware stops stay in place.

pub(crate) mod filter;
mod load;

use serde::{Deserialize, Serialize};

use crate::embodiment::Embodiment;
pub use crate::rule::Rule;

/// Whoever drives joints tick by tick may miss ticks for so long in a row, seconds; then the drive is over.
pub const PATIENCE_S: f32 = 0.25;

/// Where a robot's tool is, from its joints.
pub trait Kinematics: Send {
    /// The tool centre point in the base frame, metres, at these joint positions (rad, embodiment's order).
    fn tool_position(&self, positions: &[f32]) -> [f32; 3];
}

impl<F: Fn(&[f32]) -> [f32; 3] + Send> Kinematics for F {
    fn tool_position(&self, positions: &[f32]) -> [f32; 3] {
        self(positions)
    }
}

/// Whether the safety filter acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Guard {
    /// Every rule is kept.
    #[default]
    On,
    /// Demands become commands as they are; only what is no number holds. For measuring what the filter costs, and refused
    /// by [`Robot::start`](crate::Robot::start) for anything but a simulated link.
    Off,
}

/// How hard the filter acted, mildest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// The command is the nearest allowed one.
    Clamp,
    /// The command lags behind the demand and catches up within the limits.
    Slow,
    /// The joints stop and stay while the demand stays wrong.
    Hold,
    /// The joints stop and stay until the operator resets the stop.
    Latch,
}

/// One way in which the filter changed commands of one play; repetitions of a rule are merged.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Intervention {
    /// Which rule.
    pub rule: Rule,
    /// The hardest response.
    pub response: Response,
    /// The joint with the largest excess; `None` where a rule concerns the whole arm.
    pub joint: Option<usize>,
    /// When the rule first acted.
    pub first_tick: u64,
    /// In how many ticks it acted.
    pub ticks: u64,
    /// How far the command was from the demand at most, rad; for places, how far the demand was in the wrong one, metres;
    /// for a command's age, seconds; for force and effort, how far above the limit, N or N m; for a discontinuity, how far
    /// out of reach the row was, rad.
    /// Infinite where the demand is no number.
    pub excess: f32,
}

impl Intervention {
    /// A sentence about it for an operator, with the joint's name and the limit that was kept.
    pub fn detail(&self, embodiment: &Embodiment) -> String {
        let Self { rule, ticks, excess, .. } = *self;
        let joint = self.joint.and_then(|index| embodiment.joints.get(index));
        let name = joint.map_or("the arm", |joint| joint.name.as_str());
        let times = if ticks == 1 { "for 1 tick".into() } else { format!("for {ticks} ticks") };
        match rule {
            Rule::HostStop => "the host stop is latched; every joint holds".into(),
            Rule::ClockJump => "the clock jumped; every joint holds until something new is played".into(),
            Rule::CommandAge => format!("what was asked was up to {excess:.2} s old; it moved nothing {times}"),
            Rule::NotANumber => format!("{name} was sent what is no finite number; it held {times}"),
            Rule::Workspace if self.response == Response::Hold => {
                format!("the tool would have left the workspace by {excess:.4} m; the arm held {times}")
            }
            Rule::Workspace => format!("the tool was kept inside the workspace, up to {excess:.4} m short, {times}"),
            Rule::Forbidden => {
                format!("a link would have entered a forbidden box by {excess:.4} m; the arm held {times}")
            }
            Rule::SelfCollision => format!("two links would have met by {excess:.4} m; the arm held {times}"),
            Rule::Force => format!("{excess:.2} N more than allowed were felt; the arm held {times}"),
            Rule::Effort => {
                let limit = joint.map_or(f32::NAN, |joint| joint.effort);
                let did = if self.response == Response::Hold { "held" } else { "was slowed" };
                format!("{name} felt {excess:.3} N m more than its {limit} N m; it {did} {times}")
            }
            Rule::Discontinuity => {
                let did = if self.response == Response::Hold { "the play was refused" } else { "it followed slowly" };
                format!("{name} was sent {excess:.4} rad further than it could get in the time; {did}")
            }
            Rule::Position => {
                let [low, high] = joint.map_or([f32::NAN; 2], |joint| joint.position);
                format!("{name} was kept within {low} to {high} rad, up to {excess:.4} rad short, {times}")
            }
            Rule::Velocity => {
                let limit = joint.map_or(f32::NAN, |joint| joint.velocity);
                format!("{name} was slowed to {limit} rad/s, up to {excess:.4} rad behind, {times}")
            }
            Rule::Acceleration => {
                let limit = joint.map_or(f32::NAN, |joint| joint.acceleration);
                format!("{name} was slowed to {limit} rad/s², up to {excess:.4} rad behind, {times}")
            }
            Rule::Jerk => {
                let limit = joint.and_then(|joint| joint.jerk).unwrap_or(f32::NAN);
                format!("{name} was rounded off to {limit} rad/s³, up to {excess:.4} rad away, {times}")
            }
        }
    }
}

/// One rule acting in one tick.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Act {
    pub rule: Rule,
    pub response: Response,
    pub joint: Option<usize>,
    /// As [`Intervention::excess`].
    pub excess: f64,
}

/// The merged interventions of one play: at most one a rule, without allocation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record([Option<(Intervention, u64)>; Rule::ALL.len()]);

impl Record {
    pub fn note(&mut self, act: Act, tick: u64) {
        let Act { rule, response, joint, excess } = act;
        let excess = excess as f32;
        let slot = &mut self.0[rule as usize];
        let Some((merged, last_tick)) = slot else {
            *slot = Some((Intervention { rule, response, joint, first_tick: tick, ticks: 1, excess }, tick));
            return;
        };
        if *last_tick != tick {
            merged.ticks += 1;
            *last_tick = tick;
        }
        merged.response = merged.response.max(response);
        if excess > merged.excess {
            merged.excess = excess;
            merged.joint = joint;
        }
    }

    /// In the order in which they began.
    pub fn write(&self, to: &mut Vec<Intervention>) {
        to.extend(self.0.iter().flatten().map(|(merged, _)| *merged));
        // Without the memory that a stable sort may want: no two are of one rule.
        to.sort_unstable_by_key(|it| (it.first_tick, it.rule));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(record: &Record) -> Vec<Intervention> {
        let mut all = Vec::new();
        record.write(&mut all);
        all
    }

    #[test]
    fn repeated_interventions_of_a_rule_become_one_with_the_largest_excess() {
        let mut record = Record::default();
        let act = |joint, excess| Act { rule: Rule::Velocity, response: Response::Slow, joint: Some(joint), excess };
        record.note(act(1, 0.1), 7);
        record.note(act(4, 0.3), 7);
        record.note(act(1, 0.2), 8);
        let expected = Intervention {
            rule: Rule::Velocity,
            response: Response::Slow,
            joint: Some(4),
            first_tick: 7,
            ticks: 2,
            excess: 0.3,
        };
        assert_eq!(written(&record), [expected]);
        let robot = Embodiment::so101();
        assert_eq!(expected.detail(&robot), "wrist_roll was slowed to 2.5 rad/s, up to 0.3000 rad behind, for 2 ticks");
    }

    #[test]
    fn interventions_are_told_in_the_order_in_which_they_began() {
        let mut record = Record::default();
        for (rule, tick) in [(Rule::Jerk, 3), (Rule::Force, 7), (Rule::Velocity, 5), (Rule::Jerk, 9)] {
            record.note(Act { rule, response: Response::Slow, joint: None, excess: 0.0 }, tick);
        }
        let told: Vec<_> = written(&record).iter().map(|it| (it.rule, it.first_tick)).collect();
        assert_eq!(told, [(Rule::Jerk, 3), (Rule::Velocity, 5), (Rule::Force, 7)]);
    }

    #[test]
    fn every_rule_has_its_own_slot_and_name() {
        let mut record = Record::default();
        for (index, rule) in Rule::ALL.into_iter().enumerate() {
            assert_eq!(rule as usize, index);
            record.note(Act { rule, response: Response::Clamp, joint: None, excess: 0.0 }, 1);
            assert_eq!(serde_json::to_string(&rule).unwrap(), format!("\"{rule}\""));
        }
        assert_eq!(written(&record).len(), Rule::ALL.len());
    }
}
