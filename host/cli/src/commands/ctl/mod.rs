//! `waza ctl`: operates what `waza serve` left running.

mod client;

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;
use waza_daemon::Token;
use waza_daemon::wire::{Condition, Latch, OfSkill, Reset, Run, RunState, Skills, StartRun, Status};
use waza_runtime::{Event, RunId};

use self::client::Client;
use crate::fault::{BadInput, bad_input};
use crate::lines::plain;

#[derive(Debug, Args)]
pub struct Ctl {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    at: At,
}

/// Where the host is, and how it is spoken to.
#[derive(Debug, Args)]
struct At {
    /// The host.
    #[arg(long, global = true, default_value = "http://127.0.0.1:7373")]
    host: String,
    /// A file with the host's token.
    #[arg(long, global = true)]
    token: Option<PathBuf>,
    /// Print JSON, as the host answers it.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say how the robot is, what may stop it and what the safety filter did.
    #[command(after_help = "Example:\n  waza ctl status --json")]
    Status,
    /// List the loaded skills, and the packages that were refused with the reason.
    #[command(after_help = "Example:\n  waza ctl skills")]
    Skills,
    /// Start a run and follow it to its end.
    #[command(after_help = "Examples:\n  waza ctl run waza/touch --task \"touch the red block\"\n  \
                            waza ctl run waza/touch --task \"touch the red block\" --detach\n  \
                            waza ctl run waza/touch --task \"touch the red block\" --record")]
    Run(Start),
    /// List the runs, or show one.
    #[command(after_help = "Examples:\n  waza ctl runs\n  waza ctl runs 3 --json")]
    Runs {
        /// Only this run.
        id: Option<RunId>,
    },
    /// Stop the robot. The stop stays until it is reset, and every run ends.
    #[command(after_help = "Example:\n  waza ctl stop")]
    Stop,
    /// Lift the host stop that was seen. Nothing moves until a run is started.
    #[command(after_help = "Example:\n  waza ctl reset 1")]
    Reset {
        /// Its number, as `waza ctl status` shows it.
        stop: u64,
    },
    /// End a run; its joints hold. One that was interrupted is forgotten.
    #[command(after_help = "Example:\n  waza ctl kill 3")]
    Kill {
        /// Its number.
        id: RunId,
    },
    /// Let a run go on from its checkpoint that an earlier host did not live to end.
    #[command(after_help = "Example:\n  waza ctl resume 3")]
    Resume {
        /// Its number, as `waza ctl runs` lists it.
        id: RunId,
    },
    /// Take every lease of a skill away. Its joints hold; its runs go on and are told so.
    #[command(after_help = "Example:\n  waza ctl revoke waza/touch")]
    Revoke {
        /// The skill.
        skill: String,
    },
    /// Forget what a skill did, so that its version is run again.
    #[command(after_help = "Example:\n  waza ctl pardon waza/touch")]
    Pardon {
        /// The skill.
        skill: String,
    },
}

#[derive(Debug, Args)]
struct Start {
    /// `vendor/name`, as `waza ctl skills` lists it.
    skill: String,
    /// What to do, in words.
    #[arg(long)]
    task: String,
    /// JSON parameters, of the form that the skill documents.
    #[arg(long)]
    parameters: Option<String>,
    /// Of the model's noise and of the skill's random numbers.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// It gives way to a run of higher priority that wants its joints.
    #[arg(long, default_value_t = 0)]
    priority: u8,
    /// Do not wait for the end.
    #[arg(long)]
    detach: bool,
    /// Write down every call and every observation, where the host keeps records (`waza serve --records`). Such a run keeps
    /// its version.
    #[arg(long)]
    record: bool,
}

impl Ctl {
    pub fn run(self) -> Result<()> {
        let At { host, token, json } = self.at;
        let token = token.as_deref().map(Token::open).transpose();
        let client = Client::new(&host, token.map_err(|line| BadInput::caused_by(anyhow::Error::msg(line)))?)?;
        match self.verb {
            Verb::Status => show(&client.get("/v1/status")?, json, status),
            Verb::Skills => show(&client.get("/v1/skills")?, json, skills),
            Verb::Run(start) => start.run(&client, json),
            Verb::Runs { id: None } => show(&client.get::<Vec<Run>>("/v1/runs")?, json, |runs| {
                runs.iter().map(run).collect::<Vec<_>>().join("\n")
            }),
            Verb::Runs { id: Some(id) } => show(&client.get(&format!("/v1/runs/{id}"))?, json, run),
            Verb::Stop => show(&stop(&client)?, json, latch),
            Verb::Reset { stop } => show(&client.post("/v1/reset", &Reset { stop })?, json, latch),
            Verb::Kill { id } => show(&client.delete(&format!("/v1/runs/{id}"))?, json, |run: &Run| {
                format!("run {} has been told to end", run.id)
            }),
            Verb::Resume { id } => {
                let going: Run = client.post(&format!("/v1/runs/{id}/resume"), &Value::Null)?;
                show(&going, json, |going| format!("run {} goes on", going.id))
            }
            Verb::Revoke { skill } => client.post_only("/v1/leases/revoke", &OfSkill { skill }),
            Verb::Pardon { skill } => client.post_only("/v1/quarantine/pardon", &OfSkill { skill }),
        }
    }
}

/// A stop that is broken off is sent again at once, up to so often.
const STOP_TRIES: usize = 10;

/// Callers who connect without end may push this one out.
fn stop(client: &Client) -> Result<Latch> {
    let ask = || client.post("/v1/stop", &Value::Null);
    let is_refused = |tried: &Result<Latch>| tried.as_ref().is_err_and(|error| error.is::<BadInput>());
    let tried = (1..STOP_TRIES).map(|_| ask()).find(|tried| tried.is_ok() || is_refused(tried));
    tried.unwrap_or_else(ask)
}

impl Start {
    fn run(self, client: &Client, json: bool) -> Result<()> {
        let parameters = match &self.parameters {
            None => Value::Null,
            Some(text) => serde_json::from_str(text)
                .map_err(|error| bad_input("--parameters is no JSON", error, "write it like '{\"max_seconds\": 5}'"))?,
        };
        let Self { skill, task: instruction, seed, priority, detach, record, .. } = self;
        let ask = StartRun { skill, instruction, parameters, seed, priority, record };
        let started: Run = client.post("/v1/runs", &ask)?;
        if detach {
            return show(&started, json, |started| format!("run {} has begun", started.id));
        }
        let id = started.id;
        eprintln!("run {id} has begun; it goes on if you leave, and `waza ctl kill {id}` ends it");
        let mut ended = None;
        let followed = client.follow(id, |event| {
            match event.kind.as_str() {
                "ended" => ended = Some(serde_json::from_value::<Run>(event.data)?),
                _ if json => (),
                kind => {
                    if let Some(line) = told(kind, event.data) {
                        eprintln!("{}", plain(&line));
                    }
                }
            }
            Ok(())
        });
        followed.with_context(|| {
            format!("run {id} goes on unseen (`waza ctl runs {id}` shows it, `waza ctl kill {id}` ends it)")
        })?;
        let ended = ended.ok_or_else(|| anyhow!("the host went away while run {id} worked"))?;
        show(&ended, json, run)?;
        match ended.error {
            Some(error) => Err(anyhow!("{}: {}", error.cause, error.way_out)),
            None => Ok(()),
        }
    }
}

fn show<T: Serialize>(answer: &T, json: bool, words: impl FnOnce(&T) -> String) -> Result<()> {
    let text = if json { serde_json::to_string(answer)? } else { words(answer) };
    if !text.is_empty() {
        say!("{text}")?;
    }
    Ok(())
}

/// What is printed of an event while a run is followed.
fn told(kind: &str, mut data: Value) -> Option<String> {
    if kind == "missed" {
        return Some(format!("({} events were forgotten before they were read)", data["events"]));
    }
    data.as_object_mut()?.insert("kind".into(), kind.into());
    // A newer host may tell what is not known here.
    match serde_json::from_value(data).ok()? {
        Event::Progress { note, .. } => Some(note),
        event @ (Event::Log { .. } | Event::Confirmed { .. }) => Some(event.to_string()),
        event if event.is_of_versions() => Some(event.to_string()),
        _ => None,
    }
}

fn status(status: &Status) -> String {
    let mut states = Vec::new();
    match status.condition {
        Condition::Works => {}
        Condition::LinkDown => states.push("LINK DOWN: nothing moves until the robot's link is back".into()),
        Condition::Ended => states.push("ENDED: its control loop is gone; start the host again".into()),
    }
    match status.stopped {
        Some(stop) => {
            states.push(format!("STOPPED: the host stop {stop} is latched; `waza ctl reset {stop}` lifts it"))
        }
        None if status.stop_sources.iter().any(|source| !source.seen) => {
            states.push("not armed: a stop source has not been seen alive".into())
        }
        None if states.is_empty() => states.push("armed".into()),
        None => {}
    }
    let state = states.join("; ");
    let seen = |source: &waza_daemon::wire::StopSource| {
        format!("{} ({})", source.name, if source.seen { "alive" } else { "unseen" })
    };
    let sources: Vec<_> = status.stop_sources.iter().map(seen).collect();
    let rules: Vec<_> = status.interventions.iter().map(|(rule, times)| format!("{rule} {times}")).collect();
    let none = |list: Vec<String>| if list.is_empty() { "none".into() } else { list.join(", ") };
    [
        format!("robot          {} in {}, {} Hz: {state}", status.robot, status.pace, status.control_hz),
        format!("ticks          {}, {} missed, {} link errors", status.tick, status.missed_ticks, status.link_errors),
        format!("stop sources   {}", none(sources)),
        format!("interventions  {}", none(rules)),
        format!("model          {} {} on {}", status.model.name, status.model.version, status.model.device),
        format!("runs           {}", status.running),
    ]
    .join("\n")
}

fn skills(skills: &Skills) -> String {
    let loaded = skills.loaded.iter().map(|skill| match skill.world.as_str() {
        "skill" => format!("{} {}", skill.id, skill.version),
        world => format!("{} {} ({world})", skill.id, skill.version),
    });
    let refused = skills.refused.iter().map(|refused| format!("refused {}: {}", refused.folder, refused.why));
    let quarantined = skills
        .quarantined
        .iter()
        .map(|version| format!("quarantined {} {}: {}", version.skill, version.version, version.why.join("; ")));
    loaded.chain(refused).chain(quarantined).map(|line| plain(&line).into_owned()).collect::<Vec<_>>().join("\n")
}

fn run(run: &Run) -> String {
    let said = match (run.state, &run.outcome, &run.error, &run.progress) {
        (RunState::Succeeded, Some(outcome), ..) => format!("succeeded: {}", outcome.summary),
        (RunState::Failed, _, Some(error), _) => format!("failed: {}", error.cause),
        (RunState::Interrupted, ..) => format!("interrupted; `waza ctl resume {}` lets it go on", run.id),
        (_, _, _, Some(progress)) => format!("{:.0} %: {}", progress.fraction * 100.0, progress.note),
        _ => "running".into(),
    };
    let record = run.record.as_ref().map_or_else(String::new, |path| format!("; its record is {path}"));
    plain(&format!("{} {} {} {:?} {said}{record}", run.id, run.skill, run.version, run.instruction)).into_owned()
}

fn latch(latch: &Latch) -> String {
    match latch.stopped {
        Some(stop) => format!("the host stop {stop} is latched; `waza ctl reset {stop}` lifts it"),
        None => "no host stop is latched; nothing moves until a run is started".into(),
    }
}
