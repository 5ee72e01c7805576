//! What holds the robot of `waza serve` when that dies.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used)] // in helpers of tests

mod served;

use std::io::BufRead;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use served::{PATIENCE, Served, command, kill, package, shell};
use tempfile::TempDir;
use waza_robot::bridge::{Observer, RemoteLink, Status};
use waza_robot::sim::{SceneSpec, Simulator, arm};
use waza_robot::{Embodiment, Link};

/// Folders of skills and of state.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir(bench.path("skills")).unwrap();
        package(Path::new(&bench.path("skills")), "conduct");
        bench
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().into()
    }

    fn serve(&self, options: &[&str]) -> Served {
        Served::start(Path::new(&self.path("skills")), &[options, &["--state", &self.path("state")]].concat())
    }

    /// Why it does not serve.
    fn refused(&self, options: &[&str]) -> String {
        let output = command(Path::new(&self.path("skills")), options).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    }

    fn observer(&self) -> Observer {
        Observer::connect(Path::new(&self.path("state/link/robot"))).unwrap()
    }
}

/// The line about who holds the robot, and the process.
fn holder(served: &Served) -> (String, u32) {
    let line = served.begun.iter().find(|line| line.starts_with("the robot is held by process ")).unwrap();
    let pid = line.split(' ').nth(6).unwrap().trim_end_matches([':', ',']).parse().unwrap();
    (line.clone(), pid)
}

fn until(observer: &mut Observer, is: impl Fn(&Status) -> bool) -> Status {
    let began = Instant::now();
    loop {
        let status = observer.status().unwrap();
        if is(&status) {
            return status;
        }
        assert!(began.elapsed() < PATIENCE, "{status:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for a process to be gone.
fn gone(pid: u32) {
    let began = Instant::now();
    while kill("0", pid) {
        assert!(began.elapsed() < PATIENCE, "process {pid} is still there");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_host_that_is_killed_with_all_of_its_job_leaves_an_arm_that_stands_and_the_next_host_goes_on_from_there() {
    let bench = Bench::new();
    let mut first = bench.serve(&[]);
    let (_, pid) = holder(&first);
    let mut observer = bench.observer();
    first.done(&["run", "test/conduct", "--task", "keep moving", "--detach"]);
    until(&mut observer, |status| status.commanded[0].abs() > 0.05);
    // The whole process group, as a terminal that is closed would.
    assert!(kill("KILL", format_args!("-{}", first.child.id())));
    first.child.wait().unwrap();
    let since = until(&mut observer, |status| status.watchdog_since.is_some()).watchdog_since.unwrap();
    let rest = until(&mut observer, |status| status.ticks > since + 100);
    let later = until(&mut observer, |status| status.ticks > since + 150);
    assert_eq!(rest.commanded, later.commanded, "the arm stands");

    let mut second = bench.serve(&[]);
    let (line, same) = holder(&second);
    assert!(same == pid && line.contains("as an earlier host left it"), "{line}");
    let now = observer.status().unwrap();
    let moved = now.commanded.iter().zip(&rest.commanded).map(|(now, rest)| (now - rest).abs()).fold(0.0, f32::max);
    assert!(moved < 0.05, "nothing has moved by itself: {now:?}");
    second.done_at_last(&["run", "test/conduct", "--task", "move: 0.1"]);
    second.signal("TERM");
    assert_eq!(second.ended(), Some(0));
    gone(pid);
    assert!(!Path::new(&bench.path("state/link/robot")).exists());
}

/// Rounds of a test that somebody may want more of.
const ROUNDS: &str = "WAZA_TEST_ROUNDS";

/// Takes hold of a block that lies on the table, as a host does, and lifts it; what is commanded then.
fn grasp(socket: &Path) -> Vec<f32> {
    let robot = Arc::new(Embodiment::so101());
    let (_, block) = Simulator::new(robot.clone(), &SceneSpec::tabletop(), 0).snapshot().blocks[0];
    let mut link = RemoteLink::connect(socket, robot, PATIENCE).unwrap();
    let mut here = link.found().unwrap().commanded;
    let (mut over, mut at) = (block.translation, block.translation);
    (over.z, at.z) = (0.085, 0.0125);
    let open = |point| arm::reach_down(point, 0.0145, arm::GRIPPER_OPEN).unwrap();
    let closed = |mut posture: [f32; arm::JOINTS]| {
        posture[arm::GRIPPER] = SQUEEZED;
        posture
    };
    for there in [open(over), open(at), closed(open(at)), closed(open(over))] {
        for tick in 1..=150u8 {
            let share = f32::from(tick) / 150.0;
            let between: Vec<f32> = here.iter().zip(there).map(|(here, there)| here + share * (there - here)).collect();
            link.write(&between).unwrap();
            link.read().unwrap();
        }
        here = there.to_vec();
    }
    drop(link);
    let mut observer = Observer::connect(socket).unwrap();
    let since = until(&mut observer, |status| status.watchdog_since.is_some()).watchdog_since.unwrap();
    let status = until(&mut observer, |status| status.ticks > since + 50);
    assert!(holds(&status), "it has not taken hold of it: {status:?}");
    status.commanded
}

/// Where the hand is commanded to be when it holds a block, which keeps it from closing so far, rad.
const SQUEEZED: f32 = 0.1;

/// Whether there is something in the hand.
fn holds(status: &Status) -> bool {
    status.positions[arm::GRIPPER] > status.commanded[arm::GRIPPER] + 0.05
}

#[test]
fn a_block_that_the_hand_holds_is_held_through_every_host_that_is_killed() {
    let bench = Bench::new();
    let mut first = bench.serve(&[]);
    let (_, pid) = holder(&first);
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let commanded = grasp(Path::new(&bench.path("state/link/robot")));
    let mut observer = bench.observer();
    let rounds = std::env::var(ROUNDS).map_or(5, |rounds| rounds.parse().unwrap());
    let (mut moved, mut dropped) = (0, 0);
    for _ in 0..rounds {
        let mut served = bench.serve(&[]);
        assert_eq!(holder(&served).1, pid);
        let ticks = observer.status().unwrap().ticks;
        let status = until(&mut observer, |status| status.ticks > ticks + 30);
        moved += u32::from(status.commanded != commanded);
        dropped += u32::from(!holds(&status));
        served.child.kill().unwrap();
        served.child.wait().unwrap();
    }
    println!("{rounds} restarts: blocks dropped {dropped}, commanded posture changed {moved}");
    assert_eq!((moved, dropped), (0, 0), "of {rounds}");
    let mut last = bench.serve(&[]);
    last.signal("TERM");
    assert_eq!(last.ended(), Some(0));
    gone(pid);
}

#[test]
fn a_latched_stop_outlives_every_end_of_its_host_and_only_its_own_number_lifts_it() {
    let bench = Bench::new();
    let latched = |served: &Served| served.json(&["status"])["stopped"].as_u64();
    let mut before = None;
    for signal in ["KILL", "HUP", "TERM"] {
        let mut served = bench.serve(&[]);
        assert_eq!(latched(&served), None, "a host that leaves in order leaves no stop of its own");
        let stop = served.json(&["stop"])["stopped"].as_u64().unwrap();
        // Whoever is told so may rely on it.
        served.signal(signal);
        served.ended();

        let mut next = bench.serve(&[]);
        assert_eq!(latched(&next), Some(stop), "after {signal}");
        let said = format!("the host stop {stop} is latched");
        if !next.begun.iter().any(|line| line.starts_with(&said)) {
            next.line(&said);
        }
        next.refused(1, &["run", "test/conduct", "--task", "move: 0.1"], &format!("waza ctl reset {stop}"));
        if let Some(before) = before.replace(stop) {
            assert!(stop > before, "{stop} after {before}");
            next.refused(1, &["reset", &before.to_string()], &format!("waza ctl reset {stop}"));
        }
        next.done(&["reset", &stop.to_string()]);
        next.done_at_last(&["run", "test/conduct", "--task", "move: 0.1"]);
        next.signal("TERM");
        assert_eq!(next.ended(), Some(0));
    }
}

#[test]
fn a_count_of_stops_that_is_damaged_keeps_a_robot_from_being_served_until_somebody_looks() {
    let bench = Bench::new();
    let socket = bench.path("link");
    std::fs::write(bench.path("link.stops"), "some").unwrap();
    let mut link = std::process::Command::new(env!("CARGO_BIN_EXE_waza"));
    let refused = link.args(["link", "sim:tabletop", "--linger", "0", "--socket", &socket]).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("no count of stops") && said.contains("link.stops") && said.contains("remove"), "{said}");
}

#[test]
fn a_process_that_held_the_robot_and_was_killed_is_started_again_and_nothing_moves_before_a_reset() {
    let bench = Bench::new();
    let mut served = bench.serve(&[]);
    let (_, before) = holder(&served);
    served.done(&["run", "test/conduct", "--task", "keep moving", "--detach"]);
    until(&mut bench.observer(), |status| status.commanded[0].abs() > 0.05);
    assert!(kill("KILL", before));
    let line = served.line("the process that held the robot has ended; process ");
    let pid: u32 = line.split(' ').nth(9).unwrap().parse().unwrap();
    assert_ne!(pid, before);
    let stop = served.json(&["status"])["stopped"].as_u64().unwrap();
    let began = Instant::now();
    while served.json(&["status"])["condition"] != "works" {
        assert!(began.elapsed() < PATIENCE, "it is not found again");
    }
    let text = served.done(&["status"]);
    assert!(text.contains(&format!("STOPPED: the host stop {stop} is latched")), "{text}");
    served.refused(1, &["run", "test/conduct", "--task", "move: 0.1"], &format!("waza ctl reset {stop}"));
    let mut observer = bench.observer();
    let rest = until(&mut observer, |status| status.watchdog_since.is_none());
    let later = until(&mut observer, |status| status.ticks > rest.ticks + 50);
    assert_eq!(
        (&later.commanded[..], later.stops),
        (&arm::HOME[..], stop),
        "the new one has not moved, and keeps the stop"
    );
    served.done(&["reset", &stop.to_string()]);
    served.done_at_last(&["run", "test/conduct", "--task", "move: 0.1"]);
    served.signal("TERM");
    assert_eq!(served.ended(), Some(0));
    gone(pid);
}

#[test]
fn a_robot_whose_process_is_somebody_elses_and_was_killed_is_said_to_be_gone() {
    let bench = Bench::new();
    let socket = bench.path("own/link");
    let mut link = std::process::Command::new(env!("CARGO_BIN_EXE_waza"));
    link.args(["link", "sim:tabletop", "--socket", &socket]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut link = link.spawn().unwrap();
    let served = Served::start(Path::new(&bench.path("skills")), &["--robot", &format!("link:{socket}")]);
    assert_eq!(served.json(&["status"])["armed"], true);
    link.kill().unwrap();
    link.wait().unwrap();
    served.line("the robot's link is down");
    assert_eq!(served.json(&["status"])["armed"], false);
    let text = served.done(&["status"]);
    assert!(text.contains("LINK DOWN") && !text.contains("armed"), "{text}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_takes_no_checkpoint_ends_no_run_and_leaves_the_one_before_whole() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};

    let bench = Bench::new();
    package(Path::new(&bench.path("skills")), "relay");
    let mut served = Served::of(
        // A file that may not grow is a write that fails, not a signal.
        shell("trap '' XFSZ", &command(Path::new(&bench.path("skills")), &["--state", &bench.path("state")])),
        Stdio::piped(),
    );
    let log = std::io::BufReader::new(served.child.stderr.take().unwrap());
    let run =
        served.json(&["run", "test/relay", "--task", "count", "--parameters", "100000", "--detach"])["id"].to_string();
    let events = |kind: &str| served.json(&["runs", &run])["events"][kind].as_u64().unwrap_or(0);
    let wait = |kind: &str| {
        let began = Instant::now();
        while events(kind) == 0 {
            assert!(began.elapsed() < PATIENCE, "no {kind}");
        }
    };
    wait("checkpoint");
    let full = Rlimit { current: Some(0), maximum: None };
    prlimit(Some(Pid::from_child(&served.child)), Resource::Fsize, full).unwrap();
    // The skill says what it was told, and goes on.
    wait("log");
    let kept = events("checkpoint");
    assert_eq!(served.json(&["runs", &run])["state"], "running");
    let line = log.lines().map(Result::unwrap).find(|line| line.contains("could not be kept")).unwrap();
    assert!(line.contains("skill=test/relay") && line.contains("the one before still is"), "{line}");
    served.child.kill().unwrap();
    served.child.wait().unwrap();
    let left: Vec<_> =
        std::fs::read_dir(bench.path("state/runs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [file] = left.as_slice() else { panic!("there is more than the run's file: {left:?}") };
    let state = waza_runtime::Interrupted::read(file).unwrap().request.resume.unwrap();
    assert_eq!(u64::from(u32::from_le_bytes(state.try_into().unwrap())), kept);

    let second = bench.serve(&[]);
    second.done(&["resume", &run]);
    second.done(&["kill", &run]);
}

#[test]
fn a_robot_that_is_another_than_the_one_that_was_left_is_held_anew() {
    let bench = Bench::new();
    let mut first = bench.serve(&["--seed", "3"]);
    let (_, before) = holder(&first);
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let mut second = bench.serve(&["--seed", "4"]);
    let (line, pid) = holder(&second);
    assert!(pid != before && !line.contains("left it"), "{line}");
    gone(before);
    second.done_at_last(&["run", "test/conduct", "--task", "move: 0.1"]);
    second.signal("INT");
    assert_eq!(second.ended(), Some(0));
    gone(pid);
}

/// Drives the shoulder as far as it goes, past every limit that a host keeps, and says where the robot was sent.
fn drive_out(socket: &Path) -> f32 {
    let robot = Arc::new(Embodiment::so101());
    let mut link = RemoteLink::connect(socket, robot, PATIENCE).unwrap();
    let mut there = link.read().unwrap().joints.positions;
    there[0] = 1.0;
    for _ in 0..200 {
        link.write(&there).unwrap();
        link.read().unwrap();
    }
    drop(link);
    Observer::connect(socket).unwrap().status().unwrap().commanded[0]
}

#[test]
fn the_process_that_holds_the_robot_keeps_the_limits_of_the_site_by_itself_and_one_with_others_is_replaced() {
    let bench = Bench::new();
    let site = bench.path("site.toml");
    let limit = |position: f32| {
        let text = format!("[[joints]]\nname = \"shoulder_pan\"\nposition = [-{position}, {position}]\n");
        std::fs::write(&site, text).unwrap();
    };
    limit(0.3);
    let mut first = bench.serve(&["--site", &site]);
    let (_, before) = holder(&first);
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let socket = bench.path("state/link/robot");
    assert_eq!(drive_out(Path::new(&socket)), 0.3);
    // The same is found again.
    let mut second = bench.serve(&["--site", &site]);
    assert_eq!(holder(&second).1, before);
    second.child.kill().unwrap();
    second.child.wait().unwrap();
    limit(0.2);
    let mut third = bench.serve(&["--site", &site]);
    let (line, pid) = holder(&third);
    assert!(pid != before && !line.contains("left it"), "{line}");
    gone(before);
    third.child.kill().unwrap();
    third.child.wait().unwrap();
    assert_eq!(drive_out(Path::new(&socket)), 0.2);
    assert!(kill("TERM", pid));
}

#[test]
fn whatever_a_file_beside_the_socket_says_only_the_process_behind_it_is_ended() {
    let bench = Bench::new();
    let mut first = bench.serve(&["--seed", "3"]);
    let (_, before) = holder(&first);
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let lie = format!(
        r#"{{"pid":{},"robot":"sim:tabletop","seed":3,"version":"{}"}}"#,
        other.id(),
        env!("CARGO_PKG_VERSION")
    );
    std::fs::write(bench.path("state/link/robot.json"), lie).unwrap();
    let second = bench.serve(&["--seed", "4"]);
    assert!(holder(&second).1 != before);
    gone(before);
    assert!(other.try_wait().unwrap().is_none(), "another process was ended");
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn without_a_state_folder_a_process_holds_the_robot_too_and_ends_with_its_host() {
    let bench = Bench::new();
    let mut served = Served::start(Path::new(&bench.path("skills")), &[]);
    let (_, pid) = holder(&served);
    assert!(kill("0", pid));
    served.signal("TERM");
    assert_eq!(served.ended(), Some(0));
    gone(pid);
}

#[test]
fn a_host_that_does_not_come_to_serve_leaves_nobody_behind() {
    let bench = Bench::new();
    let (state, taken) = (bench.path("state"), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let address = taken.local_addr().unwrap().to_string();
    let why = bench.refused(&["--state", &state, "--listen", &address]);
    assert!(why.contains("--listen"), "{why}");
    assert!(!Path::new(&bench.path("state/link/robot")).exists());
}

#[test]
fn a_state_folder_that_another_host_uses_is_refused_before_its_robot_is_touched() {
    let bench = Bench::new();
    let first = bench.serve(&[]);
    let why = bench.refused(&["--state", &bench.path("state"), "--seed", "9"]);
    assert!(why.contains("another host uses it") && why.contains("--state"), "{why}");
    assert_eq!(bench.observer().status().unwrap().watchdog_since, None);
    first.done_at_last(&["run", "test/conduct", "--task", "move: 0.1"]);
}

#[test]
fn a_path_that_no_socket_can_have_is_refused_with_a_way_out() {
    let bench = Bench::new();
    let why = bench.refused(&["--state", &bench.path(&"long".repeat(30))]);
    assert!(why.contains("too long for a socket") && why.contains("--in-process"), "{why}");
}

#[test]
fn a_robot_that_is_kept_in_the_process_says_that_nobody_holds_it() {
    let bench = Bench::new();
    let served = bench.serve(&["--in-process"]);
    assert!(served.begun.iter().any(|line| line.contains("by this process alone")), "{:?}", served.begun);
    assert!(!Path::new(&bench.path("state/link")).exists());
}

#[test]
fn a_link_that_nobody_comes_back_to_ends() {
    let bench = Bench::new();
    let socket = bench.path("own/link");
    let mut link = std::process::Command::new(env!("CARGO_BIN_EXE_waza"));
    link.args(["link", "sim:tabletop", "--linger", "0", "--socket", &socket]).stdout(Stdio::null());
    assert!(link.status().unwrap().success());
}
