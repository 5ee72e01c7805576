//! `waza serve` and `waza ctl`, the real programs over real HTTP.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used)] // in helpers of tests

mod served;

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::Value;
use served::{PATIENCE, Served, end, kill, package, packages};

/// A link's process, which outlives its hosts but not its test.
struct Linked(Child);

impl Drop for Linked {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

#[test]
fn a_served_robot_takes_packages_while_it_works_and_is_operated_with_ctl() {
    let folder = tempfile::tempdir().unwrap();
    let (skills, state) = (folder.path().join("skills"), folder.path().join("state"));
    std::fs::create_dir(&skills).unwrap();
    let mut served = Served::start(&skills, &["--state", state.to_str().unwrap()]);
    let sources = served.json(&["status"])["stop_sources"].clone();
    let names: Vec<_> = sources.as_array().unwrap().iter().map(|source| source["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["signal", "http", &format!("file:{}", state.join("STOP").display())]);

    package(&skills, "conduct");
    served.line("loaded test/conduct 0.1.0");
    assert_eq!(served.done(&["skills"]), "test/conduct 0.1.0\n");
    assert!(served.done(&["run", "test/conduct", "--task", "say: hello"]).contains("succeeded"));
    served.refused(1, &["run", "test/conduct", "--task", "panic"], "on purpose");
    served.refused(2, &["run", "no/such", "--task", "panic"], "loaded are test/conduct");

    std::fs::create_dir(skills.join("bad")).unwrap();
    std::fs::write(skills.join("bad/skill.toml"), "id = 7").unwrap();
    served.line("refused ");
    assert!(served.done(&["skills"]).contains("bad: "), "the reason is in sight");

    let run = served.json(&["run", "test/conduct", "--task", "keep moving", "--detach"])["id"].to_string();
    served.signal("USR1");
    served.line("the host stop 1 is latched");
    served.refused(1, &["run", "test/conduct", "--task", "say: no"], "waza ctl reset 1");
    served.reaches(&run, "failed");
    served.refused(1, &["reset", "3"], "waza ctl reset 1");
    served.done(&["reset", "1"]);
    assert_eq!(served.json(&["status"])["stopped"], Value::Null);

    served.json(&["run", "test/conduct", "--task", "keep moving", "--detach"]);
    served.signal("TERM");
    assert_eq!(served.ended(), Some(0));
}

#[test]
fn the_log_has_the_words_of_skills_without_their_power_over_a_terminal_and_nothing_where_it_is_off() {
    let folder = tempfile::tempdir().unwrap();
    let (skills, log) = (folder.path().join("skills"), folder.path().join("log"));
    std::fs::create_dir(&skills).unwrap();
    package(&skills, "conduct");
    let say = ["run", "test/conduct", "--task", "say: \u{1b}[2Jhello"];
    let logged = |options: &[&str]| {
        let mut served = Served::logging(&skills, options, std::fs::File::create(&log).unwrap().into());
        let followed = String::from_utf8(served.ctl(&say).stderr).unwrap();
        assert!(followed.contains("\\u{1b}[2Jhello\nand to standard error\n"), "{followed:?}");
        served.signal("TERM");
        assert_eq!(served.ended(), Some(0));
        std::fs::read_to_string(&log).unwrap()
    };
    let text = logged(&[]);
    let line = text.lines().find(|line| line.contains("hello")).unwrap();
    assert!(line.contains("INFO skill: ") && line.contains("run=1 skill=test/conduct"), "{line:?}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
    assert_eq!(logged(&["--log", "off"]), "");
}

#[test]
fn who_does_not_read_the_log_keeps_the_robot_from_nothing() {
    let folder = tempfile::tempdir().unwrap();
    package(folder.path(), "conduct");
    // The pipe is full long before two runs have said what they have to say.
    let mut served = Served::logging(folder.path(), &["--log", "trace"], Stdio::piped());
    for _ in 0..2 {
        let run = served.json(&["run", "test/conduct", "--task", "chatter", "--detach"])["id"].to_string();
        served.reaches(&run, "succeeded");
    }
    let moving = served.json(&["run", "test/conduct", "--task", "keep moving", "--detach"])["id"].to_string();
    served.done(&["stop"]);
    served.reaches(&moving, "failed");
    served.done(&["reset", "1"]);
    served.done(&["run", "test/conduct", "--task", "move: 0.1"]);
    served.signal("TERM");
    assert_eq!(served.ended(), Some(0));
}

#[test]
fn a_version_that_takes_over_from_another_is_told_where_the_host_runs_and_where_the_run_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let load = |version: &str, conduct: &str| {
        let manifest = packages::manifest("relay", &["sensing", "model", "motion:body", "durable"]);
        let manifest = manifest.replace("version = \"0.1.0\"", &format!("version = \"{version}\""));
        packages::package(&folder.path().join("relay"), &manifest, &packages::relay(conduct));
    };
    load("0.1.0", "steady");
    let served = Served::start(folder.path(), &[]);
    let run =
        served.json(&["run", "test/relay", "--task", "count", "--parameters", "3000", "--detach"])["id"].to_string();
    assert!(served.done(&["runs", &run]).starts_with(&format!("{run} test/relay 0.1.0 \"count\"")));
    load("0.2.0", "panic later");
    let line = served.line(&format!("run {run}: "));
    assert!(line.starts_with(&format!("run {run}: test/relay 0.2.0 goes on in place of 0.1.0, ")), "{line}");
    let line = served.line(&format!("run {run}: "));
    assert!(line.contains("test/relay 0.1.0 goes on again, 0.2.0 did not prove itself: "), "{line}");
    assert!(served.line("quarantined test/relay 0.2.0").contains("`waza ctl pardon test/relay`"));
    load("0.3.0", "steady again");
    served.line(&format!("run {run}: test/relay 0.3.0 goes on in place of 0.1.0, "));
    assert!(served.done(&["runs", &run]).starts_with(&format!("{run} test/relay 0.3.0 ")));
    served.done(&["kill", &run]);
    served.reaches(&run, "failed");
}

#[test]
fn a_run_of_a_host_that_was_killed_waits_until_it_is_resumed_and_nothing_moves_before() {
    goes_on_after("KILL");
}

#[test]
fn a_run_of_a_host_that_was_told_to_leave_waits_as_well() {
    goes_on_after("TERM");
}

fn goes_on_after(signal: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (skills, state) = (folder.path().join("skills"), folder.path().join("state"));
    std::fs::create_dir(&skills).unwrap();
    package(&skills, "relay");
    let options = ["--state", state.to_str().unwrap()];
    let mut first = Served::start(&skills, &options);
    let count = ["run", "test/relay", "--task", "count", "--parameters", "30", "--detach"];
    let run = first.json(&count)["id"].to_string();
    let began = Instant::now();
    while first.json(&["runs", &run])["events"]["checkpoint"].as_u64().is_none() {
        assert!(began.elapsed() < PATIENCE, "it leaves no checkpoint");
    }
    first.signal(signal);
    first.ended();

    let mut second = Served::start(&skills, &options);
    let offer = format!("`waza ctl resume {run}`");
    assert!(second.begun.iter().any(|line| line.contains(&offer)), "{:?}", second.begun);
    assert_eq!(second.json(&["runs", &run])["state"], "interrupted");
    assert_eq!(second.json(&["status"])["running"], 0, "nothing goes on by itself");
    second.done(&["resume", &run]);
    second.reaches(&run, "succeeded");
    let ended = second.json(&["runs", &run]);
    let data = ended["outcome"]["data"].as_str().unwrap();
    assert!(data.ends_with("to 30") && !data.contains("from 0 "), "{data}");
    second.refused(2, &["resume", &run], "waza ctl runs");
    second.signal("INT");
    assert_eq!(second.ended(), Some(0));
}

#[test]
fn a_robot_behind_a_link_is_served_again_after_its_host_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (skills, socket) = (folder.path().join("skills"), folder.path().join("own/link"));
    std::fs::create_dir(&skills).unwrap();
    package(&skills, "conduct");
    let link = Command::new(env!("CARGO_BIN_EXE_waza"))
        .args(["link", "sim:tabletop", "--socket"])
        .arg(&socket)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _link = Linked(link.unwrap());
    let robot = format!("link:{}", socket.display());
    let mut first = Served::start(&skills, &["--robot", &robot]);
    first.done_at_last(&["run", "test/conduct", "--task", "move: 0.2"]);
    first.child.kill().unwrap();
    first.child.wait().unwrap();

    let mut second = Served::start(&skills, &["--robot", &robot]);
    second.done_at_last(&["run", "test/conduct", "--task", "move: 0.1"]);
    second.signal("TERM");
    assert_eq!(second.ended(), Some(0));
}

#[test]
fn a_run_that_asks_for_it_is_recorded_and_can_be_replayed_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let (skills, records) = (folder.path().join("skills"), folder.path().join("records"));
    std::fs::create_dir(&skills).unwrap();
    package(&skills, "conduct");
    let served = Served::start(&skills, &["--records", records.to_str().unwrap()]);
    let ask = ["run", "test/conduct", "--task", "move: 0.1", "--record"];
    let said = served.done(&ask);
    let first = records.join("test-conduct-1.mcap");
    assert!(said.trim_end().ends_with(&format!("; its record is {}", first.display())), "{said}");
    served.done(&["run", "test/conduct", "--task", "move: 0.1"]);
    let second = served.json(&ask)["record"].as_str().unwrap().to_owned();
    assert_eq!(second, records.join("test-conduct-2.mcap").to_str().unwrap());
    for record in [first.to_str().unwrap(), &second] {
        let replayed = Command::new(env!("CARGO_BIN_EXE_waza")).args(["replay", "--json", record]).output().unwrap();
        let said: Value = serde_json::from_slice(&replayed.stdout).unwrap();
        assert_eq!((&said["same"], &said["cut"]), (&true.into(), &Value::Null), "{said}");
        assert!(said["calls"].as_u64().unwrap() > 1, "{said}");
    }
    assert_eq!(std::fs::read_dir(&records).unwrap().count(), 2);

    // Without a record, nothing begins.
    std::fs::remove_dir_all(&records).unwrap();
    served.refused(1, &ask, "test-conduct-1.mcap");
    let without = Served::start(&skills, &[]);
    without.refused(1, &ask, "serve with --records FOLDER");
}

#[test]
fn a_stop_that_others_who_connect_have_pushed_out_is_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(folder.path(), &[]);
    let front = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, host) = (front.local_addr().unwrap(), served.address.strip_prefix("http://").unwrap().to_owned());
    // Breaks three connections off, as the host does with the oldest of too many.
    let between = std::thread::spawn(move || {
        for _ in 0..3 {
            drop(front.accept().unwrap());
        }
        let (mut caller, mut host) = (front.accept().unwrap().0, TcpStream::connect(host).unwrap());
        let (mut asks, mut hears) = (caller.try_clone().unwrap(), host.try_clone().unwrap());
        // The other way ends first, and with it the connection.
        std::thread::spawn(move || std::io::copy(&mut asks, &mut hears));
        std::io::copy(&mut host, &mut caller).unwrap();
    });
    let ctl =
        Command::new(env!("CARGO_BIN_EXE_waza")).args(["ctl", "stop", "--host", &format!("http://{address}")]).output();
    let stderr = String::from_utf8(ctl.unwrap().stderr).unwrap();
    assert_eq!(stderr, "");
    between.join().unwrap();
    assert!(served.json(&["status"])["stopped"].is_u64());
}

#[test]
fn what_cannot_be_served_is_refused_with_a_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let skills = folder.path().to_str().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "short").unwrap();
    for (arguments, expected) in [
        (&["--skills", "no-such-folder"][..], "--skills"),
        (&["--skills", skills, "--stop", "key", "--listen", "127.0.0.1:0"], "standard input is no terminal"),
        (&["--skills", skills, "--stop", "button"], "file:PATH"),
        (&["--skills", skills, "--listen", "0.0.0.0:0"], "--token"),
        (&["--skills", skills, "--token", token.to_str().unwrap()], "chmod 600"),
        (&["--skills", skills, "--robot", "sim:moon"], "sim:tabletop"),
        (&["--skills", skills, "--site", "no-such-site.toml"], "no-such-site.toml"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_waza"))
            .args(["serve", "--device", "cpu"])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(expected), "{expected:?} is missing in: {stderr}");
    }
}

#[test]
fn a_host_that_hangs_while_it_leaves_is_ended_by_a_second_signal() {
    let folder = tempfile::tempdir().unwrap();
    let mut served = Served::start(folder.path(), &[]);
    let holder = served.begun.iter().find_map(|line| line.strip_prefix("the robot is held by process ")).unwrap();
    let holder: u32 = holder.split([' ', ':', ',']).next().unwrap().parse().unwrap();
    // Who leaves waits for it to end, and it does nothing.
    assert!(kill("STOP", holder));
    served.signal("INT");
    served.line("leaving");
    served.signal("INT");
    let ended = served.ended();
    assert!(kill("KILL", holder));
    assert_eq!(ended, Some(130));
}

#[test]
fn where_no_host_answers_ctl_says_how_to_start_one() {
    for (host, code, expected) in [("http://127.0.0.1:1", 1, "waza serve"), ("127.0.0.1:7373", 2, "--host")] {
        let ctl = Command::new(env!("CARGO_BIN_EXE_waza")).args(["ctl", "status", "--host", host]).output().unwrap();
        let stderr = String::from_utf8(ctl.stderr).unwrap();
        assert_eq!(ctl.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(expected) && stderr.lines().count() == 1, "{stderr}");
    }
}
