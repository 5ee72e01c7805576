//! A link that another process owns: here the server runs beside the test, over a real socket.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod attacker;
mod follower;

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use attacker::{command, hello, message};
use follower::{Follower, Log, REST, steepest, wait};
use tempfile::TempDir;
use waza_robot::bridge::{BridgeError, Observer, RemoteLink, Server, ServerOptions, Status};
use waza_robot::observation::Measurement;
use waza_robot::{
    Embodiment, Ended, Frame, Guard, Image, Link, LinkError, Lost, Pace, Play, Robot, RobotError, RobotOptions, Rule,
};

const PAN: usize = 0;
const HAND: usize = 5;

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
        let (link, log, _) = Follower::new();
        Self::with(link, log, embodiment, silence)
    }

    fn with(link: impl Link + 'static, log: Arc<Mutex<Log>>, embodiment: Embodiment, silence: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("mine/link");
        let embodiment = Arc::new(embodiment);
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

    fn times(&self, rule: Rule) -> u64 {
        self.status().interventions[rule as usize]
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

/// Commands the shoulder alone, and waits until that has gone out.
fn turn_to(link: &mut RemoteLink, pan: f32) {
    let mut command = REST;
    command[PAN] = pan;
    link.write(&command).unwrap();
    link.read().unwrap();
}

/// Commands a shoulder that speeds up to 1 rad/s, a tick's way each time.
fn speed_up(link: &mut RemoteLink, from: f32) {
    let mut pan = from;
    for tick in 1..=40u8 {
        pan += (f32::from(tick) * 0.001).min(0.01);
        turn_to(link, pan);
    }
}

/// Waits until something is so.
fn wait_for(what: &str, is: impl Fn() -> bool) {
    let since = Instant::now();
    while !is() {
        assert!(since.elapsed() < LONG, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
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
    // A machine that is busy may let the server's filter come a little later.
    let arrived = || (wait(robot.observe()).value.unwrap().joints.positions[PAN] - 0.2).abs() < 1e-5;
    wait_for("it does not arrive", arrived);
    let seen = wait(robot.observe()).value.unwrap();
    assert_eq!((seen.frames.len(), seen.windows[0].channels), (2, 6));
    assert_eq!(*seen.frames[0].image().unwrap().rgb, [0; 3]);
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
    let before = *bench.pans().last().unwrap();
    bench.wait_until(|status| status.watchdog_since.is_some_and(|since| status.ticks > since + 30));
    bench.assert_within_limits();
    let pans = bench.pans();
    let last = &pans[pans.len() - 10..];
    assert!(last.iter().all(|pan| *pan == last[0]), "{last:?}");
    assert!(last[0] > before, "it braked, it did not jump back");
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

/// A hand that a block keeps from closing further than this, rad.
const ON_A_BLOCK: f32 = 0.34;

impl Bench {
    /// A host's control loop.
    fn host(&self) -> Robot {
        let options =
            RobotOptions { pace: Pace::RealTime, kinematics: Box::new(|_: &[f32]| [0.2, 0.0, 0.2]), guard: Guard::On };
        Robot::start(self.embodiment.clone(), Box::new(self.reconnect()), options).unwrap()
    }

    /// Has closed the hand on a block, and lets it go on.
    fn squeeze(&self) -> Vec<f32> {
        let mut held = REST;
        held[HAND] = ON_A_BLOCK;
        self.log.lock().unwrap().reading = Some(held.to_vec());
        let mut closed = REST;
        closed[HAND] = 0.1;
        let robot = self.host();
        let play = Play::joints_to(&self.embodiment, BTreeSet::from([HAND]), &robot.commanded(), &closed, 1.0).unwrap();
        wait(robot.play(play)).value.unwrap();
        // A machine that is busy may let the server's filter come a little later.
        wait_for("it does not close", || self.status().commanded[HAND] == 0.1);
        self.status().commanded
    }
}

#[test]
fn the_next_host_begins_with_what_is_commanded_so_that_a_hand_lets_nothing_go() {
    let bench = Bench::silent_for(5);
    let commanded = bench.squeeze();
    let before = bench.log.lock().unwrap().commands.len();
    for round in 0..3 {
        let next = bench.host();
        assert_eq!(next.commanded(), commanded, "round {round}");
        wait(next.reach(next.tick() + 30)).value.unwrap();
        let seen = wait(next.observe()).value.unwrap();
        assert_eq!(seen.joints.positions[HAND], ON_A_BLOCK);
    }
    let log = bench.log.lock().unwrap();
    assert!(log.commands.len() > before + 60);
    assert!(log.commands[before..].iter().all(|command| *command == commanded), "nothing moves by itself");
}

#[test]
fn a_robot_whose_own_link_drops_goes_on_squeezing_and_holds_the_joint_that_somebody_has_moved_where_it_is_found() {
    let bench = Bench::silent_for(5);
    let commanded = bench.squeeze();
    bench.set_failing(true);
    let ticks = bench.status().ticks;
    bench.wait_until(|status| status.ticks > ticks + 20);
    let mut found = REST;
    (found[PAN], found[HAND]) = (0.5, ON_A_BLOCK);
    bench.log.lock().unwrap().reading = Some(found.to_vec());
    bench.set_failing(false);
    let after = bench.wait_until(|status| status.commanded[PAN] == 0.5);
    assert_eq!(after.commanded[1..], commanded[1..]);
}

#[test]
fn a_host_that_comes_while_the_joints_still_brake_gets_them_when_they_stand() {
    let bench = Bench::silent_for(100_000);
    let mut link = bench.connect().unwrap();
    speed_up(&mut link, 0.0);
    drop(link);
    let mut next = bench.reconnect();
    let found = next.found().unwrap();
    let came = bench.pans().len();
    assert!(next.found().is_none(), "it is told once");
    for _ in 0..20 {
        next.write(&found.commanded).unwrap();
        next.read().unwrap();
    }
    let pans = bench.pans();
    assert!(pans[came..].iter().all(|pan| *pan == found.commanded[PAN]), "{:?}", &pans[came..]);
    bench.assert_within_limits();
}

#[test]
fn a_stop_outlives_its_host_and_the_process_that_owns_the_robot_and_no_number_of_one_is_given_again() {
    let mut bench = Bench::silent_for(5);
    let latched = |robot: &Robot| robot.stopped().map(|stop| stop.number());
    let told = |robot: &Robot| drop(wait(robot.reach(robot.tick() + 2)));
    let first = bench.host();
    assert_eq!(latched(&first), None);
    first.stop();
    told(&first);
    drop(first);

    let second = bench.host();
    assert_eq!(latched(&second), Some(1));
    let play = || Play::joints_to(&bench.embodiment, BTreeSet::from([PAN]), &REST, &[0.2; 6], 0.5).unwrap();
    assert_eq!(wait(second.play(play())).value.unwrap().ended, Ended::Stopped);
    let stale = second.stopped().unwrap();
    assert!(second.reset(stale));
    told(&second);
    drop(second);

    let third = bench.host();
    assert_eq!(latched(&third), None);
    third.stop();
    told(&third);
    assert!(latched(&third) == Some(3) && !third.reset(stale), "a number of an earlier host lifts nothing");
    drop(third);
    let stops = bench.wait_until(|status| status.watchdog_since.is_some()).stops;

    drop(bench.server.take());
    let (follower, ..) = Follower::new();
    let options = ServerOptions { stops, ..ServerOptions::new(|_: &[f32]| [0.2, 0.0, 0.2]) };
    bench.server = Some(Server::start(&bench.socket, bench.embodiment.clone(), Box::new(follower), options).unwrap());
    assert_eq!(latched(&bench.host()), Some(3));
}

#[test]
fn a_host_that_was_away_while_another_stopped_the_robot_is_stopped_when_it_is_back() {
    let bench = Bench::silent_for(5);
    let mut away = bench.connect().unwrap();
    turn_to(&mut away, 0.0);
    let other = bench.host();
    other.stop();
    drop(wait(other.reach(other.tick() + 2)));
    drop(other);
    let options =
        RobotOptions { pace: Pace::RealTime, kinematics: Box::new(|_: &[f32]| [0.2, 0.0, 0.2]), guard: Guard::On };
    // It has missed that.
    let _missed = away.read();
    bench.wait_until(|status| status.watchdog_since.is_some());
    let since = Instant::now();
    let robot = loop {
        // The other one must have been found to be gone.
        if away.read().is_ok() {
            break Robot::start(bench.embodiment.clone(), Box::new(away), options).unwrap();
        }
        assert!(since.elapsed() < LONG);
    };
    assert_eq!(robot.stopped().map(|stop| stop.number()), Some(1));
}

#[test]
fn a_count_of_stops_that_nobody_could_count_on_from_is_refused() {
    let bench = Bench::silent_for(100_000);
    let mut stream = UnixStream::connect(&bench.socket).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let stops = u64::MAX.to_le_bytes();
    let command = message(6, &[stops.as_slice(), &[0; 24]].concat());
    stream.write_all(&[hello(0), command].concat()).unwrap();
    let mut answers = Vec::new();
    // Whoever is cut off before all that it said was read is told that the connection was reset.
    let _ = stream.read_to_end(&mut answers);
    assert_eq!(bench.status().stops, 0);
    speed_up(&mut bench.reconnect(), 0.0);
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
fn joints_whose_next_command_does_not_come_brake_at_once_whoever_is_in_charge() {
    let bench = Bench::silent_for(100_000);
    let mut link = bench.connect().unwrap();
    speed_up(&mut link, 0.0);
    let began = bench.pans().len();
    bench.wait_until(|status| status.ticks > began as u64 + 30);
    let pans = bench.pans();
    let last = &pans[pans.len() - 10..];
    assert!(last.iter().all(|pan| *pan == last[0]), "{last:?}");
    assert_eq!(bench.status().watchdog_since, None);
    assert!(bench.times(Rule::CommandAge) > 0);
    bench.assert_within_limits();
}

#[test]
fn what_a_host_gone_mad_commands_passes_the_servers_own_filter_and_it_is_told_of_what() {
    let bench = Bench::silent_for(100_000);
    let mut link = bench.connect().unwrap();
    assert_eq!(link.interventions(), Some(&[0; Rule::ALL.len()]));
    for target in [2.0, -2.0, 9.0, 1.0] {
        for _ in 0..30 {
            link.write(&[target; 6]).unwrap();
            link.read().unwrap();
        }
    }
    bench.assert_within_limits();
    let [low, high] = bench.embodiment.joints[PAN].position;
    assert!(bench.pans().iter().all(|pan| (low..=high).contains(pan)));
    for rule in [Rule::Position, Rule::Velocity] {
        let told = link.interventions().unwrap()[rule as usize];
        assert!(told > 0 && told <= bench.times(rule), "{rule} {told}");
        let watched = Observer::connect(&bench.socket).unwrap().status().unwrap().interventions;
        assert!(watched[rule as usize] >= told);
    }
}

#[test]
fn a_host_that_has_read_wider_limits_than_its_robots_process_sees_in_its_statistics_what_that_keeps() {
    let mut narrow = Embodiment::so101();
    narrow.joints[PAN].velocity = 0.3;
    let bench = Bench::of(narrow, 500);
    let link = RemoteLink::connect(&bench.socket, Arc::new(Embodiment::so101()), LONG).unwrap();
    let wide = Arc::new(Embodiment::so101());
    let options =
        RobotOptions { pace: Pace::RealTime, kinematics: Box::new(|_: &[f32]| [0.2, 0.0, 0.2]), guard: Guard::On };
    let robot = Robot::start(wide.clone(), Box::new(link), options).unwrap();
    let mut there = robot.commanded();
    there[PAN] = 1.0;
    let play = Play::joints_to(&wide, BTreeSet::from([PAN]), &REST, &there, 0.6).unwrap();
    wait(robot.play(play)).value.unwrap();
    wait_for("nothing is told", || robot.statistics().link_interventions.contains_key(&Rule::Velocity));
    bench.assert_within_limits();
}

#[test]
fn what_is_no_number_holds_its_joint_and_is_counted() {
    let bench = Bench::silent_for(100_000);
    let mut link = bench.connect().unwrap();
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut command = REST;
        command[PAN] = wrong;
        link.write(&command).unwrap();
        link.read().unwrap();
    }
    assert!(bench.pans().iter().all(|pan| *pan == 0.0));
    assert!(link.interventions().unwrap()[Rule::NotANumber as usize] > 0);
}

#[test]
fn a_host_that_commands_far_too_often_moves_the_robot_no_faster() {
    let bench = Bench::silent_for(100_000);
    let mut link = bench.connect().unwrap();
    let (began, before) = (Instant::now(), bench.status().ticks);
    let mut sent = 0;
    while began.elapsed() < Duration::from_secs(1) {
        // Each goes on a tick's way from the one before.
        turn_without_waiting(&mut link, sent as f32 * 0.02);
        sent += 1;
    }
    let ticks = bench.status().ticks - before;
    let most = began.elapsed().as_secs_f32() * bench.embodiment.control_hz;
    assert!(sent > 1000 && ticks as f32 <= most + 2.0, "{ticks} ticks of {most} for {sent} commands");
    bench.assert_within_limits();
}

fn turn_without_waiting(link: &mut RemoteLink, pan: f32) {
    let mut command = REST;
    command[PAN] = pan;
    // A server that listens no longer in this period is waited for.
    link.write(&command).unwrap();
}

#[test]
fn a_host_that_brakes_at_once_is_not_rounded_off() {
    let mut robot = Embodiment::so101();
    robot.joints[PAN].jerk = Some(100.0);
    let since = Instant::now();
    loop {
        let bench = Bench::of(robot.clone(), 100_000);
        let mut link = bench.connect().unwrap();
        speed_up(&mut link, 0.0);
        // From 1 rad/s at 11 rad/s².
        let mut pan = *bench.pans().last().unwrap();
        for tick in 1..=9u8 {
            pan += 0.01 - 0.0011 * f32::from(tick);
            turn_to(&mut link, pan);
        }
        let late = link.interventions().unwrap()[Rule::CommandAge as usize];
        // A machine that is busy may bring a command too late.
        if late == 0 {
            assert_eq!(*bench.pans().last().unwrap(), pan);
            return;
        }
        assert!(since.elapsed() < LONG, "{late} commands were late");
    }
}

#[test]
fn a_host_that_presses_on_is_held_by_what_the_arm_feels_and_may_lead_away() {
    let bench = Bench::silent_for(100_000);
    // 25 N at 0.225 rad.
    bench.log.lock().unwrap().feels = Some(|q| [0.0, -200.0 * (q - 0.1).max(0.0)]);
    let mut link = bench.connect().unwrap();
    let mut turn = |from: f32, step: f32| {
        // Then it stays, for a machine that is busy may have made it late.
        for tick in 1..=120u8 {
            turn_to(&mut link, from + step * f32::from(tick.min(100)));
        }
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
    let nonsense: [Vec<u8>; 7] = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        length(u32::MAX),
        [hello(0), length(0)].concat(),
        [hello(0), command(&[0.1; 5])].concat(),
        [hello(0), command(&[0.1; 7])].concat(),
        [hello(1), command(&[0.1; 6])].concat(),
        [hello(2), command(&[0.1; 6])].concat(),
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

/// Asks for something again and again, and reads the answers if it shall.
fn ask_without_a_pause(socket: &Path, kind: u8, reads: bool) -> (UnixStream, std::thread::JoinHandle<()>) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(&[hello(0), command(&REST)].concat()).unwrap();
    let (asking, mut reading) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
    let reader = move || {
        let mut bytes = [0; 4096];
        while reading.read(&mut bytes).is_ok_and(|read| read > 0) {}
    };
    let reader = reads.then(|| std::thread::spawn(reader));
    let asker = std::thread::spawn(move || {
        let mut asking = asking;
        let questions = message(kind, &[]).repeat(20);
        while asking.write_all(&questions).is_ok() {}
        reader.map(std::thread::JoinHandle::join);
    });
    (stream, asker)
}

#[test]
fn a_host_that_asks_without_a_pause_and_commands_nothing_is_found_silent_and_the_watchdog_goes_on() {
    for kind in [4, 7] {
        let bench = Bench::silent_for(20);
        let (stream, asker) = ask_without_a_pause(&bench.socket, kind, true);
        let status =
            bench.wait_until(|status| status.ticks > 5 && status.watchdog_since.is_some_and(|since| since > 5));
        bench.wait_until(|later| later.ticks > status.ticks + 50);
        // Neither the robot nor its cameras are asked as often as the server is.
        let log = bench.log.lock().unwrap();
        assert!(log.captures <= log.commands.len() + 1, "{} captures", log.captures);
        drop(log);
        stream.shutdown(std::net::Shutdown::Both).unwrap();
        asker.join().unwrap();
    }
}

#[test]
fn a_host_that_does_not_read_its_answers_is_cut_off_and_the_next_one_comes_in() {
    let bench = Bench::silent_for(100_000);
    let (_stream, asker) = ask_without_a_pause(&bench.socket, 4, false);
    asker.join().unwrap();
    let mut link = bench.reconnect();
    speed_up(&mut link, 0.0);
}

#[test]
fn a_host_that_hangs_gives_its_place_to_the_next() {
    let bench = Bench::silent_for(5);
    let mut hung = bench.connect().unwrap();
    turn_to(&mut hung, 0.0);
    let mut next = bench.reconnect();
    speed_up(&mut next, 0.0);
    assert!(hung.read().is_err());
}

#[test]
fn clients_that_want_nothing_do_not_keep_a_host_out() {
    let bench = Bench::new();
    let mut idle: Vec<_> = (0..40).map(|_| UnixStream::connect(&bench.socket).unwrap()).collect();
    // Refused ones are gone already.
    idle.iter_mut().for_each(|stream| drop(stream.write_all(&hello(2))));
    let mut observer = None;
    wait_for("nobody gets in", || Observer::connect(&bench.socket).is_ok());
    let mut link = bench.reconnect();
    turn_to(&mut link, 0.0);
    // One that was cut off comes back by itself.
    let observer = observer.get_or_insert_with(|| Observer::connect(&bench.socket).unwrap());
    std::thread::sleep(Duration::from_secs(4));
    observer.status().unwrap();
}

#[test]
fn a_server_that_is_stopped_keeps_no_host_waiting() {
    let mut bench = Bench::silent_for(5);
    let mut link = bench.connect().unwrap();
    drop(bench.server.take());
    // Nobody accepts, and there is room for two to wait.
    let stopped = UnixListener::bind(&bench.socket).unwrap();
    rustix::net::listen(&stopped, 1).unwrap();
    let (done, tried) = channel();
    std::thread::spawn(move || {
        let errors = (0..6).all(|_| link.read().is_err());
        done.send(errors).unwrap();
    });
    assert_eq!(tried.recv_timeout(LONG), Ok(true));
}

/// A follower whose cameras show what they are told to.
struct Staged {
    follower: Follower,
    frames: Box<dyn FnMut() -> Vec<Frame> + Send>,
}

impl Link for Staged {
    fn read_into(&mut self, into: &mut Measurement) -> Result<(), LinkError> {
        self.follower.read_into(into)
    }

    fn write(&mut self, positions: &[f32]) -> Result<(), LinkError> {
        self.follower.write(positions)
    }

    fn capture(&mut self) -> Result<Vec<Frame>, LinkError> {
        Ok((self.frames)())
    }
}

fn grey() -> Image {
    Image { width: 1, height: 1, rgb: vec![127; 3].into() }
}

#[test]
fn pixels_come_when_somebody_looks_and_those_that_are_not_kept_are_lost() {
    let bench = Bench::silent_for(100_000);
    let mut link = bench.connect().unwrap();
    bench.log.lock().unwrap().frame = Some(41);
    let first = link.capture().unwrap();
    assert_eq!((first[0].number(), first[1].number()), (Some(41), None));
    let mut last = Vec::new();
    for _ in 0..70 {
        // Frames are of the time after the command.
        link.write(&REST).unwrap();
        last = link.capture().unwrap();
    }
    let image = last[0].image().unwrap();
    assert_eq!((image.width, image.height), (1, 1));
    let Lost { camera, why } = first[1].image().unwrap_err();
    assert!(camera == "wrist" && why.contains("not kept"), "{camera}: {why}");
    bench.log.lock().unwrap().cameras_fail = true;
    link.write(&REST).unwrap();
    assert!(link.capture().unwrap_err().0.contains("the front camera is gone"));
    link.read().unwrap();
}

#[test]
fn what_a_camera_has_lost_behind_the_socket_is_lost_before_it_too() {
    let (follower, log, _) = Follower::new();
    let frames = || {
        let lost = || Err(Lost { camera: "front".into(), why: "the cable is out".into() });
        vec![Frame::fetched(lost), Frame::ready(grey())]
    };
    let link = Staged { follower, frames: Box::new(frames) };
    let bench = Bench::with(link, log, Embodiment::so101(), 100_000);
    let seen = bench.connect().unwrap().capture().unwrap();
    let lost = seen[0].image().unwrap_err();
    assert!(lost.camera == "front" && lost.why.contains("the cable is out"), "{lost}");
    assert_eq!(*seen[1].image().unwrap(), grey());
}

#[test]
fn a_camera_whose_pixels_do_not_come_keeps_nobody_from_another_and_nobody_for_long() {
    let (follower, log, _) = Follower::new();
    let (never, pixels) = channel::<Image>();
    let (sender, began) = channel();
    let pixels = Arc::new(Mutex::new(pixels));
    let frames = move || {
        let (pixels, sender) = (pixels.clone(), sender.clone());
        let waits = move || {
            sender.send(()).unwrap();
            Ok(pixels.lock().unwrap().recv().unwrap_or_else(|_| grey()))
        };
        vec![Frame::fetched(waits), Frame::ready(grey())]
    };
    let link = Staged { follower, frames: Box::new(frames) };
    let bench = Bench::with(link, log, Embodiment::so101(), 100_000);
    let mut link = bench.connect().unwrap();
    let since = Instant::now();
    loop {
        link.write(&REST).unwrap();
        let seen = link.capture().unwrap();
        let front = seen[0].clone();
        let looking = std::thread::spawn(move || front.image().unwrap_err());
        began.recv_timeout(LONG).unwrap();
        assert_eq!(*seen[1].image().unwrap(), grey());
        let other_waits = !looking.is_finished();
        let Lost { camera, why } = looking.join().unwrap();
        assert_eq!(camera, "front", "{why}");
        // A machine that is busy may take longer for the second camera than the first is waited for.
        if other_waits {
            break;
        }
        assert!(since.elapsed() < LONG, "one camera keeps others waiting");
    }
    drop(never);
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
    drop(UnixListener::bind(made.join("link")).unwrap());
    drop(start(&made.join("link")).unwrap());
}

#[test]
fn of_servers_that_start_at_once_over_what_a_killed_one_left_one_serves_and_the_others_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let embodiment = Arc::new(Embodiment::so101());
    for round in 0..50 {
        let socket = folder.path().join("mine/link");
        if round > 0 {
            drop(UnixListener::bind(&socket).unwrap());
        }
        let together = Arc::new(Barrier::new(3));
        let starting = [(); 3].map(|()| {
            let (socket, embodiment, together) = (socket.clone(), embodiment.clone(), together.clone());
            std::thread::spawn(move || {
                let (link, ..) = Follower::new();
                let options = ServerOptions::new(|_: &[f32]| [0.2, 0.0, 0.2]);
                together.wait();
                Server::start(&socket, embodiment, Box::new(link), options)
            })
        });
        let started: Vec<_> = starting.map(|thread| thread.join().unwrap()).into();
        let (serve, refused): (Vec<_>, Vec<_>) = started.into_iter().partition(Result::is_ok);
        assert_eq!(serve.len(), 1, "round {round}");
        for refused in refused {
            assert!(matches!(refused, Err(BridgeError::Taken { .. })), "round {round}: {:?}", refused.err());
        }
        // And it is the one at the socket.
        RemoteLink::connect(&socket, embodiment.clone(), Duration::ZERO).unwrap();
    }
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
