//! What a call across the boundary costs, measured on a real component.
//!
//! The component is the skill in `tests/guests/probe`: it calls one import as often as it is asked.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use crate::error::SkillError;
use crate::host::{Host, TaskRequest};
use crate::limits::rate::Crowd;
use crate::run::thread::Signal;
use crate::supervisor::instance;
use crate::supervisor::{self, Start};

/// Calls a measurement: few enough to fit into one slice of the scheduler's.
const CALLS: u32 = 20_000;

/// Measurements; the fastest counts, because whatever else the machine does only ever adds.
const ROUNDS: usize = 51;

/// Instances that are made; the fastest counts.
const INSTANCES: usize = 1000;

/// Costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Costs {
    /// One call of `clock.now`.
    pub sync_import: Duration,
    /// One call of `clock.wait` that need not wait, awaited.
    pub async_import: Duration,
    /// A store with its budgets and an instance of the skill in it.
    pub instantiate: Duration,
}

/// Measures with the probe, which must be loaded as `skill`. Give the host a robot in real time.
///
/// # Errors
/// [`SkillError`] if the probe is not loaded or fails.
pub async fn calls(host: &Host, skill: &str) -> Result<Costs, SkillError> {
    Ok(Costs {
        sync_import: call(host, skill, "sync").await?,
        async_import: call(host, skill, "async").await?,
        instantiate: instantiate(host, skill)?,
    })
}

async fn call(host: &Host, skill: &str, import: &str) -> Result<Duration, SkillError> {
    let (mut without, mut with) = (Vec::with_capacity(ROUNDS), Vec::with_capacity(ROUNDS));
    for _ in 0..ROUNDS {
        without.push(time(host, skill, import, 0).await?);
        with.push(time(host, skill, import, CALLS).await?);
    }
    Ok(fastest(with).saturating_sub(fastest(without)) / CALLS)
}

async fn time(host: &Host, skill: &str, import: &str, calls: u32) -> Result<Duration, SkillError> {
    let request = TaskRequest { instruction: import.into(), parameters: calls.to_string(), ..TaskRequest::default() };
    let start = Instant::now();
    host.run(skill, request, |_| ()).await.value?;
    Ok(start.elapsed())
}

fn instantiate(host: &Host, skill: &str) -> Result<Duration, SkillError> {
    let site = &host.0;
    let skill = site.skill(skill)?;
    let start = Start {
        id: site.runs.number(),
        request: TaskRequest::default(),
        callers: [].into(),
        events: Arc::new(|_| ()),
        file: None,
        family: Crowd::default(),
        journal: None,
    };
    let job = Arc::new(supervisor::job(site, &skill, start, Signal::new()));
    let (context, _tasks) = instance::context(site, &skill, &job);
    context.burst.begin();
    let mut times = Vec::with_capacity(INSTANCES);
    for _ in 0..INSTANCES {
        let start = Instant::now();
        let mut store = supervisor::store(context.clone(), Signal::new(), None);
        let instance = {
            let mut making = pin!(skill.component.instantiate_async(&mut store));
            loop {
                // It waits for nothing but an epoch's yield.
                if let Some(instance) = making.as_mut().now_or_never() {
                    break instance;
                }
            }
        };
        times.push(start.elapsed());
        instance
            .map_err(|error| supervisor::explain(skill.manifest.id.clone(), &error, None, &site.options.budgets))?;
        context.burst.begin();
    }
    Ok(fastest(times))
}

fn fastest(times: Vec<Duration>) -> Duration {
    times.into_iter().min().unwrap_or_default()
}
