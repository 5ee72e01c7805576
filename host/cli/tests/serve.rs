//! `waza serve` and `waza ctl`, the real programs over real HTTP.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used)] // in helpers of tests

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Far longer than anything here takes, for a machine under load.
const PATIENCE: Duration = Duration::from_secs(120);

struct Served {
    child: Child,
    lines: Receiver<String>,
    address: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        // It has ended already where a test did not fail.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Served {
    fn start(skills: &Path, options: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_waza"))
            .args(["serve", "--device", "cpu", "--listen", "127.0.0.1:0", "--skills"])
            .arg(skills)
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut served = Self { child, lines, address: String::new() };
        served.address = served.line("listening on ").split_off("listening on ".len());
        served.line("armed");
        served
    }

    /// The next line that begins like this.
    fn line(&self, begins: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line begins with {begins:?}"));
            if line.starts_with(begins) {
                return line;
            }
        }
    }

    fn ctl(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_waza"))
            .args(["ctl", "--host", &self.address])
            .args(arguments)
            .output()
            .unwrap()
    }

    #[track_caller]
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.ctl(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn refused(&self, code: i32, arguments: &[&str], expected: &str) {
        let output = self.ctl(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(expected), "{expected:?} is missing in: {stderr}");
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.done(&[arguments, &["--json"]].concat())).unwrap()
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Waits for the end; the exit code.
    fn ended(&mut self) -> Option<i32> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not end");
    }
}

/// The runtime's test skill that does as its instruction says.
fn conduct() -> PathBuf {
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/tests/guests");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--locked", "--target", "wasm32-wasip2", "-p", "conduct", "--target-dir"]);
    // What the host is built with must not leak into the guests.
    cargo.arg(&target).current_dir(guests).env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    let built = cargo.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    target.join("wasm32-wasip2/release/conduct.wasm")
}

fn package(skills: &Path, component: &Path) {
    let folder = skills.join("conduct");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(component, folder.join("conduct.wasm")).unwrap();
    let manifest = "id = \"test/conduct\"\nversion = \"0.1.0\"\nwit = \"0.1.0\"\ncomponent = \"conduct.wasm\"\n\
                    permissions = [\"sensing\", \"model\", \"motion:body\", \"operator\", \"durable\", \
                    \"skills:test/conduct\"]\n";
    std::fs::write(folder.join("skill.toml"), manifest).unwrap();
}

#[test]
fn a_served_robot_takes_packages_while_it_works_and_is_operated_with_ctl() {
    let component = conduct();
    let folder = tempfile::tempdir().unwrap();
    let (skills, state) = (folder.path().join("skills"), folder.path().join("state"));
    std::fs::create_dir(&skills).unwrap();
    let mut served = Served::start(&skills, &["--state", state.to_str().unwrap()]);
    let sources = served.json(&["status"])["stop_sources"].clone();
    let names: Vec<_> = sources.as_array().unwrap().iter().map(|source| source["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["signal", "http", &format!("file:{}", state.join("STOP").display())]);

    package(&skills, &component);
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
    served.line(&format!("run {run} failed"));
    served.refused(1, &["reset", "3"], "waza ctl reset 1");
    served.done(&["reset", "1"]);
    assert_eq!(served.json(&["status"])["stopped"], Value::Null);

    served.json(&["run", "test/conduct", "--task", "keep moving", "--detach"]);
    served.signal("TERM");
    assert_eq!(served.ended(), Some(0));
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
        (&["--skills", skills, "--token", token.to_str().unwrap()], "16"),
        (&["--skills", skills, "--robot", "sim:moon"], "sim:tabletop"),
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
fn where_no_host_answers_ctl_says_how_to_start_one() {
    for (host, code, expected) in [("http://127.0.0.1:1", 1, "waza serve"), ("127.0.0.1:7373", 2, "--host")] {
        let ctl = Command::new(env!("CARGO_BIN_EXE_waza")).args(["ctl", "status", "--host", host]).output().unwrap();
        let stderr = String::from_utf8(ctl.stderr).unwrap();
        assert_eq!(ctl.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(expected) && stderr.lines().count() == 1, "{stderr}");
    }
}
