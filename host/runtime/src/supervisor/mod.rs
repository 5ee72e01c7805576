//! One run, on a thread of its own, from its first step to the joints' hold.

pub(crate) mod instance;
mod probation;
pub(crate) mod skills;
mod swap;

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use waza_package::SkillId;
use waza_robot::{Pace, Reply};
use waza_state::RunId;

use crate::contract::{Outcome, Refusal, types};
use crate::error::SkillError;
use crate::limits::rate::Concurrent;
use crate::limits::{Budget, Exhausted};
use crate::run::events::Event;
use crate::run::running::Running;
use crate::run::services::Services;
use crate::run::thread::Signal;
use crate::run::{Job, Launch};
use instance::Instance;
use skills::{Loaded, Skills};
use swap::Swap;

/// Of a run's thread. The skill's own stack is another; this one is for the host's calls, of which drawing a camera's frame
/// is the deepest.
const STACK_BYTES: usize = 1 << 20;

/// A run that has waited for so long gives back the memory of its code, which costs it microseconds when it goes on.
const IDLE: Duration = Duration::from_millis(500);

/// Starts a run of the loaded version of a skill on a thread of its own, unless that is quarantined.
pub(crate) fn launch(skills: &Arc<Skills>, skill: &str, launch: Launch) -> Running {
    let services = &skills.services;
    match admit(skills, skill) {
        Ok(version) => start(skills.clone(), version, launch),
        Err(error) => Running::refused(launch.id, error, services.robot.clone()),
    }
}

/// Lets an interrupted run go on with the loaded version of its skill, unless that is quarantined: then it still waits. None:
/// there is no such run.
pub(crate) fn resume(skills: &Arc<Skills>, run: RunId, events: Arc<dyn Fn(Event) + Send + Sync>) -> Option<Running> {
    let services = &skills.services;
    let files = services.files.as_ref()?;
    let left = files.find(run)?;
    Some(match admit(skills, left.skill.as_str()) {
        Ok(version) => {
            let (file, family) = (Some(files.resume(run)?), Concurrent::default());
            let request = left.request.clone();
            let launch =
                Launch { id: run, request, callers: [].into(), events, file, family, slot: None, journal: None };
            start(skills.clone(), version, launch)
        }
        Err(error) => Running::refused(run, error, services.robot.clone()),
    })
}

/// The loaded version of a skill, if it may run.
fn admit(skills: &Skills, skill: &str) -> Result<Arc<Loaded>, SkillError> {
    let version = skills.current(skill)?;
    let memory = &skills.services.memory;
    if memory.is_full() {
        let (used, most) = memory.level();
        return Err(SkillError::Full { used_mib: used >> 20, most_mib: most >> 20 });
    }
    SkillError::unless_quarantined(&version.package.version(), &skills.services.quarantine)?;
    Ok(version)
}

fn start(skills: Arc<Skills>, version: Arc<Loaded>, mut launch: Launch) -> Running {
    let slot = launch.slot.take();
    let services = &skills.services;
    let signal = Signal::new();
    let id = version.package.id().clone();
    let (running, answer) = Running::begin(launch.id, id.clone(), services.robot.clone(), signal.clone());
    let job = Arc::new(Job::new(services, &version.package, launch, signal));
    // From before this returns: whoever waits for the run lets time go on only when the run itself waits.
    job.holds.keep(services.robot.hold_time());
    services.runs.begin(&job);
    skills.works(&job, &version);
    // Dropped even where the system gives no thread.
    let ending = Ending { skills: skills.clone(), job: job.clone(), may_go_on: true };
    let work = move || {
        let services = &skills.services;
        if services.robot.pace() == Pace::RealTime {
            waza_robot::priority::after_others();
        }
        let ended = drive(skills.clone(), version, job.clone(), ending);
        if let Err(error) = &ended {
            error.judge(&job.working().version(), &services.quarantine);
        }
        // Before its caller goes on, which may invoke another.
        drop(slot);
        // Nobody may wait for it any more.
        let _ = answer.send(Reply { value: ended, hold: services.robot.hold_time() });
        job.holds.release();
    };
    let thread = std::thread::Builder::new().name(format!("waza-run-{id}")).stack_size(STACK_BYTES);
    if let Err(error) = thread.spawn(work) {
        // The answer went with the closure; whoever waits is told that the run is gone.
        tracing::error!(skill = %id, "the system gave no thread: {error}");
    }
    running
}

/// Everything of the run is gone when this returns: its leases are given up and their joints told to hold.
fn drive(
    skills: Arc<Skills>,
    version: Arc<Loaded>,
    job: Arc<Job>,
    // Dropped last.
    mut ending: Ending,
) -> Result<Outcome, SkillError> {
    let mut supervisor = Supervisor::new(skills.clone(), &version, job.clone());
    let ended = supervisor.supervise().map(Outcome::from);
    if let Some(tape) = &job.tape {
        // Before the skill's streams close because it is gone.
        tape.ended(&ended);
    }
    ending.may_go_on = may_go_on(&skills.services, &job, &ended);
    ended
}

/// Whether something else than the run itself, its skill or who wanted it has ended it.
fn may_go_on(services: &Services, job: &Job, ended: &Result<Outcome, SkillError>) -> bool {
    match ended {
        Ok(_) => false,
        _ if job.signal.is_unwanted() => false,
        Err(SkillError::Returned { refusal, .. }) => {
            // What is refused because of the host stop, or while the host ends the run, is no answer of the skill's own.
            matches!(refusal, Refusal::Stopped) || job.signal.is_stopped() || services.robot.stopped().is_some()
        }
        Err(error) => !error.is_the_versions_fault(),
    }
}

/// Ends what a run holds when it goes, even if the host's own code panics.
struct Ending {
    skills: Arc<Skills>,
    job: Arc<Job>,
    /// From its last checkpoint, if it left one.
    may_go_on: bool,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let services = &self.skills.services;
        services.leases.end_run(self.job.id);
        services.runs.end(self.job.id);
        self.skills.ended(self.job.id);
        match &self.job.file {
            Some(file) if self.may_go_on => {
                file.leave(self.job.working().id().clone(), &self.job.request, self.job.checkpoint());
            }
            Some(file) => file.remove(),
            None => {}
        }
    }
}

/// Drives the version that works, on the run's own thread, and decides which one that is.
struct Supervisor {
    skills: Arc<Skills>,
    job: Arc<Job>,
    current: Instance,
    swap: Swap,
}

impl Supervisor {
    fn new(skills: Arc<Skills>, version: &Arc<Loaded>, job: Arc<Job>) -> Self {
        let resume = job.request.resume.clone();
        let current = Instance::new(&skills.services, version, &job, resume);
        Self { skills, job, current, swap: Swap::None }
    }

    /// Polls the skill and the host's work for it until all of it waits.
    ///
    /// Under lockstep this keeps robot time still while anybody thinks. Every answer of the robot comes with a hold on time;
    /// the run keeps it until the skill and all host tasks have taken their turn and wait again. Only then does time go on,
    /// so what happens in a tick does not depend on how long anybody took. Tasks take their turn before the skill.
    fn supervise(&mut self) -> Result<types::Outcome, SkillError> {
        let job = self.job.clone();
        job.signal.attach();
        let waker = Waker::from(job.signal.clone());
        let mut context = Context::from_waker(&waker);
        self.services().robot.settle();
        self.current.call.cpu.begin();
        loop {
            job.signal.rest();
            if job.signal.is_stopped() {
                return Err(SkillError::Stopped { skill: self.skill() });
            }
            if self.left().is_zero() {
                return Err(self.out_of_time());
            }
            self.poll_timer(&mut context);
            if let Some(parked) = self.swap.parked() {
                parked.poll_tasks(&mut context);
            }
            self.current.poll_tasks(&mut context);
            let again = match self.current.poll(&mut context) {
                Poll::Ready(answer) => match self.answered(answer) {
                    Some(ended) => return ended,
                    None => true,
                },
                Poll::Pending => self.decide(),
            };
            if self.current.take_tasks() || again || job.signal.is_woken() {
                continue;
            }
            job.holds.release();
            if !job.signal.park(self.left().min(IDLE)) {
                self.current.package().code.rest();
                if !job.signal.park(self.left()) {
                    return Err(self.out_of_time());
                }
            }
            self.services().robot.settle();
            self.current.call.cpu.begin();
        }
    }

    fn services(&self) -> &Arc<Services> {
        &self.skills.services
    }

    fn skill(&self) -> SkillId {
        self.current.package().id().clone()
    }

    fn left(&self) -> Duration {
        let services = self.services();
        let ticks = services.robot.tick().saturating_sub(self.job.begun_tick);
        let control_hz = f64::from(services.robot.embodiment().control_hz);
        services.options.budgets.run_time.saturating_sub(Duration::from_secs_f64(ticks as f64 / control_hz))
    }

    fn out_of_time(&self) -> SkillError {
        let budget = Exhausted::time(Budget::RunTime, self.services().options.budgets.run_time);
        SkillError::Exhausted { skill: self.skill(), budget }
    }
}
