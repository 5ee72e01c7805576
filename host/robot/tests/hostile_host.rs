//! A host that was taken over: whatever it says to the process that owns the robot, that keeps every limit.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod attacker;

use std::sync::Arc;
use std::time::{Duration, Instant};

use attacker::{Reached, Sent, attack, judge};
use parking_lot::Mutex;
use waza_robot::bridge::{Server, ServerOptions, Status};
use waza_robot::embodiment::Workspace;
use waza_robot::observation::Measurement;
use waza_robot::sim::arm;
use waza_robot::{Embodiment, Frame, Image, Link, LinkError, Proprioception, Rule, Tightening};

/// A robot that is always where it was commanded to be, and keeps a list of that.
struct Recorder {
    reached: Arc<Mutex<Vec<Reached>>>,
    at: Vec<f32>,
}

impl Link for Recorder {
    fn read_into(&mut self, into: &mut Measurement) -> Result<(), LinkError> {
        let still = vec![0.0; self.at.len()];
        let joints = Proprioception { positions: self.at.clone(), velocities: still.clone(), efforts: still };
        *into = Measurement { joints, samples: vec![vec![0.0; 6]] };
        Ok(())
    }

    fn write(&mut self, positions: &[f32]) -> Result<(), LinkError> {
        self.reached.lock().push((Instant::now(), positions.to_vec()));
        self.at.copy_from_slice(positions);
        Ok(())
    }

    fn capture(&mut self) -> Result<Vec<Frame>, LinkError> {
        let grey = || Frame::ready(Image { width: 1, height: 1, rgb: vec![127; 3].into() });
        Ok(vec![grey(), grey()])
    }
}

/// A table with something on it that the arm may not touch, and a slower shoulder.
fn site() -> Tightening {
    let text = "[[joints]]\nname = \"shoulder_pan\"\nposition = [-1.2, 1.5]\nvelocity = 1.0\nacceleration = 8.0\n\
        [workspace]\nmin = [-0.05, -0.3, 0.02]\nmax = [0.4, 0.3, 0.4]\n\
        [[forbidden]]\nmin = [0.14, 0.08, 0.0]\nmax = [0.3, 0.2, 0.15]\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("site.toml");
    std::fs::write(&path, text).unwrap();
    Tightening::open(&path).unwrap()
}

/// Lets so many hosts attack a served robot for so long.
fn under_attack(hosts: u64, lasts: Duration) -> (Embodiment, Vec<Reached>, Vec<Sent>, Status) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("mine/link");
    let robot = Embodiment::so101().tightened(&site(), "site.toml").unwrap();
    let reached = Arc::new(Mutex::new(Vec::new()));
    let link = Recorder { reached: reached.clone(), at: arm::HOME.to_vec() };
    let options = ServerOptions::new(arm::tool_position);
    let server = Server::start(&socket, Arc::new(robot.clone()), Box::new(link), options).unwrap();
    let attackers: Vec<_> = (0..hosts)
        .map(|seed| {
            let socket = socket.clone();
            std::thread::spawn(move || attack(socket, seed, lasts))
        })
        .collect();
    let sent = attackers.into_iter().map(|attacker| attacker.join().unwrap()).collect();
    let status = server.status();
    assert!(server.is_serving());
    drop(server);
    let reached = std::mem::take(&mut *reached.lock());
    (robot, reached, sent, status)
}

fn keeps_every_limit(hosts: u64, lasts: Duration) {
    let (robot, reached, sent, status) = under_attack(hosts, lasts);
    let verdict = judge(&robot, arm::tool_position, &reached);
    let did: Vec<_> = Rule::ALL.into_iter().zip(status.interventions).filter(|(_, times)| *times > 0).collect();
    println!("{} commands reached the robot in {lasts:?}\n{sent:?}\n{did:?}\n{verdict:#?}", reached.len());
    assert!(verdict.beyond.values().all(|times| *times == 0), "{:?}", verdict.beyond);
    assert!(sent.iter().map(|sent| sent.commands).sum::<u64>() > reached.len() as u64, "nobody was hostile");
    // What was refused is told.
    for rule in [Rule::NotANumber, Rule::Position, Rule::Velocity] {
        assert!(status.interventions[rule as usize] > 0, "{rule}: {did:?}");
    }
}

#[test]
fn whatever_hosts_say_nothing_beyond_a_limit_of_robot_and_site_reaches_the_robot() {
    keeps_every_limit(2, Duration::from_secs(4));
}

#[test]
#[ignore = "a minute; `cargo test --release -p waza-robot --test hostile_host -- --ignored --nocapture`"]
fn whatever_hosts_say_for_a_minute_nothing_beyond_a_limit_of_robot_and_site_reaches_the_robot() {
    keeps_every_limit(3, Duration::from_secs(60));
}

#[test]
fn a_home_is_within_the_site_and_the_place_is_in_the_way() {
    let robot = Embodiment::so101().tightened(&site(), "site.toml").unwrap();
    let now = Instant::now();
    let at = |pan: f32| {
        let mut posture = arm::HOME.to_vec();
        posture[0] = pan;
        judge(&robot, arm::tool_position, &[(now, posture)]).beyond["forbidden"]
    };
    assert_eq!((at(0.0), at(0.6)), (0, 1));
    let Workspace { min, max } = robot.workspace;
    assert_eq!((min[2], max[2]), (0.02, 0.4));
}
