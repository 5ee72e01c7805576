//! A recorded run and its replay: the same calls, bit for bit, or the first difference.

use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use waza_robot::{Observation, Pace};
use waza_runtime::record::Ending;
use waza_runtime::replay::{Difference, Recorded, Verdict};
use waza_runtime::{Budgets, Compiler, Entry, HostOptions, Journal, Operator, Replay, Source, TaskRequest};

use crate::fixture::{ALL, Bench};
use crate::packages::component;

#[derive(Default)]
struct Pages {
    entries: Mutex<Vec<(u64, Entry)>>,
    observed: Mutex<Vec<(u32, u64)>>,
}

impl Journal for Pages {
    fn entry(&self, at_ns: u64, entry: &Entry) {
        self.entries.lock().unwrap().push((at_ns, entry.clone()));
    }

    fn observed(&self, observation: u32, seen: &Arc<Observation>) {
        self.observed.lock().unwrap().push((observation, seen.taken_ns));
    }
}

fn budgets() -> Budgets {
    Budgets { cpu_burst: Duration::from_millis(300), memory_bytes: 16 << 20, handles: 64, ..Budgets::default() }
}

fn options() -> HostOptions {
    HostOptions { budgets: budgets(), operator: Operator::SaysYes, ..HostOptions::default() }
}

fn permissions() -> Vec<&'static str> {
    [ALL, &["pixels:front"]].concat()
}

fn record_at(pace: Pace, instruction: &str) -> (Recorded, Arc<Pages>) {
    let bench = Bench::with(pace, options(), &permissions());
    let request = TaskRequest { instruction: instruction.into(), seed: 7, ..TaskRequest::default() };
    let pages = Arc::new(Pages::default());
    let running = bench.host.record("test/conduct", request.clone(), |_| (), pages.clone());
    let _ = futures_executor::block_on(running).value;
    let skill = bench.host.skills()[0].id.clone();
    let entries = pages.entries.lock().unwrap().clone();
    (Recorded { skill, request, entries }, pages)
}

fn record(instruction: &str) -> Recorded {
    record_at(Pace::Lockstep, instruction).0
}

fn replayed(recorded: &Recorded) -> Verdict {
    static CONDUCT: LazyLock<Replay> = LazyLock::new(|| {
        let conduct = Source::of(&component("conduct"), Path::new("conduct.wasm")).unwrap();
        Replay::new(&conduct, budgets(), Compiler::Here, None).unwrap()
    });
    CONDUCT.run(recorded.clone())
}

#[track_caller]
fn assert_the_same(recorded: &Recorded) {
    let Verdict::Same { calls, ended } = replayed(recorded) else { panic!("{:?}", replayed(recorded)) };
    let made = recorded.entries.iter().filter(|(_, entry)| matches!(entry, Entry::Call { .. })).count();
    assert_eq!(calls, made as u64);
    let Some((_, Entry::End(recorded))) = recorded.entries.last() else { panic!("no end") };
    assert_eq!(ended.as_ref(), Some(recorded));
}

fn differs(recorded: &Recorded) -> Difference {
    match replayed(recorded) {
        Verdict::Differs(difference) => difference,
        same => panic!("{same:?}"),
    }
}

/// Everything that `conduct` can do and that ends.
const CONDUCTS: [&str; 35] = [
    "spin",
    "spin while moving",
    "panic",
    "panic while moving",
    "eat memory",
    "hoard observations",
    "exit",
    "say: hello",
    "sleep",
    "environment",
    "random",
    "robot",
    "look",
    "peek: front",
    "peek: nose",
    "watch",
    "what model",
    "act: turn",
    "act: fly",
    "act twice",
    "ask: what?",
    "locate: block",
    "embed: block",
    "acquire: arm, gripper",
    "acquire: nose",
    "move: 0.2",
    "play",
    "play narrow rows",
    "play what the model says: turn",
    "move the tool",
    "grip: 0.1",
    "engage",
    "roll out: 2",
    "roll out and look away",
    "look away",
];

const OTHERS: [&str; 8] = [
    "look at the clock once",
    "leave the rollout running",
    "ask the clocks",
    "progress",
    "confirm: sure?",
    "count",
    "invoke: test/conduct, look",
    "dance",
];

#[test]
fn whatever_a_skill_did_in_lockstep_it_does_again() {
    for conduct in CONDUCTS.into_iter().chain(OTHERS) {
        eprintln!("{conduct}");
        assert_the_same(&record(conduct));
    }
}

#[test]
fn whatever_a_skill_did_in_real_time_it_does_again() {
    for conduct in ["look", "watch", "sleep", "ask the clocks", "roll out: 2", "look away", "grip: 0.1", "move: 0.2"] {
        eprintln!("{conduct}");
        let (recorded, _) = record_at(Pace::RealTime, conduct);
        for _ in 0..3 {
            assert_the_same(&recorded);
        }
    }
}

#[test]
fn a_run_that_was_stopped_replays_to_where_it_stood() {
    let bench = Bench::with(Pace::RealTime, options(), &permissions());
    for instruction in ["wait forever", "keep moving", "spin"] {
        let request = TaskRequest { instruction: instruction.into(), ..TaskRequest::default() };
        let pages = Arc::new(Pages::default());
        let running = bench.host.record("test/conduct", request.clone(), |_| (), pages.clone());
        bench.reach(bench.robot.tick() + 20);
        drop(running);
        let ended = || matches!(pages.entries.lock().unwrap().last(), Some((_, Entry::End(_))));
        while !ended() {
            bench.reach(bench.robot.tick() + 1);
        }
        let entries = pages.entries.lock().unwrap().clone();
        let recorded = Recorded { skill: bench.host.skills()[0].id.clone(), request, entries };
        let verdict = replayed(&recorded);
        let called = recorded.entries.iter().any(|(_, entry)| matches!(entry, Entry::Call { .. }));
        match verdict {
            Verdict::Same { ended: Some(Ending::Stopped(_)), .. } => assert!(called),
            verdict => assert!(verdict == Verdict::NothingCompared && !called, "{instruction}: {verdict:?}"),
        }
    }
}

#[test]
fn every_observation_that_a_skill_was_handed_is_in_the_record() {
    let (recorded, pages) = record_at(Pace::Lockstep, "roll out: 2");
    let handed = |entry: &Entry| match entry {
        Entry::Stream { .. } => entry.to_string().contains("observation "),
        _ => false,
    };
    let handed = recorded.entries.iter().filter(|(_, entry)| handed(entry)).count();
    let observed = pages.observed.lock().unwrap();
    assert!(handed > 10, "{handed}");
    assert_eq!(observed.len(), handed);
    assert!(observed.windows(2).all(|pair| pair[0].1 < pair[1].1), "{observed:?}");
}

#[test]
fn one_altered_bit_of_an_answer_shows_at_the_call_that_depends_on_it() {
    let mut recorded = record("play what the model says: turn");
    let position = recorded.entries.iter().position(|(_, entry)| match entry {
        Entry::Answer { value, .. } => value.contains("chunk "),
        _ => false,
    });
    let Entry::Answer { value, .. } = &mut recorded.entries[position.unwrap()].1 else { panic!() };
    let altered = value.replace("chunk ", "chunk 1");
    assert_ne!(*value, altered);
    *value = altered;
    let difference = differs(&recorded);
    assert!(difference.recorded.contains("lease.play") && difference.now.contains("lease.play"), "{difference}");
    assert!(difference.now.contains("chunk 1") && !difference.recorded.contains("chunk 1"), "{difference}");
    assert_eq!(difference.call, 3);
}

#[test]
fn any_altered_argument_is_the_first_difference() {
    let recorded = record("move: 0.2");
    let calls = |entry: &Entry| match entry {
        Entry::Call { arguments, .. } => arguments != "[]",
        _ => false,
    };
    let indices: Vec<_> = (0..recorded.entries.len()).filter(|index| calls(&recorded.entries[*index].1)).collect();
    assert!(indices.len() >= 2);
    for index in indices {
        let mut altered = recorded.clone();
        let (at_ns, Entry::Call { number, arguments, .. }) = &mut altered.entries[index] else { panic!() };
        let (at_ns, number) = (*at_ns, *number);
        *arguments = arguments.replacen(['a', '0'], "1", 1);
        let difference = differs(&altered);
        assert_eq!((difference.call, difference.at_ns), (number, at_ns), "{difference}");
    }
}

#[test]
fn another_component_is_told_apart_with_both_sides() {
    let recorded = record("look");
    let other = |instruction: &str| {
        let mut recorded = recorded.clone();
        // The same component told otherwise is another skill.
        recorded.request.instruction = instruction.into();
        differs(&recorded)
    };
    let difference = other("robot");
    assert_eq!(difference.recorded, "it calls sensing.observe[]");
    assert_eq!(difference.now, "it calls sensing.robot[]");
    let difference = other("environment");
    assert!(difference.now.starts_with("it returned "), "{difference}");
    let difference = other("panic");
    assert!(difference.now.contains("unreachable"), "{difference}");
    let difference = other("spin");
    assert!(difference.now.contains("CPU time"), "{difference}");
    let difference = other("eat memory");
    assert!(difference.now.contains("memory"), "{difference}");
}

#[test]
fn an_outcome_that_is_not_the_recorded_one_is_the_last_difference() {
    let mut recorded = record("look");
    let Some((_, Entry::End(Ending::Returned(outcome)))) = recorded.entries.last_mut() else { panic!() };
    let was = std::mem::replace(outcome, outcome.replace("shoulder_pan", "shoulder_fan"));
    let difference = differs(&recorded);
    assert!(difference.recorded.contains("shoulder_fan"), "{difference}");
    assert_eq!(difference.now, format!("it returned {was}"));
}

#[test]
fn a_skill_that_waits_for_what_never_came_is_told_apart() {
    let mut recorded = record("act twice");
    recorded.entries.retain(|(_, entry)| !matches!(entry, Entry::Answer { number: 1, .. }));
    let difference = differs(&recorded);
    assert_eq!(difference.now, "it waits");
}

#[test]
fn a_record_that_is_cut_short_is_the_same_as_far_as_it_goes() {
    let whole = record("roll out: 1");
    for length in (1..whole.entries.len()).step_by(7) {
        let mut recorded = whole.clone();
        recorded.entries.truncate(length);
        let verdict = replayed(&recorded);
        assert!(matches!(verdict, Verdict::Same { ended: None, .. }), "{length}: {verdict:?}");
    }
}

#[test]
fn a_record_that_ends_before_the_first_call_is_never_called_the_same() {
    let mut recorded = record("look");
    let logs = |entry: &Entry| matches!(entry, Entry::Log { .. });
    recorded.entries.retain(|(_, entry)| logs(entry));
    assert_eq!(replayed(&recorded), Verdict::NothingCompared);
    recorded.entries = vec![(0, Entry::End(Ending::Stopped("by the operator".into())))];
    assert_eq!(replayed(&recorded), Verdict::NothingCompared);
    // What a run came to is compared, even if it called nothing before.
    recorded.entries = vec![(0, Entry::End(Ending::Failed("it crashed".into())))];
    assert_eq!(differs(&recorded).recorded, "it crashed");
}

#[test]
fn what_a_new_version_says_is_not_compared() {
    let mut recorded = record("say: hello");
    let logs = recorded.entries.len();
    recorded.entries.retain(|(_, entry)| !matches!(entry, Entry::Log { .. }));
    assert!(recorded.entries.len() < logs);
    assert_the_same(&recorded);
}

#[test]
fn no_altered_record_makes_a_replay_panic_or_hang() {
    let whole = record("roll out: 1");
    for index in 0..whole.entries.len() {
        let mut recorded = whole.clone();
        if index % 2 == 0 {
            recorded.entries.remove(index);
        } else {
            let last = recorded.entries.len() - 1;
            recorded.entries.swap(index, last);
        }
        let _ = replayed(&recorded);
    }
}
