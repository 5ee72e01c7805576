//! A robot whose joints are where they were commanded, a model that turns its shoulder, and skill packages made of guests.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use waza_model::{About, Actions, ModelError, Query, Ticket};
use waza_robot::observation::Measurement;
use waza_robot::{Embodiment, Frame, Guard, Image, Link, LinkError, Lost, Pace, Proprioception, Robot, RobotOptions};
use waza_runtime::model::Answer;
use waza_runtime::{
    Disk, Event, Host, HostOptions, Model, Outcome, RealDisk, Running, RuntimeError, SkillError, SkillId, TaskRequest,
};

use crate::models::about;
use crate::packages::{self, component, manifest};

pub const REST: [f32; 6] = [0.0, -0.6, 0.8, 0.6, 0.0, 0.3];

/// rad that the model turns the shoulder by, a row.
const TURN: f32 = 0.02;

/// Where the gripper meets something, rad: it closes no further and feels it.
const OBJECT: f32 = 0.1;

/// Every permission that a guest may want.
pub const ALL: &[&str] =
    &["sensing", "model", "motion:body", "operator", "durable", "skills:test/conduct", "skills:test/follower"];

/// What befalls a camera once so many commands have come; all cameras number their frames then.
#[derive(Debug, Clone, Copy)]
pub enum Trouble {
    Freezes { camera: usize, after: usize },
    Loses { camera: usize, after: usize },
}

/// The joints follow their commands in the same tick, but for a gripper that holds something.
pub struct Follower {
    pub commands: Arc<Mutex<Vec<Vec<f32>>>>,
    pub trouble: Arc<Mutex<Option<Trouble>>>,
}

impl Link for Follower {
    fn read_into(&mut self, into: &mut Measurement) -> Result<(), LinkError> {
        let mut positions = self.commands.lock().unwrap().last().cloned().unwrap_or(REST.to_vec());
        let mut efforts = vec![0.0; 6];
        let squeezed = (OBJECT - positions[5]).max(0.0);
        positions[5] += squeezed;
        efforts[5] = -20.0 * squeezed;
        let joints = Proprioception { velocities: vec![0.0; 6], efforts, positions };
        *into = Measurement { joints, samples: vec![vec![0.0; 6]] };
        Ok(())
    }

    fn write(&mut self, positions: &[f32]) -> Result<(), LinkError> {
        self.commands.lock().unwrap().push(positions.to_vec());
        Ok(())
    }

    fn capture(&mut self) -> Result<Vec<Frame>, LinkError> {
        let grey = |width, height| {
            Frame::lazy(move || Image { width, height, rgb: vec![127; (width * height * 3) as usize].into() })
        };
        let frames = [grey(4, 3), grey(2, 2)];
        let Some(trouble) = *self.trouble.lock().unwrap() else { return Ok(frames.into()) };
        let come = self.commands.lock().unwrap().len();
        let frame = |(index, frame): (usize, Frame)| match trouble {
            Trouble::Freezes { camera, after } if camera == index => frame.numbered(come.min(after) as u64),
            Trouble::Loses { camera, after } if camera == index && come >= after => Frame::fetched(move || {
                let camera = Embodiment::so101().cameras[index].name.clone();
                Err(Lost { camera, why: "the cable is out".into() })
            }),
            _ => frame.numbered(come as u64),
        };
        Ok(frames.into_iter().enumerate().map(frame).collect())
    }
}

/// Turns the shoulder by a little every row, from where it is; refuses to `fly`.
pub struct Turner {
    pub about: About,
    /// What it was asked, in order.
    pub asked: Arc<Mutex<Vec<Query>>>,
    pub tickets: Arc<Mutex<Vec<Ticket>>>,
    /// Requests that it has no time for, before it has.
    pub late: usize,
    /// How long it thinks.
    pub thinks: Duration,
}

impl Turner {
    pub fn new(thinks: Duration) -> Self {
        let about = About { device: "a thread".into(), ..about("turner") };
        Self { about, asked: Arc::default(), tickets: Arc::default(), late: 0, thinks }
    }
}

impl Model for Turner {
    fn about(&self) -> &About {
        &self.about
    }

    fn act(&self, query: Query, ticket: &Ticket) -> Answer {
        let (sender, answer) = futures_channel::oneshot::channel();
        let thinks = self.thinks;
        self.tickets.lock().unwrap().push(ticket.clone());
        let late = {
            let mut asked = self.asked.lock().unwrap();
            asked.push(query.clone());
            asked.len() <= self.late
        };
        std::thread::spawn(move || {
            std::thread::sleep(thinks);
            let row = |row: u16| {
                let mut positions = query.state.clone();
                positions[0] += TURN * f32::from(row + 1);
                positions
            };
            let rows = (0..16).map(row).collect();
            let _ = sender.send(if query.instruction == "fly" {
                Err(ModelError::NoImage { known: vec![] })
            } else if late {
                Err(ModelError::Late { given: thinks })
            } else {
                Ok(Actions { rows, elapsed: thinks, sections: None })
            });
        });
        Box::pin(async move { answer.await.unwrap_or(Err(ModelError::Stopped)) })
    }
}

/// A host with everything that a test looks at.
pub struct Bench {
    pub host: Host,
    pub robot: Robot,
    pub commands: Arc<Mutex<Vec<Vec<f32>>>>,
    pub trouble: Arc<Mutex<Option<Trouble>>>,
    pub asked: Arc<Mutex<Vec<Query>>>,
    pub tickets: Arc<Mutex<Vec<Ticket>>>,
    pub packages: TempDir,
    pub events: Arc<Mutex<Vec<Event>>>,
}

impl Bench {
    /// In lockstep, with `conduct` loaded and allowed everything.
    pub fn new() -> Self {
        Self::with(Pace::Lockstep, HostOptions::default(), ALL)
    }

    pub fn with(pace: Pace, options: HostOptions, permissions: &[&str]) -> Self {
        Self::thinking(pace, options, permissions, Duration::from_millis(1))
    }

    pub fn thinking(pace: Pace, options: HostOptions, permissions: &[&str], thinks: Duration) -> Self {
        let turner = Turner::new(thinks);
        let (asked, tickets) = (turner.asked.clone(), turner.tickets.clone());
        Self { asked, tickets, ..Self::asking(turner, pace, options, permissions) }
    }

    /// With a model of one's own.
    pub fn asking(model: impl Model, pace: Pace, options: HostOptions, permissions: &[&str]) -> Self {
        Self::keeping(model, pace, options, permissions, Arc::new(RealDisk))
    }

    /// With a disk of one's own.
    pub fn keeping(
        model: impl Model,
        pace: Pace,
        options: HostOptions,
        permissions: &[&str],
        disk: Arc<dyn Disk>,
    ) -> Self {
        let commands = Arc::new(Mutex::new(Vec::new()));
        let trouble = Arc::new(Mutex::new(None));
        let link = Box::new(Follower { commands: commands.clone(), trouble: trouble.clone() });
        let kinematics = Box::new(|_: &[f32]| [0.2, 0.0, 0.2]);
        let robot =
            Robot::start(Arc::new(Embodiment::so101()), link, RobotOptions { pace, kinematics, guard: Guard::On })
                .unwrap();
        let host = Host::with_disk(robot.clone(), model, options, disk).unwrap();
        let packages = tempfile::tempdir().unwrap();
        let (asked, tickets, events) = Default::default();
        let bench = Self { host, robot, commands, trouble, asked, tickets, packages, events };
        bench.load("conduct", permissions).unwrap();
        bench
    }

    /// Makes a package of a guest and loads it.
    pub fn load(&self, guest: &str, permissions: &[&str]) -> Result<SkillId, RuntimeError> {
        self.host.load(&self.package(guest, permissions))
    }

    pub fn package(&self, guest: &str, permissions: &[&str]) -> PathBuf {
        self.package_of(guest, &manifest(guest, permissions), &component(guest))
    }

    pub fn package_of(&self, name: &str, manifest: &str, component: &[u8]) -> PathBuf {
        let folder = self.packages.path().join(name);
        packages::package(&folder, manifest, component);
        folder
    }

    /// Starts `conduct` and keeps what it reports.
    pub fn start(&self, instruction: &str) -> Running {
        self.start_with(TaskRequest { instruction: instruction.into(), seed: 7, ..TaskRequest::default() })
    }

    pub fn start_with(&self, request: TaskRequest) -> Running {
        let events = self.events.clone();
        self.host.run("test/conduct", request, move |event| events.lock().unwrap().push(event))
    }

    /// Runs `conduct` to its end.
    pub fn run(&self, instruction: &str) -> Result<Outcome, SkillError> {
        futures_executor::block_on(self.start(instruction)).value
    }

    /// What a run found out.
    pub fn data(&self, instruction: &str) -> String {
        self.run(instruction).unwrap().data
    }

    /// Lets robot time go on until a tick.
    pub fn reach(&self, tick: u64) {
        futures_executor::block_on(self.robot.reach(tick)).value.unwrap();
    }

    /// What one joint was commanded to in the newest ticks.
    pub fn newest(&self, joint: usize, ticks: usize) -> Vec<f32> {
        let commands = self.commands.lock().unwrap();
        commands[commands.len().saturating_sub(ticks)..].iter().map(|command| command[joint]).collect()
    }

    /// Whether the arm comes to a stand within 0.3 s and stays, and can be leased again.
    pub fn assert_the_arm_holds(&self) {
        self.reach(self.robot.tick() + 130);
        let pans = self.newest(0, 100);
        assert!(pans.windows(2).all(|pair| pair[0] == pair[1]), "the arm still moves: {pans:?}");
        assert_eq!(self.run("acquire: arm, gripper").map(|_| ()), Ok(()));
    }
}
