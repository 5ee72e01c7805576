//! Controllers: which are installed, and how one drives the joints of a lease.
//!
//! Each engaged controller is called on a thread of its own, once a tick; [`waza_robot::drive`] says what becomes of a
//! tick in which it is late. When a newer version is installed, it is made and checked on the installing thread. Between
//! two ticks it then gets what the older one says is its state, and answers the next. The older one is kept until the
//! newer has stood its probation: if the newer refuses the state, traps, takes too long or answers nonsense, the older
//! answers that very tick, from the state that it had, and the newer is withdrawn; if it did anything but refuse the
//! state, it is quarantined too. What fails later, with nothing to go back to, ends, and has a strike.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures_channel::mpsc;
use futures_util::StreamExt;
use pollster::block_on;
use wasmtime::component::Component;
use waza_robot::safety::PATIENCE_S;
use waza_robot::{Drive, DriveInput, Ended, PlayReport, Reply, RobotError};

use crate::bindings::{Refusal, motion};
use crate::calls::Context;
use crate::component::Digest;
use crate::controller::{Controller, Input};
use crate::error::{RuntimeError, SkillError};
use crate::event::{ControllerChange, Event};
use crate::host::{Site, SkillSummary};
use crate::lease::{Lease, Motion};
use crate::manifest::{Manifest, SkillId};
use crate::quarantine::{Edition, is_a_fault};

/// Values of a goal.
const LONGEST_GOAL: usize = 4096;

/// What a skill has not been told yet is kept up to so many entries.
const MOST_UNTOLD: usize = 64;

/// A version of a controller that can be engaged.
pub(crate) struct Installed {
    manifest: Manifest,
    digest: Digest,
    component: Component,
    path: PathBuf,
}

impl Installed {
    /// Which version it is.
    pub fn edition(&self) -> Edition<'_> {
        Edition { manifest: &self.manifest, digest: self.digest }
    }

    fn instantiate(&self, site: &Site) -> Result<Controller, RuntimeError> {
        let robot = site.robot.embodiment();
        Controller::new(&site.engines, &self.component, self.manifest.clone(), robot, &self.path)
    }
}

/// All controllers of a host.
#[derive(Default)]
pub(crate) struct Controllers(Mutex<Registry>);

#[derive(Default)]
struct Registry {
    installed: BTreeMap<SkillId, Arc<Installed>>,
    engaged: Vec<Weak<Post>>,
}

/// Where a newer version waits for its turn.
struct Post {
    controller: SkillId,
    offer: Mutex<Option<Version>>,
}

struct Version {
    controller: Controller,
    installed: Arc<Installed>,
}

impl Controllers {
    /// Installs a controller in place of another version, and offers it to whatever drives with one, unless it is
    /// quarantined.
    pub fn install(
        &self,
        site: &Site,
        manifest: Manifest,
        digest: Digest,
        component: Component,
        path: &Path,
    ) -> Result<(), RuntimeError> {
        let id = manifest.id.clone();
        let installed = Arc::new(Installed { manifest, digest, component, path: path.into() });
        // One that cannot be made is refused before it takes anybody's place.
        let mut made = Some(installed.instantiate(site)?);
        let posts: Vec<_> = {
            let mut registry = self.lock();
            registry.installed.insert(id.clone(), installed.clone());
            registry.engaged.retain(|post| post.strong_count() > 0);
            registry.engaged.iter().filter_map(Weak::upgrade).filter(|post| post.controller == id).collect()
        };
        if site.quarantine.check(installed.edition()).is_err() {
            return Ok(());
        }
        for post in posts {
            let controller = made.take().map_or_else(|| installed.instantiate(site), Ok)?;
            *lock(&post.offer) = Some(Version { controller, installed: installed.clone() });
        }
        Ok(())
    }

    /// False: none of that id was installed. Whatever drives with it goes on.
    pub fn remove(&self, controller: &SkillId) -> bool {
        self.lock().installed.remove(controller).is_some()
    }

    pub fn list(&self) -> Vec<SkillSummary> {
        self.lock()
            .installed
            .values()
            .map(|installed| SkillSummary::of(&installed.manifest, installed.digest))
            .collect()
    }

    /// The newest version of a controller.
    pub fn installed(&self, controller: &SkillId) -> Option<Arc<Installed>> {
        self.lock().installed.get(controller).cloned()
    }

    /// The newest version, and where the next will be offered.
    fn post(&self, controller: &str) -> Result<(Arc<Installed>, Arc<Post>), Refusal> {
        let mut registry = self.lock();
        let Some((id, installed)) = registry.installed.iter().find(|(id, _)| id.as_str() == controller) else {
            let all: Vec<_> = registry.installed.keys().map(SkillId::as_str).collect();
            let all = if all.is_empty() { "none".into() } else { all.join(", ") };
            return Err(Refusal::Unavailable(format!("no controller {controller} is installed; installed are {all}")));
        };
        let (installed, post) = (installed.clone(), Arc::new(Post { controller: id.clone(), offer: Mutex::new(None) }));
        registry.engaged.push(Arc::downgrade(&post));
        Ok((installed, post))
    }

    /// Puts `kept` back in the place of `failed`, if that is still there.
    fn withdraw(&self, failed: &Arc<Installed>, kept: &Arc<Installed>) {
        if let Some(installed) = self.lock().installed.get_mut(&kept.manifest.id)
            && Arc::ptr_eq(installed, failed)
        {
            *installed = kept.clone();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        lock(&self.0)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard changes in single steps, so a panic cannot leave it half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a run's controllers did, for the skill's next motion to say.
#[derive(Default)]
pub(crate) struct Untold(Mutex<Vec<motion::Intervention>>);

impl Untold {
    fn keep(&self, told: motion::Intervention) {
        let mut untold = lock(&self.0);
        if untold.len() < MOST_UNTOLD {
            untold.push(told);
        }
    }

    pub fn take(&self) -> Vec<motion::Intervention> {
        std::mem::take(&mut *lock(&self.0))
    }
}

/// Lets a controller drive the joints of a lease until something else does.
pub(crate) fn engage(context: &Arc<Context>, lease: &Lease, name: &str, goal: Vec<f32>) -> Result<(), Refusal> {
    if goal.len() > LONGEST_GOAL {
        let what = format!("the goal has {} values, it may have {LONGEST_GOAL}", goal.len());
        return Err(Refusal::Invalid(what));
    }
    if let Some(value) = goal.iter().find(|value| !value.is_finite()) {
        return Err(Refusal::Invalid(format!("the goal holds {value}; its values must be finite")));
    }
    let site = &context.site;
    let (installed, post) = site.controllers.post(name)?;
    let failed = |error: String| Refusal::Failed(error);
    site.quarantine.check(installed.edition()).map_err(|error| Refusal::Unavailable(error.to_string()))?;
    let mut controller = installed.instantiate(site).map_err(|error| failed(error.to_string()))?;
    controller.start("", None).map_err(|error| {
        site.quarantine.judge(installed.edition(), &error);
        failed(error.to_string())
    })?;
    let motion = lease.begin()?;
    let drive = site.robot.drive(motion.joints(), context.skill.within.clone())?;
    let (sender, notes) = mpsc::unbounded();
    let hz = site.robot.embodiment().control_hz;
    let pilot = Pilot {
        site: site.clone(),
        motion,
        post,
        goal,
        flying: Version { controller, installed },
        before: None,
        probation: (site.options.controller_probation.as_secs_f64() * f64::from(hz)).ceil() as u64,
        notes: sender,
    };
    std::thread::Builder::new()
        .name(format!("waza-drive-{name}"))
        .spawn(move || pilot.fly(drive))
        .map_err(|error| failed(format!("the system gave no thread: {error}")))?;
    context.spawn(tell(context.clone(), notes));
    Ok(())
}

/// What a pilot has to say; the run says it, on its own thread.
enum Note {
    Changed(Event),
    Over { controller: SkillId, version: semver::Version, why: Option<String>, report: Option<PlayReport> },
}

/// Calls a controller once a tick.
struct Pilot {
    site: Arc<Site>,
    /// Whoever wants the joints is told that they move. The lease ends with the run all the same.
    motion: Motion,
    post: Arc<Post>,
    goal: Vec<f32>,
    flying: Version,
    /// The version before, and the tick from which it is not needed any more.
    before: Option<(Version, u64)>,
    /// Ticks.
    probation: u64,
    notes: mpsc::UnboundedSender<Reply<Note>>,
}

impl Pilot {
    fn fly(mut self, mut drive: Drive) {
        let failure = loop {
            let Some(seen) = block_on(drive.next()) else { break None };
            let (tick, input) = (seen.tick, self.input(seen));
            if self.motion.check_lease().is_err() {
                break None;
            }
            match self.change_hands(tick).and_then(|()| self.answer(&input)) {
                // As wide as the robot: the controller's answers have been checked.
                Ok(positions) => drop(drive.demand(&positions)),
                Err(error) => {
                    self.site.quarantine.strike(self.flying.installed.edition(), &error);
                    break Some(error.to_string());
                }
            }
            self.before = self.before.take().filter(|(_, until)| tick < *until);
        };
        let Reply { value, hold } = block_on(drive.end());
        let (why, report) = match value {
            Ok(report) if report.ended == Ended::Late => {
                (Some(format!("it did not answer for {PATIENCE_S} s")), Some(report))
            }
            Ok(report) => (None, Some(report)),
            // Whoever ended the control loop knows.
            Err(RobotError::Ended) => (None, None),
            Err(error) => (Some(error.to_string()), None),
        };
        let Manifest { id, version, .. } = self.flying.installed.manifest.clone();
        let over = Note::Over { controller: id, version, why: failure.or(why), report };
        // A run that has ended is told nothing.
        let _ = self.notes.unbounded_send(Reply { value: over, hold });
    }

    fn input(&self, seen: &DriveInput) -> Input {
        Input {
            at: self.site.robot.tick_ns(seen.tick),
            positions: seen.joints.positions.clone(),
            velocities: seen.joints.velocities.clone(),
            efforts: seen.joints.efforts.clone(),
            samples: seen.samples.clone(),
            goal: self.goal.clone(),
        }
    }

    /// Lets a newer version take over, if one is offered and no other is on probation. An error is the flying one's.
    fn change_hands(&mut self, tick: u64) -> Result<(), SkillError> {
        if self.before.is_some() {
            return Ok(());
        }
        let Some(mut next) = lock(&self.post.offer).take() else { return Ok(()) };
        let state = self.flying.controller.state()?;
        match next.controller.start("", Some(&state)) {
            Ok(()) => {
                let from = self.flying.installed.manifest.version.clone();
                let to = next.installed.manifest.version.clone();
                let before = std::mem::replace(&mut self.flying, next);
                self.before = Some((before, tick + self.probation));
                self.note(ControllerChange::Swapped { from, to });
            }
            Err(error) => {
                if is_a_fault(&error) {
                    self.site.quarantine.condemn(next.installed.edition(), &error.to_string());
                }
                self.refuse(&next, &error);
            }
        }
        Ok(())
    }

    fn answer(&mut self, input: &Input) -> Result<Vec<f32>, SkillError> {
        let error = match self.flying.controller.tick(input) {
            Ok(positions) => return Ok(positions),
            Err(error) => error,
        };
        let Some((before, _)) = self.before.take() else { return Err(error) };
        let failed = std::mem::replace(&mut self.flying, before);
        self.site.quarantine.condemn(failed.installed.edition(), &error.to_string());
        self.refuse(&failed, &error);
        self.flying.controller.tick(input)
    }

    fn refuse(&self, failed: &Version, error: &SkillError) {
        self.site.controllers.withdraw(&failed.installed, &self.flying.installed);
        self.note(ControllerChange::Kept {
            version: self.flying.installed.manifest.version.clone(),
            refused: failed.installed.manifest.version.clone(),
            why: error.to_string(),
        });
    }

    fn note(&self, change: ControllerChange) {
        let event = Event::Controller { controller: self.post.controller.clone(), change };
        // A run that has ended is told nothing.
        let _ = self.notes.unbounded_send(Reply { value: Note::Changed(event), hold: self.site.robot.hold_time() });
    }
}

/// Hands on what a pilot has to say, until it has ended.
async fn tell(context: Arc<Context>, mut notes: mpsc::UnboundedReceiver<Reply<Note>>) {
    let robot = &context.site.robot;
    while let Some(note) = notes.next().await {
        match context.holds.keep_of(note) {
            Note::Changed(event) => (context.events)(event),
            Note::Over { controller, version, why, report } => {
                for it in report.into_iter().flat_map(|report| report.interventions) {
                    (context.events)(Event::Intervention(it));
                    context.untold.keep(crate::calls::motion::intervention(&context, it));
                }
                if let Some(why) = why {
                    let at = robot.tick_ns(robot.tick());
                    let detail = format!("{controller} {version} drives no more: {why}");
                    context.untold.keep(motion::Intervention { at, rule: "controller".into(), detail });
                    let change = ControllerChange::Ended { version, why };
                    (context.events)(Event::Controller { controller, change });
                }
            }
        }
    }
}
