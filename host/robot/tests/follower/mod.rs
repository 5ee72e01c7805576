//! A robot whose joints are always exactly where they were commanded to be, and that keeps a log.

#![allow(dead_code, reason = "each test crate uses some of it")]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cpu_time::ThreadTime;
use waza_robot::observation::Measurement;
use waza_robot::{
    Embodiment, Ended, Frame, Guard, Image, Link, LinkError, Pace, Play, PlayReport, Playing, Proprioception, Robot,
    RobotError, RobotOptions,
};

pub const REST: [f32; 6] = [0.0, -0.6, 0.8, 0.6, 0.0, 0.3];

/// What the link was told, and how it is to behave.
#[derive(Default)]
pub struct Log {
    /// One a tick, from tick 1 on.
    pub commands: Vec<Vec<f32>>,
    pub captures: usize,
    pub reads_fail: bool,
    pub writes_fail: bool,
    pub cameras_fail: bool,
    /// The front camera's number of its newest frame; `None`: it numbers none.
    pub frame: Option<u64>,
    pub panics: bool,
    /// What a command costs this thread in processor time.
    pub work: Duration,
    /// What the joints read instead of the last command.
    pub reading: Option<Vec<f32>>,
    /// What joint 0, and the wrist along its y, feel at a position of joint 0, N m and N.
    pub feels: Option<fn(f32) -> [f32; 2]>,
}

pub struct Follower {
    log: Arc<Mutex<Log>>,
    dropped: Sender<()>,
}

impl Follower {
    /// With its log, and who is told when it is dropped.
    pub fn new() -> (Self, Arc<Mutex<Log>>, Receiver<()>) {
        let log = Arc::new(Mutex::new(Log::default()));
        let (sender, dropped) = channel();
        (Self { log: log.clone(), dropped: sender }, log, dropped)
    }
}

impl Link for Follower {
    fn read_into(&mut self, into: &mut Measurement) -> Result<(), LinkError> {
        let log = self.log.lock().unwrap();
        let (panics, reads_fail) = (log.panics, log.reads_fail);
        let last = log.commands.last().cloned();
        let positions = log.reading.clone().or(last).unwrap_or(REST.to_vec());
        let [effort, force] = log.feels.map_or([0.0; 2], |feels| feels(positions[0]));
        drop(log);
        assert!(!panics, "the driver of this link has a bug");
        if reads_fail {
            return Err(LinkError("the cable is out".into()));
        }
        let still = vec![0.0; positions.len()];
        let mut efforts = still.clone();
        efforts[0] = effort;
        let joints = Proprioception { velocities: still, efforts, positions };
        *into = Measurement { joints, samples: vec![vec![0.0, force, 0.0, 0.0, 0.0, 0.0]] };
        Ok(())
    }

    fn write(&mut self, positions: &[f32]) -> Result<(), LinkError> {
        let mut log = self.log.lock().unwrap();
        log.commands.push(positions.to_vec());
        let (work, writes_fail) = (log.work, log.writes_fail);
        // A test that waits for the lock may otherwise never get it.
        drop(log);
        let began = ThreadTime::now();
        while began.elapsed() < work {}
        if writes_fail { Err(LinkError("the bus is busy".into())) } else { Ok(()) }
    }

    fn capture(&mut self) -> Result<Vec<Frame>, LinkError> {
        let mut log = self.log.lock().unwrap();
        log.captures += 1;
        if log.cameras_fail {
            return Err(LinkError("the front camera is gone".into()));
        }
        let dark = || Frame::ready(Image { width: 1, height: 1, rgb: vec![0; 3].into() });
        Ok(vec![log.frame.map_or(dark(), |number| dark().numbered(number)), dark()])
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.dropped.send(());
    }
}

pub struct Bench {
    pub robot: Robot,
    pub log: Arc<Mutex<Log>>,
    /// Says when the control loop has let go of the link.
    pub dropped: Receiver<()>,
}

impl Bench {
    pub fn start(pace: Pace) -> Self {
        Self::with_tool(pace, |_| [0.2, 0.0, 0.2])
    }

    pub fn with_tool(pace: Pace, tool: fn(&[f32]) -> [f32; 3]) -> Self {
        Self::of(Embodiment::so101(), pace, tool)
    }

    pub fn of(robot: Embodiment, pace: Pace, tool: fn(&[f32]) -> [f32; 3]) -> Self {
        let (link, log, dropped) = Follower::new();
        let options = RobotOptions { pace, kinematics: Box::new(tool), guard: Guard::On };
        let robot = Robot::start(Arc::new(robot), Box::new(link), options).unwrap();
        Self { robot, log, dropped }
    }

    /// Plays to the end, and returns with time going on.
    pub fn finish(&self, play: Play) -> Result<PlayReport, RobotError> {
        wait(self.robot.play(play)).value
    }

    pub fn reach(&self, tick: u64) {
        wait(self.robot.reach(tick)).value.unwrap();
    }

    /// What one joint was commanded to, from tick 1 on.
    pub fn joint(&self, joint: usize) -> Vec<f32> {
        self.log.lock().unwrap().commands.iter().map(|command| command[joint]).collect()
    }

    pub fn set(&self, change: impl FnOnce(&mut Log)) {
        change(&mut self.log.lock().unwrap());
    }
}

pub fn wait<F: Future>(future: F) -> F::Output {
    futures_executor::block_on(future)
}

/// How several plays end, in whatever order they do: an answer that is not taken would hold time for the others.
pub fn ends<const N: usize>(playing: [Playing; N]) -> [Ended; N] {
    std::thread::scope(|scope| {
        let threads = playing.map(|playing| scope.spawn(|| wait(playing).value.unwrap().ended));
        threads.map(|thread| thread.join().unwrap())
    })
}

/// Rows at 10 Hz in which one joint goes to some positions and the others rest.
pub fn chunk(joint: usize, positions: impl IntoIterator<Item = f32>) -> Play {
    let row = |position| {
        let mut row = REST.to_vec();
        row[joint] = position;
        row
    };
    let rows = positions.into_iter().map(row).collect();
    Play { joints: [joint].into(), rate_hz: 10.0, rows, since_tick: None, within: None }
}

/// The largest speed and acceleration in commands of one joint at 100 Hz, rad/s and rad/s².
pub fn steepest(commands: &[f32]) -> (f32, f32) {
    let speeds: Vec<f32> = commands.windows(2).map(|pair| (pair[1] - pair[0]) * 100.0).collect();
    let changes = speeds.windows(2).map(|pair| (pair[1] - pair[0]) * 100.0);
    let largest = |values: &mut dyn Iterator<Item = f32>| values.map(f32::abs).fold(0.0, f32::max);
    (largest(&mut speeds.iter().copied()), largest(&mut changes.into_iter()))
}
