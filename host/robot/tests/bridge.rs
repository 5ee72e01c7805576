//! A link that another process owns: here the server runs beside the test, over a real socket.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod follower;

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use follower::{Follower, Log, REST, steepest, wait};
use tempfile::TempDir;
use waza_robot::bridge::{BridgeError, Observer, RemoteLink, Server, ServerOptions, Status};
use waza_robot::{Embodiment, Ended, Guard, Link, Pace, Play, Robot, RobotError, RobotOptions};

const PAN: usize = 0;

/// Something that takes longer hangs.
const LONG: Duration = Duration::from_secs(60);

/// A served follower.
struct Bench {
    server: Option<Server>,
    log: Arc<Mutex<Log>>,
    socket: PathBuf,
    embodiment: Arc<Embodiment>,
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::silent_for(5)
    }

    fn silent_for(silence: u32) -> Self {
        Self::of(Embodiment::so101(), silence)
    }

    fn of(embodiment: Embodiment, silence: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("mine/link");
        let embodiment = Arc::new(embodiment);
        let (link, log, _) = Follower::new();
        let options = ServerOptions { silence, ..ServerOptions::new(|q: &[f32]| [0.2, 0.2 * q[PAN], 0.2]) };
        let server = Server::start(&socket, embodiment.clone(), Box::new(link), options).unwrap();
        Self { server: Some(server), log, socket, embodiment, folder }
    }

    fn connect(&self) -> Result<RemoteLink, BridgeError> {
        RemoteLink::connect(&self.socket, self.embodiment.clone(), Duration::ZERO)
    }

    /// Connects when the host before has been found to be gone.
    fn reconnect(&self) -> RemoteLink {
        let since = Instant::now();
        loop {
            match self.connect() {
                Ok(link) => return link,
                Err(error) => assert!(since.elapsed() < LONG, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn status(&self) -> Status {
        self.server.as_ref().unwrap().status()
    }

    fn wait_until(&self, what: impl Fn(&Status) -> bool) -> Status {
        let since = Instant::now();
        loop {
            let status = self.status();
            if what(&status) {
                return status;
            }
            assert!(since.elapsed() < LONG, "{status:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn pans(&self) -> Vec<f32> {
        self.log.lock().unwrap().commands.iter().map(|command| command[PAN]).collect()
    }

    /// The largest speed and acceleration ever commanded are the joint's at most.
    fn assert_within_limits(&self) {
        let joint = &self.embodiment.joints[PAN];
        let (speed, change) = steepest(&self.pans());
        assert!(speed <= joint.velocity * 1.001, "{speed} rad/s");
        assert!(change <= joint.acceleration * 1.02, "{change} rad/s²");
    }
}

/// Commands a shoulder that speeds up to 1 rad/s, a tick's way each time, as fast as the link takes it.
fn speed_up(link: &mut RemoteLink, from: f32) {
    let mut pan = from;
    for tick in 1..=40u8 {
        pan += (f32::from(tick) * 0.001).min(0.01);
        let mut command = REST;
        command[PAN] = pan;
        link.write(&command).unwrap();
    }
    // Answered when all of it has been obeyed.
    link.read().unwrap();
}

#[test]
fn a_robot_behind_a_socket_moves_and_is_seen_as_if_it_were_here() {
    let bench = Bench::silent_for(500);
    let options =
        RobotOptions { pace: Pace::RealTime, kinematics: Box::new(|_: &[f32]| [0.2, 0.0, 0.2]), guard: Guard::On };
    let robot = Robot::start(bench.embodiment.clone(), Box::new(bench.connect().unwrap()), options).unwrap();
    let mut there = robot.commanded();
    assert_eq!(there, REST);
    there[PAN] = 0.2;
    let play = Play::joints_to(&bench.embodiment, BTreeSet::from([PAN]), &REST, &there, 0.5).unwrap();
    assert_eq!(wait(robot.play(play)).value.unwrap().ended, Ended::Finished);
    let seen = wait(robot.observe()).value.unwrap();
    assert!((seen.joints.positions[PAN] - 0.2).abs() < 1e-5);
    assert_eq!((seen.frames.len(), seen.windows[0].channels), (2, 6));
    assert_eq!(*seen.frames[0].image().rgb, [0; 3]);
    bench.set_failing(true);
    let again = Play::joints_to(&bench.embodiment, BTreeSet::from([PAN]), &there, &REST, 0.5).unwrap();
    let error = wait(robot.play(again)).value.unwrap_err();
    assert!(matches!(&error, RobotError::Link(why) if why.0.contains("the cable is out")), "{error}");
}

impl Bench {
    fn set_failing(&self, failing: bool) {
        self.log.lock().unwrap().reads_fail = failing;
    }
}

#[test]
fn a_host_that_falls_silent_leaves_joints_that_come_to_rest_within_their_limits_and_stay() {
    let bench = Bench::silent_for(30);
    let mut link = bench.connect().unwrap();
    speed_up(&mut link, 0.0);
    let status = bench.wait_until(|status| status.watchdog_since.is_some_and(|since| status.ticks > since + 30));
    bench.assert_within_limits();
    let pans = bench.pans();
    let last = &pans[pans.len() - 10..];
    assert!(last.iter().all(|pan| *pan == last[0]), "{last:?}");
    let taken_over = status.watchdog_since.unwrap() as usize;
    assert!(last[0] > pans[taken_over - 1], "it braked, it did not jump back");
    // The host was only slow: it goes on from there.
    speed_up(&mut link, last[0]);
    assert_eq!(bench.status().watchdog_since, None);
    bench.assert_within_limits();
}

#[test]
fn a_host_that_dies_is_replaced_by_the_watchdog_at_once_and_then_by_the_next_host() {
    let bench = Bench::silent_for(100_000);
    let mut link = bench.connect().unwrap();
    speed_up(&mut link, 0.0);
    drop(link);
    bench.wait_until(|status| status.watchdog_since.is_some_and(|since| status.ticks > since + 30));
    bench.assert_within_limits();
    let rest = *bench.pans().last().unwrap();
    let mut next = bench.reconnect();
    assert_eq!(next.read().unwrap().joints.positions[PAN], rest);
    speed_up(&mut next, rest);
    assert_eq!(bench.status().watchdog_since, None);
    assert!(*bench.pans().last().unwrap() > rest + 0.2);
    bench.assert_within_limits();
}

#[test]
fn one_host_commands_at_a_time_and_anybody_may_watch() {
    let bench = Bench::silent_for(100_000);
    let mut link = bench.connect().unwrap();
    let refused = bench.connect().err().unwrap().to_string();
    assert!(refused.contains("another host"), "{refused}");
    let mut observers = [Observer::connect(&bench.socket).unwrap(), Observer::connect(&bench.socket).unwrap()];
    speed_up(&mut link, 0.0);
    for observer in &mut observers {
        let status = observer.status().unwrap();
        assert_eq!((status.watchdog_since, status.commanded.len()), (None, 6));
        assert!(status.commanded[PAN] > 0.2);
    }
}

#[test]
fn what_a_host_gone_mad_commands_passes_the_servers_own_filter() {
    let bench = Bench::silent_for(100_000);
    let mut link = bench.connect().unwrap();
    for target in [2.0, -2.0, 9.0, 1.0] {
        for _ in 0..30 {
            link.write(&[target; 6]).unwrap();
        }
    }
    link.read().unwrap();
    bench.assert_within_limits();
    let [low, high] = bench.embodiment.joints[PAN].position;
    assert!(bench.pans().iter().all(|pan| (low..=high).contains(pan)));
}

#[test]
fn a_host_that_brakes_at_once_is_not_rounded_off() {
    let mut robot = Embodiment::so101();
    robot.joints[PAN].jerk = Some(100.0);
    let bench = Bench::of(robot, 100_000);
    let mut link = bench.connect().unwrap();
    speed_up(&mut link, 0.0);
    // From 1 rad/s at 11 rad/s².
    let (mut pan, mut command) = (*bench.pans().last().unwrap(), REST);
    for tick in 1..=9u8 {
        pan += 0.01 - 0.0011 * f32::from(tick);
        command[PAN] = pan;
        link.write(&command).unwrap();
    }
    link.read().unwrap();
    assert_eq!(*bench.pans().last().unwrap(), pan);
}

#[test]
fn a_host_that_presses_on_is_held_by_what_the_arm_feels_and_may_lead_away() {
    let bench = Bench::silent_for(100_000);
    // 25 N at 0.225 rad.
    bench.log.lock().unwrap().feels = Some(|q| [0.0, -200.0 * (q - 0.1).max(0.0)]);
    let mut link = bench.connect().unwrap();
    let mut turn = |from: f32, step: f32| {
        let mut command = REST;
        for tick in 1..=100u8 {
            command[PAN] = from + step * f32::from(tick);
            link.read().unwrap();
            link.write(&command).unwrap();
        }
        link.read().unwrap();
        *bench.pans().last().unwrap()
    };
    let held = turn(0.0, 0.005);
    assert!((0.225..0.28).contains(&held), "{held} rad");
    // It comes back from where it demanded to be, and presses on again.
    let still = turn(held, 0.0005);
    assert!((held - 0.005..=held).contains(&still), "{still} rad after {held} rad");
    let away = turn(held, -0.002);
    assert!((away - (held - 0.2)).abs() < 1e-3, "{away} rad");
    bench.assert_within_limits();
}

#[test]
fn whoever_speaks_nonsense_is_cut_off_and_the_watchdog_holds() {
    let bench = Bench::silent_for(100_000);
    let length = |bytes: u32| bytes.to_le_bytes().to_vec();
    let hello = |role: u8| [8u32.to_le_bytes().as_slice(), &[1], b"WAZA", &[1, 0, role]].concat();
    let command = |value: f32, joints: u32| {
        let values = (0..joints).flat_map(|_| value.to_le_bytes());
        let mut message = length(1 + joints * 4);
        message.push(6);
        message.extend(values);
        message
    };
    let nonsense: [Vec<u8>; 8] = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        length(u32::MAX),
        [hello(0), length(0)].concat(),
        [hello(0), command(f32::NAN, 6)].concat(),
        [hello(0), command(0.1, 5)].concat(),
        [hello(0), command(0.1, 7)].concat(),
        [hello(1), command(0.1, 6)].concat(),
        [hello(2), command(0.1, 6)].concat(),
    ];
    for (index, bytes) in nonsense.iter().enumerate() {
        // The host before must have been found to be gone.
        drop(bench.reconnect());
        let mut stream = loop {
            let mut stream = UnixStream::connect(&bench.socket).unwrap();
            stream.set_read_timeout(Some(LONG)).unwrap();
            stream.write_all(bytes).unwrap();
            let mut kind = [0; 5];
            // A refusal, kind 3, says that the last host is not found to be gone yet.
            if stream.read(&mut kind).unwrap_or(0) == 0 || kind[4] != 3 {
                break stream;
            }
        };
        let cut_off = stream.read_to_end(&mut Vec::new());
        // Whoever is cut off before all that it said was read is told that the connection was reset.
        let error = cut_off.err().map(|error| error.kind());
        assert!(matches!(error, None | Some(ErrorKind::ConnectionReset)), "message {index}: {error:?}");
    }
    assert!(bench.pans().iter().all(|pan| *pan == 0.0));
    let mut link = bench.reconnect();
    speed_up(&mut link, 0.0);
}

#[test]
fn pixels_come_when_somebody_looks_and_those_that_are_not_kept_are_black() {
    let bench = Bench::silent_for(100_000);
    let mut link = bench.connect().unwrap();
    bench.log.lock().unwrap().frame = Some(41);
    let first = link.capture().unwrap();
    assert_eq!((first[0].number(), first[1].number()), (Some(41), None));
    for _ in 0..70 {
        link.capture().unwrap();
    }
    let last = link.capture().unwrap();
    assert_eq!((last[0].image().width, last[0].image().height), (1, 1));
    // Of the embodiment's size, for nothing else is known of it.
    let lost = first[0].image();
    assert_eq!((lost.width, lost.height), (96, 96));
    assert!(lost.rgb.iter().all(|byte| *byte == 0));
    bench.log.lock().unwrap().cameras_fail = true;
    assert!(link.capture().unwrap_err().0.contains("the front camera is gone"));
    link.read().unwrap();
}

#[test]
fn a_server_that_comes_back_is_found_again() {
    let mut bench = Bench::silent_for(100_000);
    let mut link = bench.connect().unwrap();
    drop(bench.server.take());
    assert!(link.read().is_err() && link.write(&REST).is_err());
    let (follower, ..) = Follower::new();
    let options = ServerOptions::new(|_: &[f32]| [0.2, 0.0, 0.2]);
    bench.server = Some(Server::start(&bench.socket, bench.embodiment.clone(), Box::new(follower), options).unwrap());
    let since = Instant::now();
    while let Err(error) = link.read() {
        assert!(since.elapsed() < LONG, "{error}");
    }
    link.write(&REST).unwrap();
}

#[test]
fn a_socket_is_its_owners_and_is_served_once() {
    let bench = Bench::new();
    let start = |socket: &PathBuf| {
        let (link, ..) = Follower::new();
        let options = ServerOptions::new(|_: &[f32]| [0.2, 0.0, 0.2]);
        Server::start(socket, bench.embodiment.clone(), Box::new(link), options)
    };
    assert!(matches!(start(&bench.socket).err().unwrap(), BridgeError::Taken { .. }));
    let open = bench.folder.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, Permissions::from_mode(0o755)).unwrap();
    let refused = start(&open.join("link")).err().unwrap();
    assert!(matches!(refused, BridgeError::OpenFolder { .. }) && refused.to_string().contains("0700"), "{refused}");
    let made = bench.folder.path().join("made/here");
    let server = start(&made.join("link")).unwrap();
    assert_eq!(std::fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o700);
    drop(server);
    assert!(!made.join("link").exists());
    // What a killed server leaves.
    drop(std::os::unix::net::UnixListener::bind(made.join("link")).unwrap());
    drop(start(&made.join("link")).unwrap());
}

#[test]
fn a_robot_of_another_shape_is_refused_with_both() {
    let bench = Bench::new();
    let mut other = Embodiment::so101();
    other.cameras.pop();
    let error = RemoteLink::connect(&bench.socket, Arc::new(other), Duration::ZERO).err().unwrap();
    assert!(error.to_string().contains("2 cameras"), "{error}");
    let nowhere = RemoteLink::connect(&bench.folder.path().join("x"), bench.embodiment.clone(), Duration::ZERO);
    assert!(matches!(nowhere.err().unwrap(), BridgeError::Io { .. }));
}
