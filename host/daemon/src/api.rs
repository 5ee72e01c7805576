//! The paths. What waits for the disk, or for whoever does, is done aside: many wait on the threads that serve.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use futures_util::stream;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use waza_robot::{Pace, StopSource};
use waza_runtime::{Host, RunId, SkillId, SkillSummary};

use crate::fault::Fault;
use crate::metrics;
use crate::packages::Packages;
use crate::robot::Watched;
use crate::runs::{Run, Runs, interrupted, view_of_interrupted};
use crate::server::{EVENTS, Routes};
use crate::wire::{self, Condition, Latch, Model, OfSkill, Quarantined, Reset, Skill, Skills, StartRun, Status};

/// Readers of events at once: each keeps a connection for as long as it likes, and others must remain.
const MOST_READERS: usize = 16;

/// How long there may be nothing to read before a reader is shown that the connection works.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// How long the answer to a stop waits for the control loop's next tick.
const KEPT_WITHIN: Duration = Duration::from_millis(100);

/// What is answered on a thread of its own, see [`urgent`].
const URGENT: [&str; 3] = ["/v1/status", "/v1/stop", "/v1/stop/alive"];

/// What the paths work on.
pub(crate) struct Site {
    pub host: Host,
    pub runs: Arc<Runs>,
    pub packages: Packages,
    pub robot: Arc<Watched>,
    /// Whose liveness a request proves, if HTTP was declared as a stop source.
    pub stop: Option<StopSource>,
    readers: Arc<Semaphore>,
}

type Shared = State<Arc<Site>>;

impl Site {
    pub fn new(host: Host, runs: Arc<Runs>, robot: Arc<Watched>, stop: Option<StopSource>) -> Self {
        let readers = Arc::new(Semaphore::new(MOST_READERS));
        Self { host, runs, packages: Packages::default(), robot, stop, readers }
    }

    /// How everything is. Waits for nobody.
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
            armed: self.robot.condition() == Condition::Works && sources.iter().all(|source| source.seen),
            condition: self.robot.condition(),
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

    fn run(&self, id: RunId) -> Result<Arc<Run>, Fault> {
        self.runs.find(id).ok_or_else(|| Fault::not_found(format!("there is no run {id}"), KNOWN_RUNS))
    }
}

const KNOWN_RUNS: &str = "`waza ctl runs` lists those that are known";

fn number(id: &str) -> Result<RunId, Fault> {
    id.parse().map_err(|_| Fault::bad_request(format!("{id:?} is no number of a run"), KNOWN_RUNS))
}

pub(crate) fn routes(site: Arc<Site>) -> Routes {
    let all = urgent()
        .route("/v1/skills", get(skills))
        .route("/v1/runs", get(runs).post(start))
        .route("/v1/runs/{id}", get(run).merge(delete(end)))
        .route("/v1/runs/{id}/events", get(events))
        .route("/v1/runs/{id}/resume", post(resume))
        .route("/v1/reset", post(reset))
        .route("/v1/leases/revoke", post(revoke))
        .route("/v1/quarantine/pardon", post(pardon))
        .route("/metrics", get(counts));
    let with_fallbacks =
        |router: Router<_>| router.fallback(nowhere).method_not_allowed_fallback(not_so).with_state(site.clone());
    Routes { urgent: with_fallbacks(urgent()), urgent_paths: &URGENT, all: with_fallbacks(all) }
}

/// The stop, and how the robot is. These handlers ask nothing of a request's body, and wait for nobody but the next tick.
fn urgent() -> Router<Arc<Site>> {
    Router::new().route("/v1/status", get(status)).route("/v1/stop", post(stop)).route("/v1/stop/alive", post(alive))
}

/// Does aside what takes its time.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        let way_out = "look at the host's log, and report it";
        Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", format!("the host failed: {error}"), way_out)
    })
}

async fn status(State(site): Shared) -> Json<Status> {
    Json(site.status())
}

async fn skills(State(site): Shared) -> Result<Json<Skills>, Fault> {
    aside(move || Json(shown(&site))).await
}

fn shown(site: &Site) -> Skills {
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
    Skills {
        loaded: [shown("skill", site.host.skills()), shown("controller", site.host.controllers())].concat(),
        refused: site.packages.refused(),
        quarantined: site.host.quarantined().into_iter().map(quarantined).collect(),
    }
}

async fn runs(State(site): Shared) -> Result<Json<Vec<wire::Run>>, Fault> {
    aside(move || {
        let mut runs: BTreeMap<_, _> = site.runs.all().iter().map(|run| run.brief()).map(|run| (run.id, run)).collect();
        // One that can go on is that, also where it was this host's own.
        runs.extend(site.host.interrupted().into_iter().map(view_of_interrupted).map(|run| (run.id, run)));
        Json(runs.into_values().collect())
    })
    .await
}

async fn start(State(site): Shared, body: Result<Bytes, BytesRejection>) -> Result<Response, Fault> {
    let ask = read::<StartRun>(body)?;
    // Dropped with the request.
    let waiting = Arc::new(());
    let waits = Arc::downgrade(&waiting);
    let run = aside(move || site.runs.start(&site.host, ask, || waits.strong_count() > 0)).await??;
    Ok((StatusCode::CREATED, Json(run.brief())).into_response())
}

async fn run(State(site): Shared, Path(id): Path<String>) -> Result<Response, Fault> {
    let id = number(&id)?;
    let host = site.host.clone();
    if let Some(run) = aside(move || interrupted(&host, id)).await? {
        return Ok(Json(view_of_interrupted(run)).into_response());
    }
    let run = site.run(id)?;
    Ok(match run.whole() {
        Some(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        None => Json(run.brief()).into_response(),
    })
}

/// Lets an interrupted run go on. Nothing else ever does.
async fn resume(State(site): Shared, Path(id): Path<String>) -> Result<Json<wire::Run>, Fault> {
    let id = number(&id)?;
    Ok(Json(aside(move || site.runs.resume(&site.host, id)).await??.brief()))
}

/// Asks a run to end; the answer says whether it already has. One that was interrupted is forgotten.
async fn end(State(site): Shared, Path(id): Path<String>) -> Result<Response, Fault> {
    let id = number(&id)?;
    let host = site.host.clone();
    // Another may be faster, in letting it go on as well.
    let forgotten = aside(move || interrupted(&host, id).filter(|run| host.forget(run.id)));
    if let Some(run) = forgotten.await? {
        return Ok(Json(view_of_interrupted(run)).into_response());
    }
    let run = site.run(id)?;
    run.stop();
    Ok((StatusCode::ACCEPTED, Json(run.brief())).into_response())
}

async fn events(State(site): Shared, Path(id): Path<String>) -> Result<Response, Fault> {
    let reader = site.run(number(&id)?)?.read();
    let permit = site.readers.clone().try_acquire_owned().map_err(|_| {
        let cause = format!("{MOST_READERS} readers follow events");
        Fault::new(StatusCode::TOO_MANY_REQUESTS, "busy", cause, "end one, or look at `waza ctl runs ID` now and then")
    })?;
    let entries = stream::unfold((reader, permit), async |(mut reader, permit)| {
        let entry = match timeout(SIGN_OF_LIFE, reader.next()).await {
            Ok(entry) => entry?,
            // A comment, which readers pass over.
            Err(_) => Bytes::from_static(b":\n\n"),
        };
        Some((Ok::<_, Infallible>(entry), (reader, permit)))
    });
    // What stands between must not keep events until it has more of them.
    let kind = [("content-type", EVENTS), ("cache-control", "no-cache"), ("x-accel-buffering", "no")];
    Ok((kind, Body::from_stream(entries)).into_response())
}

/// Whoever can ask for this can stop the robot; nothing is asked of the body. It is latched at once, and answered when whatever
/// owns the robot keeps it: a host that is killed just after the answer has not forgotten it.
async fn stop(State(site): Shared) -> Json<Latch> {
    let robot = site.host.robot();
    match &site.stop {
        Some(source) => source.stop(),
        None => robot.stop(),
    }
    // A control loop that stands still tells nobody.
    let _ = timeout(KEPT_WITHIN, robot.reach(robot.tick() + 1)).await;
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
    let skill = skill_of(body)?;
    aside(move || site.host.revoke(&skill)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn pardon(State(site): Shared, body: Result<Bytes, BytesRejection>) -> Result<StatusCode, Fault> {
    let skill = skill_of(body)?;
    let named = skill.clone();
    let pardoned = aside(move || {
        let pardoned = site.host.pardon(&named);
        // Whoever is quarantined again is news again.
        site.runs.tell_quarantined(&site.host);
        pardoned
    });
    if pardoned.await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    let way_out = "`waza ctl skills` lists those that are quarantined";
    Err(Fault::not_found(format!("no version of {skill} is quarantined"), way_out))
}

fn skill_of(body: Result<Bytes, BytesRejection>) -> Result<SkillId, Fault> {
    id(read(body)?)
}

pub(crate) fn id(OfSkill { skill }: OfSkill) -> Result<SkillId, Fault> {
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

/// The body of a request.
fn read<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, Fault> {
    let whole =
        |error: BytesRejection| Fault::new(error.status(), "body", error.body_text(), "send less, and all of it");
    parsed(&body.map_err(whole)?)
}

/// JSON of a known form.
pub(crate) fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(body).map_err(|error| Fault::bad_request(error, "send JSON of the documented form"))
}
