//! LeRobot's own SmolVLA in a process of its own, asked for one measured request at a time.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

const SERVER: &str = include_str!("../../model/training/bench_lerobot.py");

/// What LeRobot is asked for.
pub struct Request<'a> {
    pub checkpoint: &'a Path,
    /// The checkpoint has no weights.
    pub random: bool,
    pub instruction: &'a str,
    pub cameras: usize,
    pub threads: usize,
    /// On a CUDA device instead of the CPU.
    pub cuda: bool,
    /// Through `torch.compile`.
    pub compiled: bool,
}

/// A LeRobot that is loaded and warm.
pub struct Lerobot {
    /// What it says of itself.
    pub about: Ready,
    process: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    complaints: File,
}

#[derive(Debug, Deserialize)]
pub struct Ready {
    pub lerobot: String,
    pub threads: usize,
    pub device: String,
}

#[derive(Deserialize)]
struct Answer {
    ms: f64,
}

impl Lerobot {
    /// Starts `python` and waits until LeRobot is ready, which takes it the better part of a minute.
    pub fn start(python: &Path, request: &Request) -> Result<Self> {
        let place = python.display();
        let present = Command::new(python).args(["-c", "import lerobot"]).stdin(Stdio::null()).output();
        if !present.is_ok_and(|output| output.status.success()) {
            bail!(
                "this Python has no LeRobot: {place}: install `lerobot[smolvla]`, or name another Python with --python"
            );
        }
        let complaints = tempfile::tempfile().context("making a file for what LeRobot says")?;
        let mut command = Command::new(python);
        command
            .args(["-c", SERVER])
            .arg(request.checkpoint)
            .args(["--instruction", request.instruction])
            .args(["--cameras", &request.cameras.to_string()])
            .args(["--threads", &request.threads.to_string()])
            .args(["--device", if request.cuda { "cuda" } else { "cpu" }])
            .args(request.random.then_some("--random"))
            .args(request.compiled.then_some("--compile"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(complaints.try_clone()?);
        let mut process = command.spawn().with_context(|| format!("starting {place}"))?;
        let (questions, answers) = (process.stdin.take(), process.stdout.take());
        let answers = BufReader::new(answers.context("LeRobot has no output")?);
        let about = Ready { lerobot: String::new(), threads: 0, device: String::new() };
        let mut lerobot = Self { about, process, questions, answers, complaints };
        lerobot.about = lerobot.answer()?;
        Ok(lerobot)
    }

    /// Measures one request.
    pub fn run(&mut self) -> Result<Duration> {
        let asked = self.questions.as_mut().is_some_and(|questions| questions.write_all(b"run\n").is_ok());
        if !asked {
            return Err(self.failed("it takes no requests"));
        }
        let Answer { ms } = self.answer()?;
        Ok(Duration::from_secs_f64(ms / 1e3))
    }

    fn answer<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(0) | Err(_) => Err(self.failed("it gave no answer")),
            Ok(_) => serde_json::from_str(&line).with_context(|| format!("reading LeRobot's answer {line:?}")),
        }
    }

    /// An error with the end of what it said.
    fn failed(&mut self, cause: &str) -> anyhow::Error {
        let mut said = String::new();
        let read = self.complaints.rewind().and_then(|()| self.complaints.read_to_string(&mut said));
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).filter(|_| read.is_ok());
        anyhow!("LeRobot failed: {cause}; the last it said was {:?}", last.unwrap_or_default())
    }
}

impl Drop for Lerobot {
    fn drop(&mut self) {
        // It ends with its input.
        self.questions = None;
        let _ = self.process.wait();
    }
}
