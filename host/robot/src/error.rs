//! What goes wrong with a robot, and what is wrong with what was asked of it.

/// The longest that one play may last, seconds.
pub const LONGEST_PLAY_S: f32 = 300.0;

/// How far ahead of the newest tick a play's rows may begin, seconds.
pub const FURTHEST_START_S: f32 = 10.0;

/// Why a robot does not do what was asked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RobotError {
    /// The play is wrong in itself.
    #[error(transparent)]
    Play(#[from] PlayError),
    /// The link is down. The robot holds, and the control loop keeps trying.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Declared sources of the host stop have not been seen alive.
    #[error("the robot is not armed: nothing has been heard of the stop source {}", .unseen.join(", "))]
    NotArmed {
        /// Their names.
        unseen: Vec<String>,
    },
    /// The safety filter may be off for a simulated link only.
    #[error("the safety filter can be off for a simulated robot only, and this link is none")]
    Unguarded,
    /// The control loop is gone: the last handle was dropped, or the link panicked.
    #[error("the robot's control loop has ended; start it again")]
    Ended,
    /// Too much waits for the next tick already.
    #[error(
        "{most} commands wait for the robot's next tick already; wait for their answers, or drop those that are of no use"
    )]
    Busy {
        /// As many as can.
        most: usize,
    },
    /// The operating system refused the control loop its thread.
    #[error("cannot start the control loop's thread: {0}")]
    Thread(String),
}

/// The link is down or the robot did not answer in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the robot link failed: {0}")]
pub struct LinkError(pub String);

/// Why a play was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PlayError {
    /// `joints` is empty.
    #[error("the play names no joints; name at least one of the lease's")]
    NoJoints,
    /// A joint that the robot lacks.
    #[error("the play names joint {joint}, but {robot} has joints 0 to {last}")]
    UnknownJoint {
        /// As asked for.
        joint: usize,
        /// The embodiment's name.
        robot: String,
        /// The highest index.
        last: usize,
    },
    /// `rows` is empty.
    #[error("the play has no rows; it needs at least one")]
    NoRows,
    /// A row is of another width than the embodiment.
    #[error("row {row} of the play has {width} values, one for each of {expected} joints was expected")]
    Width {
        /// Index.
        row: usize,
        /// Values in it.
        width: usize,
        /// Joints of the embodiment.
        expected: usize,
    },
    /// A value is infinite or not a number.
    #[error("row {row} of the play is {value} for joint {joint}; positions must be finite")]
    NotFinite {
        /// Index.
        row: usize,
        /// The joint's name.
        joint: String,
        /// As given.
        value: f32,
    },
    /// `rate_hz` is no rate that the control loop can play.
    #[error("the play's rate is {rate_hz} Hz, it must lie in (0, {control_hz}]")]
    Rate {
        /// As given.
        rate_hz: f32,
        /// The control loop's.
        control_hz: f32,
    },
    /// It would take too long.
    #[error("the play would last {seconds} s; split it into pieces of at most {LONGEST_PLAY_S} s")]
    TooLong {
        /// Of all rows, rounded up.
        seconds: f32,
    },
    /// `since_tick` is in the far future.
    #[error("the play begins at tick {since_tick}, more than {FURTHEST_START_S} s after the newest tick {tick}")]
    FarFuture {
        /// As given.
        since_tick: u64,
        /// Newest.
        tick: u64,
    },
    /// `within` was made for another robot.
    #[error("the play's limits are of {theirs}, made for another robot than {robot}; make them with Robot::within")]
    ForeignLimits {
        /// The embodiment's name that the limits are of.
        theirs: String,
        /// The embodiment's name.
        robot: String,
    },
    /// The fence under which it was asked is not around all of its joints.
    #[error("the fence is not around joint {joint}; raise one that is, with Robot::fence of the same robot")]
    NotFenced {
        /// The joint's name.
        joint: String,
    },
    /// A planned move's speed is no share.
    #[error("the speed of a move is {0}; it is a share of each joint's highest speed and must lie in (0, 1]")]
    Speed(f32),
    /// A planned move would leave a joint's limits.
    #[error("the move would take joint {joint} to {target} rad, its limits are {low} to {high} rad")]
    OutOfReach {
        /// The joint's name.
        joint: String,
        /// Where to.
        target: f32,
        /// The lower limit.
        low: f32,
        /// The upper limit.
        high: f32,
    },
}
