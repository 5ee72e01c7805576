//! Counts in Prometheus' text format.

use std::fmt::Write;

use crate::wire::{Condition, Status};

pub(crate) fn text(status: &Status, loaded: usize) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, u64)]| {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "# HELP waza_{name} {help}\n# TYPE waza_{name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "waza_{name}{labels} {value}");
        }
    };
    let one = |value: u64| [(String::new(), value)];
    let label =
        |name: &str, value: &str| format!("{{{name}=\"{}\"}}", value.replace('\\', "\\\\").replace('"', "\\\""));
    family("ticks_total", "counter", "Ticks of the control loop.", &one(status.tick));
    family("ticks_missed_total", "counter", "Control periods without a tick.", &one(status.missed_ticks));
    family("link_errors_total", "counter", "Failed reads and writes of the robot link.", &one(status.link_errors));
    let rules: Vec<_> = status.interventions.iter().map(|(rule, times)| (label("rule", rule), *times)).collect();
    family("interventions_total", "counter", "Times a rule of the safety filter began to act.", &rules);
    let is = |condition: Condition| one((status.condition == condition).into());
    family("link_down", "gauge", "Whether the robot link answers nothing or only errors.", &is(Condition::LinkDown));
    family("robot_ended", "gauge", "Whether the control loop is gone.", &is(Condition::Ended));
    family("stopped", "gauge", "Whether the host stop is latched.", &one(status.stopped.is_some().into()));
    let seen: Vec<_> =
        status.stop_sources.iter().map(|source| (label("source", &source.name), source.seen.into())).collect();
    family("stop_source_seen", "gauge", "Whether a stop source has been seen alive.", &seen);
    family("runs", "gauge", "Runs in flight.", &one(status.running as u64));
    family("skills", "gauge", "Loaded skills.", &one(loaded as u64));
    text
}
