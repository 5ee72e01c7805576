//! What a run of episodes comes to: a table for people, an object for programs.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use waza_model::bench::Latency;

use crate::statistics::wilson_interval;

/// What one episode adds to the report.
#[derive(Debug, Clone, Serialize)]
pub struct EpisodeReport {
    /// The skill's id.
    pub skill: String,
    /// Draws the scene and the task.
    pub seed: u64,
    /// What the skill was told.
    pub instruction: String,
    /// The judge's word.
    pub verdict: String,
    /// Whether the task was done.
    pub success: bool,
    /// What the skill said at its end.
    pub said: String,
    /// Robot time from start to end.
    pub seconds: f64,
    /// How long the model took over each of its answers.
    #[serde(skip)]
    pub model: Vec<Duration>,
    /// How often a rule of the safety filter began to act.
    pub interventions: u64,
    /// Control periods in which no tick could start, or whose work took longer than the period.
    pub ticks_missed: u64,
    /// Digest of where everything was at the end: equal digests mean equal bits.
    pub final_state: String,
}

/// All episodes of one skill.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SkillReport {
    /// The skill's id.
    pub skill: String,
    pub episodes: usize,
    pub successes: usize,
    /// 95 %, Wilson's method, as fractions.
    pub success_interval: [f64; 2],
    /// Mean, of robot time.
    pub seconds_per_episode: f64,
    /// Of an answer of the model; null if it was never asked.
    pub model_ms_p50: Option<f64>,
    pub model_ms_p99: Option<f64>,
    /// How often a rule of the safety filter began to act, over all episodes.
    pub interventions: u64,
    /// Over all episodes.
    pub ticks_missed: u64,
}

/// All that ran.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What the model ran on.
    pub device: String,
    /// Of the first episode; the others count up from it.
    pub seed: u64,
    pub skills: Vec<SkillReport>,
}

impl SkillReport {
    /// Sums up the episodes of one skill.
    pub fn new(skill: &str, episodes: &[EpisodeReport]) -> Self {
        let successes = episodes.iter().filter(|episode| episode.success).count();
        let model = Latency::of(episodes.iter().flat_map(|episode| &episode.model).copied().collect());
        let seconds: f64 = episodes.iter().map(|episode| episode.seconds).sum();
        Self {
            skill: skill.into(),
            episodes: episodes.len(),
            successes,
            success_interval: wilson_interval(successes, episodes.len()),
            seconds_per_episode: seconds / episodes.len().max(1) as f64,
            model_ms_p50: model.map(|it| it.p50_ms),
            model_ms_p99: model.map(|it| it.p99_ms),
            interventions: episodes.iter().map(|episode| episode.interventions).sum(),
            ticks_missed: episodes.iter().map(|episode| episode.ticks_missed).sum(),
        }
    }
}

impl Report {
    /// For people.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header([
            "skill",
            "episodes",
            "successes\n(95 % interval)",
            "seconds an\nepisode",
            "model ms\np50",
            "model ms\np99",
            "safety\ninterventions",
            "ticks\nmissed",
        ]);
        let milliseconds = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.1}"));
        for skill in &self.skills {
            let [low, high] = skill.success_interval.map(|share| 100.0 * share);
            table.add_row([
                skill.skill.clone(),
                skill.episodes.to_string(),
                format!("{} ({low:.0} to {high:.0} %)", skill.successes),
                format!("{:.1}", skill.seconds_per_episode),
                milliseconds(skill.model_ms_p50),
                milliseconds(skill.model_ms_p99),
                skill.interventions.to_string(),
                skill.ticks_missed.to_string(),
            ]);
        }
        table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        table.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn episode(success: bool, model_ms: &[u64]) -> EpisodeReport {
        EpisodeReport {
            skill: "waza/touch".into(),
            seed: 1,
            instruction: "touch the red block".into(),
            verdict: "success".into(),
            success,
            said: String::new(),
            seconds: 3.0,
            model: model_ms.iter().copied().map(Duration::from_millis).collect(),
            interventions: 2,
            ticks_missed: 0,
            final_state: String::new(),
        }
    }

    #[test]
    fn a_report_sums_up_its_episodes_under_the_documented_names() {
        let skill = SkillReport::new("waza/touch", &[episode(true, &[1, 9]), episode(false, &[5])]);
        let report = Report { device: "cpu".into(), seed: 7, skills: vec![skill] };
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["device"], &json["seed"]), (&"cpu".into(), &7.into()));
        let skill = &json["skills"][0];
        for (name, value) in [("episodes", 2.0), ("successes", 1.0), ("model_ms_p50", 5.0), ("model_ms_p99", 9.0)] {
            assert_eq!(skill[name].as_f64(), Some(value), "{name}");
        }
        assert_eq!((&skill["skill"], &skill["interventions"]), (&"waza/touch".into(), &4.into()));
        assert!(report.table().contains("1 (9 to 91 %)"), "{}", report.table());
    }

    #[test]
    fn a_model_that_was_never_asked_has_no_latency() {
        let skill = SkillReport::new("waza/touch", &[episode(false, &[])]);
        assert_eq!(serde_json::to_value(&skill).unwrap()["model_ms_p50"], serde_json::Value::Null);
    }
}
