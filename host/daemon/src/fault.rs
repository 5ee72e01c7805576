//! How a request fails: a status and a [`Problem`].

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use waza_runtime::SkillError;

use crate::wire::{Failure, Problem};

/// Answers a request that fails.
#[derive(Debug)]
pub(crate) struct Fault(StatusCode, Problem);

impl Fault {
    pub fn new(status: StatusCode, kind: &str, cause: impl ToString, way_out: impl ToString) -> Self {
        Self(status, problem(kind, cause, way_out))
    }

    pub fn bad_request(cause: impl ToString, way_out: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", cause, way_out)
    }

    pub fn not_found(cause: impl ToString, way_out: impl ToString) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", cause, way_out)
    }

    /// The request is right, but not now.
    pub fn conflict(kind: &str, cause: impl ToString, way_out: impl ToString) -> Self {
        Self::new(StatusCode::CONFLICT, kind, cause, way_out)
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        (self.0, Json(Failure { error: self.1 })).into_response()
    }
}

fn problem(kind: &str, cause: impl ToString, way_out: impl ToString) -> Problem {
    Problem { kind: kind.into(), cause: cause.to_string(), way_out: way_out.to_string() }
}

/// A run's end as an operator sees it.
pub(crate) fn run_problem(error: &SkillError) -> Problem {
    let (kind, way_out) = match error {
        SkillError::NotLoaded { .. } => ("not-loaded", "name a skill that `waza ctl skills` lists"),
        SkillError::Returned { .. } => ("returned", "the skill's own words say what it lacked; ask again with that"),
        SkillError::Trapped { .. } => ("trapped", "give its vendor this line and the run's log"),
        SkillError::Exhausted { .. } => ("exhausted", "ask for less at once, or give its vendor this line"),
        SkillError::Denied { .. } => ("denied", "grant it, or load a version that does without"),
        SkillError::Quarantined { .. } => ("quarantined", "`waza ctl pardon SKILL`, or load another version"),
        SkillError::Full { .. } => ("full", "end a run, or give all runs more with --memory"),
        SkillError::Stopped { .. } => ("stopped", "start it again when it may go on"),
    };
    problem(kind, error, way_out)
}
