//! A client of the HTTP API.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};
use waza_daemon::Token;
use waza_daemon::wire::Failure;
use waza_runtime::RunId;

use crate::fault::{BadInput, bad_input};

/// An answer takes no longer; following events does.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a host is given to take a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

pub struct Client {
    agent: Agent,
    host: String,
    token: Option<Token>,
}

/// An event of a run.
pub struct Event {
    pub kind: String,
    pub data: serde_json::Value,
}

impl Client {
    /// For a host at `http://ADDRESS:PORT`.
    pub fn new(host: &str, token: Option<Token>) -> Result<Self> {
        if !host.starts_with("http://") {
            return Err(bad_input("no address of a host", host, "name one like http://127.0.0.1:7373 with --host"));
        }
        // A refusal's body says more than its status.
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_WITHIN))
            .timeout_recv_response(Some(PATIENCE));
        Ok(Self { agent: config.build().into(), host: host.trim_end_matches('/').into(), token })
    }

    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        read(self.look(path)?)
    }

    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        read(self.tell(path, body)?)
    }

    /// For what has no answer but that it was done.
    pub fn post_only(&self, path: &str, body: &impl Serialize) -> Result<()> {
        checked(self.tell(path, body)?).map(drop)
    }

    pub fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let mut request = self.agent.delete(self.url(path));
        if let Some(token) = &self.token {
            request = request.header("authorization", token.header());
        }
        read(self.sent(request.call())?)
    }

    /// Follows the events of a run to its end.
    pub fn follow(&self, run: RunId, mut each: impl FnMut(Event) -> Result<()>) -> Result<()> {
        let answer = checked(self.look(&format!("/v1/runs/{run}/events"))?)?;
        let mut kind = String::new();
        for line in BufReader::new(answer.into_body().into_reader()).lines() {
            let line = line.with_context(|| format!("the host at {} went away while run {run} worked", self.host))?;
            if let Some(name) = line.strip_prefix("event: ") {
                kind = name.into();
            } else if let Some(data) = line.strip_prefix("data: ") {
                let data = serde_json::from_str(data).context("the host sent an event that is no JSON")?;
                each(Event { kind: std::mem::take(&mut kind), data })?;
            }
        }
        Ok(())
    }

    fn look(&self, path: &str) -> Result<Response<Body>> {
        let mut request = self.agent.get(self.url(path));
        if let Some(token) = &self.token {
            request = request.header("authorization", token.header());
        }
        self.sent(request.call())
    }

    fn tell(&self, path: &str, body: &impl Serialize) -> Result<Response<Body>> {
        let mut request = self.agent.post(self.url(path)).header("content-type", "application/json");
        if let Some(token) = &self.token {
            request = request.header("authorization", token.header());
        }
        self.sent(request.send(serde_json::to_vec(body)?))
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.host)
    }

    fn sent(&self, answer: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>> {
        answer.map_err(|error| match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
                bad_input("no address of a host", &self.host, "name one like http://127.0.0.1:7373 with --host")
            }
            error => {
                let way_out = "start one with `waza serve`, or name another with --host";
                anyhow!("no host answers ({error}): {}: {way_out}", self.host)
            }
        })
    }
}

fn read<T: DeserializeOwned>(answer: Response<Body>) -> Result<T> {
    let body = checked(answer)?.into_body().into_reader();
    serde_json::from_reader(body).context("the host's answer is not what this version of waza expects")
}

/// The answer, if it is none of refusal.
fn checked(answer: Response<Body>) -> Result<Response<Body>> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let failure: Failure = serde_json::from_reader(answer.into_body().into_reader())
        .with_context(|| format!("the host refused with {status} and no word; is it a host of Waza?"))?;
    let line = anyhow!("{}: {}", failure.error.cause, failure.error.way_out);
    let asked_wrongly = [StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND, StatusCode::UNAUTHORIZED].contains(&status);
    Err(if asked_wrongly { BadInput::caused_by(line) } else { line })
}
