//! The paths.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use futures_util::stream;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use waza_robot::{Pace, StopSource};
use waza_runtime::{Host, RunId, SkillId, SkillSummary};

use crate::fault::Fault;
use crate::metrics;
use crate::packages::Packages;
use crate::runs::{Run, Runs, interrupted, view_of_interrupted};
use crate::wire::{self, Latch, Model, OfSkill, Quarantined, Reset, Skill, Skills, StartRun, Status};

/// Readers of events at once: each keeps a connection for as long as it likes, and others must remain.
const MOST_READERS: usize = 16;

/// What the paths work on.
pub(crate) struct Site {
    pub host: Host,
    pub runs: Arc<Runs>,
    pub packages: Packages,
    /// Whose liveness a request proves, if HTTP was declared as a stop source.
    pub stop: Option<StopSource>,
    readers: Arc<Semaphore>,
}

type Shared = State<Arc<Site>>;

impl Site {
    pub fn new(host: Host, runs: Arc<Runs>, stop: Option<StopSource>) -> Self {
        Self { host, runs, packages: Packages::default(), stop, readers: Arc::new(Semaphore::new(MOST_READERS)) }
    }

    pub fn status(&self) -> Status {
        let robot = self.host.robot();
        let (statistics, model) = (robot.statistics(), self.host.model());
        let sources = robot.stop_sources();
        let pace = match robot.pace() {
            Pace::RealTime => "real time",
            Pace::Lockstep => "lockstep",
        };
        Status {
            robot: robot.embodiment().name.clone(),
            pace: pace.into(),
            control_hz: robot.embodiment().control_hz,
            tick: statistics.ticks,
            missed_ticks: statistics.missed,
            link_errors: statistics.link_errors,
            interventions: statistics.interventions.iter().map(|(rule, times)| (rule.to_string(), *times)).collect(),
            stopped: self.stopped(),
            armed: sources.iter().all(|source| source.seen),
            stop_sources: sources
                .into_iter()
                .map(|source| wire::StopSource { name: source.name, seen: source.seen })
                .collect(),
            model: Model { name: model.name.clone(), version: model.version.clone(), device: model.device.clone() },
            running: self.runs.running(),
        }
    }

    fn stopped(&self) -> Option<u64> {
        self.host.robot().stopped().map(|stop| stop.number())
    }

    fn run(&self, id: &str) -> Result<Arc<Run>, Fault> {
        let id = number(id)?;
        self.runs.find(id).ok_or_else(|| Fault::not_found(format!("there is no run {id}"), KNOWN_RUNS))
    }
}

const KNOWN_RUNS: &str = "`waza ctl runs` lists those that are known";

fn number(id: &str) -> Result<RunId, Fault> {
    id.parse().map_err(|_| Fault::bad_request(format!("{id:?} is no number of a run"), KNOWN_RUNS))
}

pub(crate) fn router(site: Arc<Site>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/skills", get(skills))
        .route("/v1/runs", get(runs).post(start))
        .route("/v1/runs/{id}", get(run).merge(delete(end)))
        .route("/v1/runs/{id}/events", get(events))
        .route("/v1/runs/{id}/resume", post(resume))
        .route("/v1/stop", post(stop))
        .route("/v1/stop/alive", post(alive))
        .route("/v1/reset", post(reset))
        .route("/v1/leases/revoke", post(revoke))
        .route("/v1/quarantine/pardon", post(pardon))
        .route("/metrics", get(counts))
        .fallback(nowhere)
        .method_not_allowed_fallback(not_so)
        .with_state(site)
}

async fn status(State(site): Shared) -> Json<Status> {
    Json(site.status())
}

async fn skills(State(site): Shared) -> Json<Skills> {
    let shown = |world: &str, summaries: Vec<SkillSummary>| {
        let skill = |summary: SkillSummary| Skill {
            id: summary.id.to_string(),
            version: summary.version.to_string(),
            world: world.into(),
            permissions: summary.permissions.iter().map(ToString::to_string).collect(),
        };
        summaries.into_iter().map(skill).collect::<Vec<_>>()
    };
    let quarantined = |version: waza_runtime::Quarantined| Quarantined {
        skill: version.skill.to_string(),
        version: version.version.to_string(),
        why: version.why,
    };
    Json(Skills {
        loaded: [shown("skill", site.host.skills()), shown("controller", site.host.controllers())].concat(),
        refused: site.packages.refused(),
        quarantined: site.host.quarantined().into_iter().map(quarantined).collect(),
    })
}

async fn runs(State(site): Shared) -> Json<Vec<wire::Run>> {
    let waiting = site.host.interrupted().into_iter().map(view_of_interrupted);
    Json(waiting.chain(site.runs.all().iter().map(|run| run.view())).collect())
}

async fn start(State(site): Shared, body: Result<Bytes, BytesRejection>) -> Result<Response, Fault> {
    let ask = read::<StartRun>(body)?;
    let record = if ask.record { Some(site.runs.record(&site.host, &ask).await?) } else { None };
    let run = site.runs.start(&site.host, ask, record.clone()).inspect_err(|_| {
        if let Some(record) = record {
            tokio::task::spawn_blocking(move || record.discard());
        }
    })?;
    Ok((StatusCode::CREATED, Json(run.view())).into_response())
}

async fn run(State(site): Shared, Path(id): Path<String>) -> Result<Json<wire::Run>, Fault> {
    match interrupted(&site.host, number(&id)?) {
        Some(run) => Ok(Json(view_of_interrupted(run))),
        None => Ok(Json(site.run(&id)?.view())),
    }
}

/// Lets an interrupted run go on. Nothing else ever does.
async fn resume(State(site): Shared, Path(id): Path<String>) -> Result<Json<wire::Run>, Fault> {
    Ok(Json(site.runs.resume(&site.host, number(&id)?)?.view()))
}

/// Asks a run to end; the answer says whether it already has. One that was interrupted is forgotten.
async fn end(State(site): Shared, Path(id): Path<String>) -> Result<Response, Fault> {
    if let Some(run) = interrupted(&site.host, number(&id)?) {
        site.host.forget(run.id);
        return Ok(Json(view_of_interrupted(run)).into_response());
    }
    let run = site.run(&id)?;
    run.stop();
    Ok((StatusCode::ACCEPTED, Json(run.view())).into_response())
}

async fn events(State(site): Shared, Path(id): Path<String>) -> Result<Response, Fault> {
    let reader = site.run(&id)?.read();
    let permit = site.readers.clone().try_acquire_owned().map_err(|_| {
        let cause = format!("{MOST_READERS} readers follow events");
        Fault::new(StatusCode::TOO_MANY_REQUESTS, "busy", cause, "end one, or look at `waza ctl runs ID` now and then")
    })?;
    let entries = stream::unfold((reader, permit), async |(mut reader, permit)| {
        let entry = reader.next().await?;
        let event = sse::Event::default().event(entry.kind).data(entry.data);
        Some((Ok::<_, Infallible>(event), (reader, permit)))
    });
    Ok(Sse::new(entries).keep_alive(sse::KeepAlive::default()).into_response())
}

/// Whoever can ask for this can stop the robot; nothing is asked of the body.
async fn stop(State(site): Shared) -> Json<Latch> {
    match &site.stop {
        Some(source) => source.stop(),
        None => site.host.robot().stop(),
    }
    Json(Latch { stopped: site.stopped() })
}

/// Comes the way of a stop and says that it works.
async fn alive(State(site): Shared) -> StatusCode {
    if let Some(source) = &site.stop {
        source.alive();
    }
    StatusCode::NO_CONTENT
}

async fn reset(State(site): Shared, body: Result<Bytes, BytesRejection>) -> Result<Json<Latch>, Fault> {
    let Reset { stop } = read(body)?;
    let robot = site.host.robot();
    let Some(latched) = robot.stopped() else {
        return Err(Fault::conflict("not-stopped", "no host stop is latched", "nothing is to be done"));
    };
    let other = || {
        let cause = format!("the host stop {stop} is not the one that is latched");
        Fault::conflict(
            "another-stop",
            cause,
            match site.stopped() {
                Some(latched) => format!("look at the robot, then `waza ctl reset {latched}`"),
                None => "look at `waza ctl status`".into(),
            },
        )
    };
    if latched.number() != stop {
        return Err(other());
    }
    let lifted = site.runs.when_none(|| robot.reset(latched)).map_err(|running| {
        let cause = format!("{running} runs from before the stop have not ended yet");
        Fault::conflict("ending", cause, "ask again: they have been told to end")
    })?;
    if lifted { Ok(Json(Latch { stopped: site.stopped() })) } else { Err(other()) }
}

async fn revoke(State(site): Shared, body: Result<Bytes, BytesRejection>) -> Result<StatusCode, Fault> {
    site.host.revoke(&skill_of(body)?);
    Ok(StatusCode::NO_CONTENT)
}

async fn pardon(State(site): Shared, body: Result<Bytes, BytesRejection>) -> Result<StatusCode, Fault> {
    let skill = skill_of(body)?;
    let pardoned = site.host.pardon(&skill);
    // Whoever is quarantined again is news again.
    site.runs.tell_quarantined(&site.host);
    if pardoned {
        return Ok(StatusCode::NO_CONTENT);
    }
    let way_out = "`waza ctl skills` lists those that are quarantined";
    Err(Fault::not_found(format!("no version of {skill} is quarantined"), way_out))
}

fn skill_of(body: Result<Bytes, BytesRejection>) -> Result<SkillId, Fault> {
    let OfSkill { skill } = read(body)?;
    SkillId::try_from(skill).map_err(|error| Fault::bad_request(error, "name a skill as vendor/name"))
}

async fn counts(State(site): Shared) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, metrics::text(&site.status(), site.host.skills().len())).into_response()
}

async fn nowhere() -> Fault {
    Fault::not_found("there is nothing under this path", "the paths begin with /v1/; see `waza ctl --help`")
}

async fn not_so() -> Fault {
    let way_out = "GET looks, POST does, DELETE ends a run";
    Fault::new(StatusCode::METHOD_NOT_ALLOWED, "method", "this path is not used in this way", way_out)
}

/// The body as JSON of a known form.
fn read<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, Fault> {
    let body =
        body.map_err(|error| Fault::new(error.status(), "body", error.body_text(), "send less, and all of it"))?;
    serde_json::from_slice(&body).map_err(|error| Fault::bad_request(error, "send JSON of the documented form"))
}
