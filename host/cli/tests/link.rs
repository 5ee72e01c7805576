//! The watchdog: a robot whose host is killed comes to rest, held by the process that owns its link.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use attacker::{attack, judge};
use waza_robot::bridge::{Observer, RemoteLink, Status};
use waza_robot::sim::arm;
use waza_robot::{Embodiment, Guard, Pace, Play, Robot, RobotOptions, Rule, Tightening};

#[path = "../../robot/tests/attacker/mod.rs"]
mod attacker;

/// Tells a copy of this test where the link is that it shall drive.
const DRIVE: &str = "WAZA_TEST_DRIVE";

/// Something that takes longer hangs.
const LONG: Duration = Duration::from_secs(120);

/// A process that is killed when the test ends, however it does.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(socket: &Path, site: Option<&Path>) -> Killed {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waza"));
    command.args(["link", "sim:tabletop", "--seed", "7", "--socket"]).arg(socket).stdout(Stdio::piped());
    if let Some(site) = site {
        command.arg("--site").arg(site);
    }
    let mut child = Killed(command.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("served"), "{line}");
    // Its standard output is closed from here on: it must not mind.
    child
}

/// A host: this test once more, in a process of its own.
fn host(socket: &Path) -> Killed {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_host_that_never_stops", "--ignored", "--nocapture"]).env(DRIVE, socket);
    Killed(command.stdout(Stdio::null()).spawn().unwrap())
}

#[test]
#[ignore = "the host that the test below kills; it never ends by itself"]
fn a_host_that_never_stops() {
    let socket = PathBuf::from(std::env::var_os(DRIVE).unwrap());
    let embodiment = Arc::new(Embodiment::so101());
    let link = RemoteLink::connect(&socket, embodiment.clone(), LONG).unwrap();
    let options = RobotOptions { pace: Pace::RealTime, kinematics: Box::new(arm::tool_position), guard: Guard::On };
    let robot = Robot::start(embodiment.clone(), Box::new(link), options).unwrap();
    for target in [0.9, -0.9].into_iter().cycle() {
        let here = robot.commanded();
        let mut there = here.clone();
        there[0] = target;
        let play = Play::joints_to(&embodiment, BTreeSet::from([0]), &here, &there, 1.0).unwrap();
        // A machine that is busy may make a tick late; the next move starts from where that left the arm.
        let _ended = pollster::block_on(robot.play(play));
    }
}

#[test]
fn a_host_that_is_killed_leaves_a_robot_that_comes_to_rest_within_its_limits_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("mine/link");
    let _server = serve(&socket, None);
    let mut observer = Observer::connect(&socket).unwrap();
    let host = host(&socket);
    // Every tick that the observer sees.
    let mut seen: Vec<Status> = Vec::new();
    let moves = |seen: &[Status]| match seen {
        [.., before, last] => last.watchdog_since.is_none() && (last.commanded[0] - before.commanded[0]).abs() > 0.01,
        _ => false,
    };
    follow(&mut observer, &mut seen, moves);
    drop(host);
    follow(&mut observer, &mut seen, |seen| {
        seen.last().is_some_and(|last| last.watchdog_since.is_some_and(|since| last.ticks > since + 60))
    });
    let robot = Embodiment::so101();
    let joint = &robot.joints[0];
    let mut speeds = Vec::new();
    for pair in seen.windows(2) {
        let ticks = (pair[1].ticks - pair[0].ticks) as f32;
        let speed = (pair[1].commanded[0] - pair[0].commanded[0]) * robot.control_hz / ticks;
        assert!(speed.abs() <= joint.velocity * 1.001, "{speed} rad/s at tick {}", pair[1].ticks);
        speeds.push((pair[1].ticks, ticks, speed));
    }
    for pair in speeds.windows(2).filter(|pair| pair.iter().all(|(_, ticks, _)| *ticks == 1.0)) {
        let change = (pair[1].2 - pair[0].2).abs() * robot.control_hz;
        assert!(change <= joint.acceleration * 1.02, "{change} rad/s² at tick {}", pair[1].0);
    }
    // At full speed it takes `velocity / acceleration` to stop; the arm itself swings out a little longer.
    let since = seen.last().unwrap().watchdog_since.unwrap();
    let braking = (joint.velocity / joint.acceleration * robot.control_hz).ceil() as u64 + 1;
    let rest: Vec<_> = seen.iter().filter(|status| status.ticks > since + braking).collect();
    assert!(rest.iter().all(|status| status.commanded == rest[0].commanded), "it stands and stays");
    let end = rest.last().unwrap();
    assert!((end.positions[0] - end.commanded[0]).abs() < 0.05, "and so does the arm: {end:?}");

    // Whoever comes next continues from there.
    let embodiment = Arc::new(robot);
    let link = RemoteLink::connect(&socket, embodiment.clone(), LONG).unwrap();
    let options = RobotOptions { pace: Pace::RealTime, kinematics: Box::new(arm::tool_position), guard: Guard::On };
    let robot = Robot::start(embodiment, Box::new(link), options).unwrap();
    let seen = pollster::block_on(robot.observe()).value.unwrap();
    assert!((seen.joints.positions[0] - end.positions[0]).abs() < 0.05);
    let image = seen.frames[0].image().unwrap();
    assert_eq!((image.width, image.height), (96, 96));
}

fn follow(observer: &mut Observer, seen: &mut Vec<Status>, until: impl Fn(&[Status]) -> bool) {
    let since = Instant::now();
    while !until(seen) {
        let status = observer.status().unwrap();
        if seen.last().is_none_or(|last| last.ticks < status.ticks) {
            seen.push(status);
        }
        assert!(since.elapsed() < LONG, "{:?}", seen.last());
        std::thread::sleep(Duration::from_micros(500));
    }
}

const SITE: &str = "[[joints]]\nname = \"shoulder_pan\"\nposition = [-0.4, 0.3]\nvelocity = 0.5\nacceleration = 3.0\n\
    [workspace]\nmin = [-0.05, -0.3, 0.02]\nmax = [0.4, 0.3, 0.4]\n\
    [[forbidden]]\nmin = [0.14, 0.08, 0.0]\nmax = [0.3, 0.2, 0.15]\n";

#[test]
fn whatever_hosts_say_the_process_that_owns_the_robot_keeps_the_limits_of_the_site_that_it_has_read() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, site) = (folder.path().join("mine/link"), folder.path().join("site.toml"));
    std::fs::write(&site, SITE).unwrap();
    let robot = Embodiment::so101().tightened(&Tightening::open(&site).unwrap(), "site.toml").unwrap();
    let _server = serve(&socket, Some(&site));
    let mut observer = Observer::connect(&socket).unwrap();
    let began = Instant::now();
    let before = observer.status().unwrap().ticks;
    let lasts = Duration::from_secs(4);
    let attackers = [1, 2].map(|seed| {
        let socket = socket.clone();
        std::thread::spawn(move || attack(socket, seed, lasts))
    });
    // The first one is where the robot was before anybody said anything.
    let mut seen = Vec::new();
    follow(&mut observer, &mut seen, |_| began.elapsed() > lasts);
    let sent: u64 = attackers.map(|attacker| attacker.join().unwrap().commands).iter().sum();
    let ticks = seen.last().unwrap().ticks - before;
    assert!(sent > ticks, "nobody was hostile: {sent}");
    let most = began.elapsed().as_secs_f64() * f64::from(robot.control_hz) + 2.0;
    assert!((ticks as f64) < most, "{ticks} ticks of {most}");
    for status in &seen {
        let beyond = judge(&robot, arm::tool_position, &[(began, status.commanded.clone())]).beyond;
        assert!(beyond.values().all(|times| *times == 0), "{beyond:?} at tick {}", status.ticks);
    }
    for (index, joint) in robot.joints.iter().enumerate() {
        for pair in seen.windows(2) {
            let seconds = (pair[1].ticks - pair[0].ticks) as f32 / robot.control_hz;
            let speed = (pair[1].commanded[index] - pair[0].commanded[index]) / seconds;
            assert!(speed.abs() <= joint.velocity * 1.001, "{} at {speed} rad/s", joint.name);
        }
    }
    // Of what is sent in one tick only the last is weighed, so it may take an attacker some time to be refused for everything.
    let rules = [Rule::NotANumber, Rule::Position, Rule::Velocity];
    let mut did = seen.last().unwrap().interventions;
    for seed in 3.. {
        if rules.iter().all(|rule| did[*rule as usize] > 0) || began.elapsed() > LONG {
            break;
        }
        attack(socket.clone(), seed, Duration::from_secs(2));
        did = observer.status().unwrap().interventions;
    }
    for rule in rules {
        assert!(did[rule as usize] > 0, "{rule}: {did:?}");
    }
}

#[test]
fn a_site_that_cannot_be_read_or_leaves_nothing_is_refused_before_anything_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let site = folder.path().join("site.toml");
    for (text, expected) in [(None, "cannot read the limits"), (Some("[[joints]]\nname = \"tail\"\n"), "no joint tail")]
    {
        if let Some(text) = text {
            std::fs::write(&site, text).unwrap();
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_waza"));
        command
            .args(["link", "sim:tabletop", "--socket"])
            .arg(folder.path().join("mine/link"))
            .arg("--site")
            .arg(&site);
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains(expected), "{said}");
    }
}
