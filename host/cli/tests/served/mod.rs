//! `waza serve` as a process, and `waza ctl` beside it.

#![allow(dead_code, reason = "not every test needs all of it")]

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

#[path = "../../../runtime/tests/packages/mod.rs"]
pub mod packages;

/// Far longer than anything here takes, for a machine under load.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct Served {
    pub child: Child,
    lines: Receiver<String>,
    pub address: String,
    /// What it said until it was armed and had looked at every package.
    pub begun: Vec<String>,
}

impl Drop for Served {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // In order: what holds the robot ends with it.
            kill("TERM", self.child.id());
            let began = Instant::now();
            while matches!(self.child.try_wait(), Ok(None)) && began.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        end(&mut self.child);
    }
}

/// On a free port.
pub fn command(skills: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waza"));
    command.args(["serve", "--device", "cpu", "--listen", "127.0.0.1:0", "--skills"]).arg(skills).args(options);
    // In a group of its own, as a terminal's job is.
    command.stdin(Stdio::null()).process_group(0);
    command
}

/// The same, by a shell that does something first.
pub fn shell(first: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{first}; exec \"$0\" \"$@\"")]).arg(command.get_program()).args(command.get_args());
    shell.stdin(Stdio::null()).process_group(0);
    shell
}

/// Says whether there was such a process; of a number below zero, such a group of processes.
pub fn kill(signal: &str, pid: impl std::fmt::Display) -> bool {
    let kill = format!("kill -{signal} {pid} 2>/dev/null");
    Command::new("sh").args(["-c", &kill]).status().unwrap().success()
}

pub fn end(child: &mut Child) {
    // It may have ended already.
    let _ = child.kill();
    let _ = child.wait();
}

impl Served {
    pub fn start(skills: &Path, options: &[&str]) -> Self {
        Self::logging(skills, options, Stdio::null())
    }

    pub fn logging(skills: &Path, options: &[&str], log: Stdio) -> Self {
        Self::of(command(skills, options), log)
    }

    pub fn of(mut command: Command, log: Stdio) -> Self {
        let skills = command.get_args().skip_while(|it| *it != "--skills").nth(1).map(std::path::PathBuf::from);
        let skills = skills.and_then(|skills| std::fs::read_dir(skills).ok()).into_iter().flatten();
        let packages =
            skills.filter(|entry| entry.as_ref().is_ok_and(|it| it.path().join("skill.toml").exists())).count();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let (sender, lines) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut served = Self { child, lines, address: String::new(), begun: Vec::new() };
        let said = |begun: &[String], what: &str| begun.iter().filter(|line| line.starts_with(what)).count();
        let is_ready =
            |begun: &[String]| said(begun, "armed") > 0 && said(begun, "loaded ") + said(begun, "refused ") >= packages;
        while !is_ready(&served.begun) {
            let line = served.lines.recv_timeout(PATIENCE).expect("it does not arm");
            if let Some(address) = line.strip_prefix("listening on ") {
                served.address = address.into();
            }
            served.begun.push(line);
        }
        served
    }

    /// The next line that begins like this.
    pub fn line(&self, begins: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line begins with {begins:?}"));
            if line.starts_with(begins) {
                return line;
            }
        }
    }

    pub fn ctl(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_waza"))
            .args(["ctl", "--host", &self.address])
            .args(arguments)
            .output()
            .unwrap()
    }

    #[track_caller]
    pub fn done(&self, arguments: &[&str]) -> String {
        let output = self.ctl(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    pub fn refused(&self, code: i32, arguments: &[&str], expected: &str) {
        let output = self.ctl(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(expected), "{expected:?} is missing in: {stderr}");
    }

    /// Waits for it to be done: a machine under load may need several tries.
    #[track_caller]
    pub fn done_at_last(&self, arguments: &[&str]) {
        let began = Instant::now();
        while !self.ctl(arguments).status.success() {
            assert!(began.elapsed() < PATIENCE, "it is never done");
        }
    }

    /// Waits for a run to come to a state.
    #[track_caller]
    pub fn reaches(&self, run: &str, state: &str) {
        let began = Instant::now();
        while self.json(&["runs", run])["state"] != state {
            assert!(began.elapsed() < PATIENCE, "it does not come to be {state}");
        }
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.done(&[arguments, &["--json"]].concat())).unwrap()
    }

    pub fn signal(&self, name: &str) {
        assert!(kill(name, self.child.id()));
    }

    /// Waits for the end; the exit code.
    pub fn ended(&mut self) -> Option<i32> {
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

/// Copies one of the runtime's test skills into a folder.
pub fn package(skills: &Path, guest: &str) {
    let permissions = ["sensing", "model", "motion:body", "operator", "durable", "skills:test/conduct"];
    packages::package(&skills.join(guest), &packages::manifest(guest, &permissions), &packages::component(guest));
}
