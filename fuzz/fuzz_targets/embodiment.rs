//! A robot's description. Whatever robot is accepted can be started, looked at and stopped.

#![no_main]

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use waza_fuzz::{begin_with, sweep};
use waza_robot::observation::{Measurement, Proprioception};
use waza_robot::{Embodiment, Frame, Guard, Image, Link, LinkError, Pace, Robot, RobotOptions, Tightening};

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    begin_with(&[include_bytes!("../../host/robot/embodiments/so101.toml")], data, size, max_size, seed)
});

/// It stands in the middle of its joints' ranges.
struct Standing {
    robot: Arc<Embodiment>,
    /// Closed when the control loop has ended.
    _ended: Sender<()>,
}

impl Link for Standing {
    fn read_into(&mut self, into: &mut Measurement) -> Result<(), LinkError> {
        let middle = |[low, high]: [f32; 2]| (f64::midpoint(low.into(), high.into())) as f32;
        let joints = self.robot.joints.len();
        *into = Measurement {
            joints: Proprioception {
                positions: self.robot.joints.iter().map(|joint| middle(joint.position)).collect(),
                velocities: vec![0.0; joints],
                efforts: vec![0.0; joints],
            },
            samples: self.robot.sensors.iter().map(|sensor| vec![0.0; sensor.channels.len()]).collect(),
        };
        Ok(())
    }

    fn write(&mut self, positions: &[f32]) -> Result<(), LinkError> {
        for (position, joint) in positions.iter().zip(&self.robot.joints) {
            let [low, high] = joint.position;
            assert!((low..=high).contains(position), "{position} is commanded of {low} to {high}");
        }
        Ok(())
    }

    fn capture(&mut self) -> Result<Vec<Frame>, LinkError> {
        let image = Image { width: 1, height: 1, rgb: vec![0; 3].into() };
        Ok(self.robot.cameras.iter().map(|_| Frame::ready(image.clone())).collect())
    }
}

fuzz_target!(|text: &str| {
    let Ok(robot) = Embodiment::parse(text, "robot.toml") else { return };
    let written = toml::to_string(&robot).unwrap();
    assert_eq!(Embodiment::parse(&written, "robot.toml").unwrap(), robot);
    assert_eq!(robot.tightened(&Tightening::default(), "site.toml").unwrap(), robot);
    let joints = robot.joints.len();
    assert!(robot.parts.iter().all(|part| robot.part_joints(&part.name).unwrap().len() <= joints));
    sweep(&robot);

    let robot = Arc::new(robot);
    let (sender, ended) = channel();
    let link = Standing { robot: robot.clone(), _ended: sender };
    let centre: [f32; 3] =
        std::array::from_fn(|axis| f32::midpoint(robot.workspace.min[axis], robot.workspace.max[axis]));
    let options =
        RobotOptions { pace: Pace::Lockstep, kinematics: Box::new(move |_: &[f32]| centre), guard: Guard::On };
    let started = Robot::start(robot, Box::new(link), options).unwrap();
    futures_executor::block_on(started.observe()).value.unwrap();
    drop(started);
    let _ = ended.recv();
});
