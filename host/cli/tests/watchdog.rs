//! What holds the robot of `waza serve` when that dies.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used)] // in helpers of tests

mod served;

use std::io::BufRead;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use served::{PATIENCE, Served, command, kill, package, shell};
use tempfile::TempDir;
use waza_robot::bridge::{Observer, RemoteLink, Status};
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
    let robot = std::sync::Arc::new(Embodiment::so101());
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
