//! How one joint moves in whole ticks: what it can do, how it follows a target, how it comes to rest.

mod brake;
pub(crate) mod jerk_average;
pub(crate) mod limits;
pub(crate) mod track;
