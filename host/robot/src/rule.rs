//! The names of the safety filter's rules. What each does stands in [`safety`](crate::safety).

use serde::{Deserialize, Serialize};

/// What the safety filter watches, and what the control loop holds for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The host stop: every joint comes to hold and stays until the stop is reset.
    HostStop,
    /// The clock leapt by more than 250 ms or went backwards: every play ends, every joint holds.
    ClockJump,
    /// The observation that a play acted on is older than the embodiment's `command_age_s`: it moves nothing. Or whoever
    /// drives joints did not answer the tick before: they brake.
    CommandAge,
    /// A demanded position is infinite or not a number: that joint holds.
    NotANumber,
    /// A demanded position is outside the joint's limits.
    Position,
    /// The tool centre point must stay in the workspace box.
    Workspace,
    /// A link would get into a forbidden box.
    Forbidden,
    /// Two links would touch that may not.
    SelfCollision,
    /// A sensor feels more force than it may: the arm holds, and may only lead away.
    Force,
    /// A joint feels more torque than it may: it is slowed, then holds, and may only turn back.
    Effort,
    /// The first rows of a play are further from where its joints are than these could get in the time.
    Discontinuity,
    /// A demand moves faster than the joint may.
    Velocity,
    /// A demand speeds up, turns or stops harder than the joint may.
    Acceleration,
    /// A demand speeds up, turns or stops more abruptly than the joint may.
    Jerk,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Self; 14] = [
        Self::HostStop,
        Self::ClockJump,
        Self::CommandAge,
        Self::NotANumber,
        Self::Position,
        Self::Workspace,
        Self::Forbidden,
        Self::SelfCollision,
        Self::Force,
        Self::Effort,
        Self::Discontinuity,
        Self::Velocity,
        Self::Acceleration,
        Self::Jerk,
    ];

    /// As logs, reports and skills see it.
    pub fn name(self) -> &'static str {
        match self {
            Self::HostStop => "host_stop",
            Self::ClockJump => "clock_jump",
            Self::CommandAge => "command_age",
            Self::NotANumber => "not_a_number",
            Self::Position => "position",
            Self::Workspace => "workspace",
            Self::Forbidden => "forbidden",
            Self::SelfCollision => "self_collision",
            Self::Force => "force",
            Self::Effort => "effort",
            Self::Discontinuity => "discontinuity",
            Self::Velocity => "velocity",
            Self::Acceleration => "acceleration",
            Self::Jerk => "jerk",
        }
    }

    /// Whether it ends a play or a drive that it holds; the other rules hold for as long as the demand stays wrong.
    pub fn ends_plays(self) -> bool {
        matches!(
            self,
            Self::HostStop | Self::ClockJump | Self::CommandAge | Self::Force | Self::Effort | Self::Discontinuity
        )
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}
