//! `waza run`: one skill, one task, on the simulated tabletop robot.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use tempfile::TempDir;
use waza_runtime::manifest::FILE;
use waza_runtime::{Event, Refusal, SkillError};

use crate::assets::Checkout;
use crate::episode::{Ended, Job};
use crate::fault::{BadInput, OrBadInput, bad_input};
use crate::film::{Film, Reel, Title};
use crate::lines::plain;
use crate::output::OutputFolder;
use crate::progress;

use super::stage::{StageOptions, build};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  waza run touch --task \"touch the red block\" --seed 7 --out out\n  \
                        waza run touch --task \"touch the red block\" --seed 7 --record run.mcap")]
pub struct Run {
    /// A first-party skill by its name, or the folder of any skill.
    skill: String,
    /// What to do, in words.
    #[arg(long)]
    task: String,
    /// JSON parameters, of the form that the skill documents.
    #[arg(long, default_value = "")]
    parameters: String,
    /// Draws the scene.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Run this component instead of the one that skill.toml names.
    #[arg(long)]
    wasm: Option<PathBuf>,
    /// Gets run.mp4, what the cameras saw.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Gets every call and every observation of the run, for `waza replay` and for viewers of MCAP files.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    #[command(flatten)]
    stage: StageOptions,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Run {
    pub fn run(self) -> Result<()> {
        let out = self.out.as_deref().map(OutputFolder::open).transpose()?;
        let folder = self.folder()?;
        let replaced = self.wasm.as_deref().map(|wasm| with_component(&folder, wasm)).transpose()?;
        let stage = self.stage.open()?;

        let job = Job {
            seed: self.seed,
            instruction: self.task.clone(),
            parameters: self.parameters.clone(),
            record: self.record.clone(),
        };
        let reel = Reel::default();
        let spinner = progress::spinner(&self.task);
        let shown = spinner.clone();
        let package = replaced.as_ref().map_or(folder.as_path(), TempDir::path);
        let Ended { outcome, report, recorded } = stage.run(package, &job, reel.clone(), move |event| match event {
            Event::Progress { note, .. } => shown.set_message(note.clone()),
            Event::Log { line } => shown.suspend(|| eprintln!("{}", plain(line))),
            _ => (),
        })?;
        spinner.finish_and_clear();
        if let Err(error @ SkillError::Returned { refusal: Refusal::Invalid(_), .. }) = outcome {
            return Err(BadInput::caused_by(error));
        }
        if let Some(out) = out {
            let take = format!("{}, seed {}", report.skill, report.seed);
            let (instruction, ending) = (self.task.clone(), report.verdict.clone());
            let film = Film::begin()?;
            film.add(reel, Title { instruction, take, ending, success: report.success });
            out.write("run.mp4", &film.end()?.finish()?)?;
        }
        if self.json {
            say!("{}", serde_json::to_string(&report)?)?;
        } else {
            say!("{}: {}", report.skill, report.said)?;
            say!("the judge: {} after {:.1} s", report.verdict, report.seconds)?;
        }
        if let Some(recorded) = recorded {
            let recorded = recorded?;
            if let Some(cut) = &recorded.cut {
                eprintln!("warning: the record is cut short: {cut}");
            }
            if !self.json {
                say!("the record: {} entries, {} observations", recorded.entries, recorded.observations)?;
            }
        }
        outcome.map(drop).map_err(Into::into)
    }

    /// Where the skill's manifest is. A first-party skill is built first.
    fn folder(&self) -> Result<PathBuf> {
        let skills = Checkout::find().map(|checkout| checkout.skills());
        if let Ok(skills) = &skills
            && !self.skill.contains(['/', '\\', '.'])
            && skills.join(&self.skill).join(FILE).is_file()
        {
            if self.wasm.is_none() {
                build(skills, &[&self.skill])?;
            }
            return Ok(skills.join(&self.skill));
        }
        let folder = PathBuf::from(&self.skill);
        if folder.join(FILE).is_file() {
            return Ok(folder);
        }
        let way_out = format!("name touch, pick-place or a folder with a {FILE}");
        Err(bad_input("no such skill", &self.skill, way_out))
    }
}

/// A package like the one in `folder`, but with another component.
fn with_component(folder: &Path, wasm: &Path) -> Result<TempDir> {
    let manifest = folder.join(FILE);
    let text = std::fs::read_to_string(&manifest).with_context(|| format!("reading {}", manifest.display()))?;
    let mut table: toml::Table =
        text.parse().with_context(|| format!("{} is no TOML", manifest.display())).or_bad_input()?;
    let absolute = std::path::absolute(wasm).or_bad_input()?;
    let place = absolute.to_str().ok_or_else(|| {
        bad_input("a path that is no Unicode", wasm.display(), "move the component to a path that is")
    })?;
    table.insert("component".into(), place.into());
    let package = tempfile::tempdir().context("making a temporary folder")?;
    std::fs::write(package.path().join(FILE), toml::to_string(&table)?).context("writing a temporary manifest")?;
    Ok(package)
}
