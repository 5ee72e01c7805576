//! `waza replay`: a skill against the record of a run.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;
use waza_record::Record;
use waza_runtime::replay::{Difference, Verdict};
use waza_runtime::{self as runtime, Layout, Manifest, PackageError, Source};

use crate::compiler;
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
        let component = self.component(&record).or_bad_input()?;
        let budgets = budgets(&record.header);
        let cache = compiler::cache();
        let replay =
            runtime::Replay::new(&component, budgets, compiler::compiler(), cache.as_deref()).or_bad_input()?;
        let verdict = replay.run(run);
        match verdict {
            Verdict::Same { calls, ended } if self.json => {
                say!("{}", report(&record, calls, ended.map(|it| it.to_string()), None, cut.as_deref()))
            }
            Verdict::Same { calls, ended } => {
                say!("{calls} calls, bit for bit the same; {} observations in the record", record.observations)?;
                match (ended, cut) {
                    (_, Some(cut)) => say!("the record is cut short: {cut}"),
                    (Some(ended), None) => say!("{ended}"),
                    (None, None) => say!("the record ends before its run did"),
                }
            }
            Verdict::Differs(difference) => {
                if self.json {
                    say!("{}", report(&record, difference.call, None, Some(&difference), cut.as_deref()))?;
                } else {
                    say!("{difference}")?;
                }
                bail!("the skill differs from its record {}", self.record.display())
            }
            Verdict::NothingCompared => {
                let why = cut.as_deref().unwrap_or("it ends before the first call");
                let cause = format!("the record has nothing to compare: {why}");
                Err(bad_input(cause, self.record.display(), "name a whole record, or record the run again"))
            }
        }
    }

    /// What runs.
    fn component(&self, record: &Record) -> Result<Source, PackageError> {
        match (&self.wasm, &self.skill) {
            (Some(wasm), _) => Source::file(wasm),
            (None, Some(folder)) => Source::open(folder, &Manifest::open(folder)?, Layout::BuildTree),
            (None, None) => Source::of(&record.package.component, &self.record),
        }
    }
}

fn report(
    record: &Record,
    calls: u64,
    ended: Option<String>,
    difference: Option<&Difference>,
    cut: Option<&str>,
) -> serde_json::Value {
    let difference = difference.map(|it| {
        let [recorded, now] = it.sides();
        json!({ "seconds": it.at_ns as f64 / 1e9, "recorded": recorded, "now": now })
    });
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
