//! `waza replay`: a skill against the record of a run.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;
use waza_record::Record;
use waza_runtime::replay::Verdict;
use waza_runtime::{self as runtime, Manifest};

use crate::fault::{OrBadInput, bad_input};
use crate::recording::{budgets, recorded};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  waza replay run.mcap\n  waza replay run.mcap --wasm new.wasm\n  \
                        waza replay run.mcap --skill skills/touch --json")]
pub struct Replay {
    /// What `waza run --record` wrote.
    record: PathBuf,
    /// Run this component, a newer version say, instead of the one in the record.
    #[arg(long, conflicts_with = "skill")]
    wasm: Option<PathBuf>,
    /// Run the component of the skill in this folder.
    #[arg(long, value_name = "DIR")]
    skill: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Replay {
    pub fn run(self) -> Result<()> {
        let record = Record::open(&self.record).or_bad_input()?;
        let (run, cut) = recorded(&record)?;
        let (component, place) = self.component(&record)?;
        let verdict = runtime::Replay::new(&component, &place, budgets(&record.header)).or_bad_input()?.run(run);
        if self.json {
            say!("{}", self.report(&record, &verdict, cut.as_deref()))?;
        }
        match verdict {
            Verdict::Same { calls, ended } => {
                if !self.json {
                    say!("{calls} calls, {} observations, bit for bit the same", record.observations)?;
                    match (ended, cut) {
                        (_, Some(cut)) => say!("the record is cut short: {cut}")?,
                        (Some(ended), None) => say!("{ended}")?,
                        (None, None) => say!("the record ends before its run did")?,
                    }
                }
                Ok(())
            }
            Verdict::Differs(difference) => {
                if !self.json {
                    say!("{difference}")?;
                }
                bail!("the skill differs from its record {}", self.record.display())
            }
        }
    }

    fn report(&self, record: &Record, verdict: &Verdict, cut: Option<&str>) -> serde_json::Value {
        let (calls, ended, difference) = match verdict {
            Verdict::Same { calls, ended } => (*calls, ended.as_ref().map(ToString::to_string), None),
            Verdict::Differs(it) => {
                let [recorded, now] = it.sides();
                let seconds = it.at_ns as f64 / 1e9;
                (it.call, None, Some(json!({ "seconds": seconds, "recorded": recorded, "now": now })))
            }
        };
        json!({
            "skill": record.header.skill,
            "same": difference.is_none(),
            "calls": calls,
            "observations": record.observations,
            "ended": ended,
            "difference": difference,
            "cut": cut,
        })
    }

    /// What runs, and where it is from.
    fn component(&self, record: &Record) -> Result<(Vec<u8>, PathBuf)> {
        let read = |path: &Path| {
            let bytes = std::fs::read(path);
            bytes.map_err(|error| {
                bad_input(format!("cannot read the component ({error})"), path.display(), "build it first")
            })
        };
        let path = match (&self.wasm, &self.skill) {
            (Some(wasm), _) => wasm.clone(),
            (None, Some(folder)) => folder.join(Manifest::open(folder).or_bad_input()?.component),
            (None, None) => return Ok((record.package.component.clone(), self.record.clone())),
        };
        Ok((read(&path)?, path))
    }
}
