//! `waza demo`: the whole path, from the cameras to the arm, on the simulated tabletop robot.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use waza_robot::Guard;
use waza_robot::sim::Task;
use waza_robot::sim::scene::Colour;

use crate::assets::Checkout;
use crate::episode::{Ended, Job, Stage, draw_task};
use crate::film::{Film, Reel, Title};
use crate::output::OutputFolder;
use crate::progress;
use crate::report::{EpisodeReport, Report, SkillReport};

use super::stage::{StageOptions, build};

/// Episodes of each skill that are filmed: enough to see what it does.
const FILMED: u32 = 5;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  waza demo --skill touch --episodes 20 --seed 1000 --out out")]
pub struct Demo {
    /// The skill to show; both if left out.
    #[arg(long)]
    skill: Option<Act>,
    /// Episodes of each skill.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    episodes: u32,
    /// Of the first episode: draws the scene and the task. The others count up from it.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Gets demo.mp4 with the first five episodes of each skill, and episodes.json with all of them.
    #[arg(long, default_value = "out")]
    out: PathBuf,
    #[command(flatten)]
    stage: StageOptions,
    /// Whether the safety filter acts. Off is for measuring what it costs, and possible because this robot is simulated.
    #[arg(long, value_enum, default_value_t)]
    filter: Filter,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// A first-party skill and the task that it is shown with.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Act {
    #[value(alias = "waza/touch")]
    Touch,
    #[value(alias = "waza/pick-place")]
    PickPlace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Filter {
    #[default]
    On,
    Off,
}

impl Act {
    /// Its folder and its package.
    fn package(self) -> &'static str {
        match self {
            Self::Touch => "touch",
            Self::PickPlace => "pick-place",
        }
    }

    fn task(self) -> fn(Colour) -> Task {
        match self {
            Self::Touch => Task::Touch,
            Self::PickPlace => Task::PlaceInBowl,
        }
    }
}

impl Demo {
    pub fn run(self) -> Result<()> {
        let out = OutputFolder::open(&self.out)?;
        let checkout = Checkout::find()?;
        let acts = self.skill.map_or_else(|| Act::value_variants().to_vec(), |act| vec![act]);
        let packages: Vec<_> = acts.iter().map(|act| act.package()).collect();
        build(&checkout.skills(), &packages)?;
        let mut stage = self.stage.open()?;
        if self.filter == Filter::Off {
            eprintln!("warning: the safety filter is off; what follows holds for the simulator only");
            stage.guard = Guard::Off;
        }

        let film = Film::begin()?;
        let mut all = Vec::new();
        let mut skills = Vec::new();
        for act in acts {
            let episodes = self.play(act, &stage, &checkout, &film)?;
            skills.push(SkillReport::new(&format!("waza/{}", act.package()), &episodes));
            all.extend(episodes);
        }
        let report = Report { device: stage.model.about().device.clone(), seed: self.seed, skills };
        let episodes = out.write("episodes.json", &serde_json::to_vec_pretty(&all)?)?;
        let film = film.end()?;
        let seconds = film.duration().as_secs();
        let video = out.write("demo.mp4", &film.finish()?)?;
        if self.json {
            say!("{}", serde_json::to_string(&report)?)?;
        } else {
            say!("{}\non {}, seeds from {}", report.table(), report.device, report.seed)?;
            say!("{} ({seconds} s of what the cameras saw), {}", video.display(), episodes.display())?;
        }
        Ok(())
    }

    fn play(&self, act: Act, stage: &Stage, checkout: &Checkout, film: &Film) -> Result<Vec<EpisodeReport>> {
        let folder = checkout.skills().join(act.package());
        let bar = progress::bar(act.package(), self.episodes.into());
        let mut episodes = Vec::new();
        let mut successes = 0;
        for index in 0..self.episodes {
            let seed = self.seed.wrapping_add(index.into());
            let (_, instruction) = draw_task(act.task(), seed);
            bar.set_message(format!("{successes} done, now: {instruction}"));
            let job = Job { seed, instruction, parameters: String::new(), record: None };
            let reel = Reel::default();
            let Ended { report, .. } =
                stage.run(&folder, &job, reel.clone(), |_| ()).with_context(|| format!("episode of seed {seed}"))?;
            if index < FILMED {
                let title = Title {
                    instruction: job.instruction.clone(),
                    take: format!("{}, seed {seed}", act.package()),
                    ending: report.verdict.clone(),
                    success: report.success,
                };
                film.add(reel, title);
            }
            successes += u32::from(report.success);
            episodes.push(report);
            bar.inc(1);
        }
        bar.finish_with_message(format!("{successes} done"));
        Ok(episodes)
    }
}
