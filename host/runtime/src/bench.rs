//! What a call across the boundary costs, measured on a real component.
//!
//! The component is the skill in `tests/guests/probe`: it calls one import as often as it is asked.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use waza_state::TaskRequest;

use crate::error::SkillError;
use crate::host::Host;
use crate::imports::Call;
use crate::limits::rate::Concurrent;
use crate::run::thread::Signal;
use crate::run::{Job, Launch};
use crate::supervisor::instance;

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
    let skills = host.skills_of();
    let services = &skills.services;
    let version = skills.current(skill)?;
    let launch = Launch {
        id: services.runs.number(),
        request: TaskRequest::default(),
        callers: [].into(),
        events: Arc::new(|_| ()),
        file: None,
        family: Concurrent::default(),
        slot: None,
        journal: None,
    };
    let job = Arc::new(Job::new(services, &version.package, launch, Signal::new()));
    let (call, _tasks) = Call::new(services, &version.package, &job);
    call.cpu.start();
    let mut times = Vec::with_capacity(INSTANCES);
    for _ in 0..INSTANCES {
        let start = Instant::now();
        let mut store = instance::store(&services.engines, call.clone(), Signal::new(), None);
        let instance = {
            let mut making = pin!(version.pre.instantiate_async(&mut store));
            loop {
                // It waits for nothing but an epoch's yield.
                if let Some(instance) = making.as_mut().now_or_never() {
                    break instance;
                }
            }
        };
        times.push(start.elapsed());
        let id = version.package.id();
        instance.map_err(|error| SkillError::explained(id.clone(), &error, None, &services.options.budgets))?;
        call.cpu.begin();
    }
    Ok(fastest(times))
}

fn fastest(times: Vec<Duration>) -> Duration {
    times.into_iter().min().unwrap_or_default()
}
