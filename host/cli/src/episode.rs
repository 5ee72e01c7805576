//! One episode: a fresh robot over the scene of a seed, a skill that is told what to do, and the simulator's judge.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};
use waza_model::ModelHandle;
use waza_record::{WriteError, Written};
use waza_robot::sim::scene::Colour;
use waza_robot::sim::{Scene, SceneSpec, Simulator, Task, Verdict, arm};
use waza_robot::{Embodiment, Guard, Link, Pace, Reply, Robot, RobotOptions};
use waza_runtime::{Event, Host, HostOptions, Layout, Outcome, SkillError, TaskRequest};

use crate::compiler;
use crate::fault::OrBadInput;
use crate::film::{Filmed, Reel};
use crate::recording::Recording;
use crate::report::EpisodeReport;

/// Robot time between the end of a run and the verdict, for things to come to rest, s.
const SETTLE_S: f32 = 1.0;

/// What all episodes share.
pub struct Stage {
    pub embodiment: Arc<Embodiment>,
    pub model: ModelHandle,
    pub pace: Pace,
    pub guard: Guard,
}

/// What is asked for in one episode.
pub struct Job {
    /// Draws the scene, the model's noise and the skill's random numbers.
    pub seed: u64,
    /// What the skill is told.
    pub instruction: String,
    /// JSON; may be empty.
    pub parameters: String,
    /// Where the run is recorded, if it is.
    pub record: Option<PathBuf>,
}

/// How an episode ended.
pub struct Ended {
    pub outcome: Result<Outcome, SkillError>,
    pub report: EpisodeReport,
    /// What was recorded, if anything was to be.
    pub recorded: Option<Result<Written, WriteError>>,
}

/// A task for the scene of a seed, and words for it: one of the blocks, and one of the ways to say it.
pub fn draw_task(task_of: fn(Colour) -> Task, seed: u64) -> (Task, String) {
    let scene = Scene::draw(&SceneSpec::tabletop(), seed);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    // Not the numbers that drew the scene.
    random.set_stream(1);
    let task = task_of(scene.blocks[random.random_range(0..scene.blocks.len())].colour);
    let phrases: Vec<String> = task.phrases().collect();
    (task, phrases.choose(&mut random).cloned().unwrap_or_default())
}

impl Stage {
    /// A host for a fresh robot behind this link.
    fn host(&self, link: impl Link + 'static) -> Result<Host> {
        let options = RobotOptions { pace: self.pace, kinematics: Box::new(arm::tool_position), guard: self.guard };
        let robot = Robot::start(self.embodiment.clone(), Box::new(link), options).context("starting the robot")?;
        let options = HostOptions {
            cache: compiler::cache(),
            compiler: compiler::compiler(),
            // What a user builds.
            layout: Layout::BuildTree,
            ..HostOptions::default()
        };
        Host::new(robot, self.model.clone(), options).or_bad_input()
    }

    /// Runs the skill in `folder` once. What the cameras see goes onto the reel.
    pub fn run(
        &self,
        folder: &Path,
        job: &Job,
        reel: Reel,
        events: impl Fn(&Event) + Send + Sync + 'static,
    ) -> Result<Ended> {
        let scene = Scene::draw(&SceneSpec::tabletop(), job.seed);
        let simulator = Simulator::with_scene(self.embodiment.clone(), &scene);
        let link = Filmed::new(simulator.clone(), self.embodiment.control_hz, reel);
        let host = self.host(link)?;
        let robot = host.robot().clone();
        let skill = host.load(folder).or_bad_input()?;

        let model = Arc::new(Mutex::new(Vec::new()));
        let answers = model.clone();
        let listen = move |event: Event| {
            if let Event::Inference { elapsed } = &event {
                answers.lock().push(*elapsed);
            }
            events(&event);
        };
        let request = TaskRequest {
            instruction: job.instruction.clone(),
            parameters: job.parameters.clone(),
            seed: job.seed,
            ..TaskRequest::default()
        };
        let recording = match &job.record {
            Some(path) => Some(Arc::new(Recording::start(path, folder, &request, &host)?)),
            None => None,
        };
        let running = match &recording {
            Some(recording) => host.record(skill.as_str(), request, listen, recording.clone()),
            None => host.run(skill.as_str(), request, listen),
        };
        let Reply { value: outcome, hold } = pollster::block_on(running);

        let end = robot.tick();
        let control_hz = self.embodiment.control_hz;
        let rest = robot.reach(end + (SETTLE_S * control_hz) as u64);
        drop(hold);
        // Robot time stands still from here on.
        let rested = pollster::block_on(rest);
        rested.value.context("waiting for the robot to come to rest")?;

        let verdict = Task::parse(&job.instruction).ok().map(|task| simulator.judge(task));
        let statistics = robot.statistics();
        let said = match &outcome {
            Ok(outcome) => outcome.summary.clone(),
            Err(error) => error.to_string(),
        };
        let report = EpisodeReport {
            skill: skill.to_string(),
            seed: job.seed,
            instruction: job.instruction.clone(),
            verdict: verdict.map_or("not judged".into(), |verdict| verdict.to_string()),
            success: verdict == Some(Verdict::Success),
            said,
            seconds: end as f64 / f64::from(control_hz),
            model: std::mem::take(&mut model.lock()),
            interventions: statistics.interventions.values().sum(),
            ticks_missed: statistics.missed,
            final_state: digest(&simulator),
        };
        Ok(Ended { outcome, report, recorded: recording.map(|recording| recording.finish()) })
    }
}

/// Equal digests mean equal bits: numbers are printed so that they read back exactly.
fn digest(simulator: &Simulator) -> String {
    let digest = Sha256::digest(format!("{:?}", simulator.snapshot()));
    hex::encode(&digest[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_names_a_block_that_is_on_its_table_and_seeds_differ_in_words() {
        let mut said = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let (task, words) = draw_task(Task::PlaceInBowl, seed);
            let scene = Scene::draw(&SceneSpec::tabletop(), seed);
            assert!(scene.block(task.colour()).is_some());
            assert_eq!(Task::parse(&words), Ok(task));
            assert_eq!(draw_task(Task::PlaceInBowl, seed).1, words);
            said.insert(words);
        }
        assert!(said.len() > 10, "{said:?}");
    }
}
