//! Three strikes, and who is out.

use std::path::Path;
use std::time::Duration;

use waza_robot::Pace;
use waza_runtime::quarantine::FILE;
use waza_runtime::{Budgets, HostOptions, Permission, SkillError, SkillId};

use crate::fixture::{ALL, Bench};
use crate::packages::{component, manifest};

fn conduct() -> SkillId {
    "test/conduct".to_owned().try_into().unwrap()
}

fn keeping(state: &Path) -> Bench {
    let budgets = Budgets { cpu_burst: Duration::from_millis(50), ..Budgets::default() };
    let withheld = [Permission::Operator].into();
    let options = HostOptions { budgets, withheld, state: Some(state.into()), ..HostOptions::default() };
    Bench::with(Pace::Lockstep, options, ALL)
}

fn is_quarantined(bench: &Bench) -> bool {
    matches!(bench.run("robot"), Err(SkillError::Quarantined { .. }))
}

#[test]
fn a_version_that_crashes_overspends_and_reaches_for_what_it_was_denied_is_not_run_a_fourth_time() {
    let bench = keeping(tempfile::tempdir().unwrap().path());
    for conduct in ["panic", "spin", "progress"] {
        assert!(!is_quarantined(&bench));
        bench.run(conduct).unwrap_err();
    }
    let error = bench.run("robot").unwrap_err();
    let SkillError::Quarantined { skill, version, why } = &error else { panic!("{error}") };
    assert_eq!((skill, version), (&conduct(), &semver::Version::new(0, 1, 0)));
    for reason in ["crashed", "the CPU time between two waits", "`operator`"] {
        assert!(why.contains(reason), "{reason} is not in: {why}");
    }
    assert_eq!(bench.host.quarantined()[0].why.len(), 3);
    bench.reach(bench.robot.tick() + 10);
}

#[test]
fn what_is_not_the_skills_fault_and_what_it_refuses_itself_is_no_strike() {
    let bench = keeping(tempfile::tempdir().unwrap().path());
    for _ in 0..4 {
        drop(bench.start("wait forever"));
        bench.run("fly to the moon").unwrap_err();
        bench.run("act: fly").unwrap_err();
        bench.robot.stop();
        bench.run("move: 0.3").unwrap_err();
        bench.robot.reset(bench.robot.stopped().unwrap());
    }
    assert!(!is_quarantined(&bench));
    assert!(bench.host.quarantined().is_empty());
}

#[test]
fn a_quarantine_outlives_a_reload_and_a_restart_but_not_another_component_and_not_a_pardon() {
    let state = tempfile::tempdir().unwrap();
    let bench = keeping(state.path());
    (0..3).for_each(|_| drop(bench.run("panic")));
    bench.load("conduct", ALL).unwrap();
    assert!(is_quarantined(&bench));
    drop(bench);

    let bench = keeping(state.path());
    assert!(is_quarantined(&bench));
    let other = bench.package_of("conduct", &manifest("conduct", &[]), &component("probe"));
    bench.host.load(&other).unwrap();
    assert!(!is_quarantined(&bench));

    bench.load("conduct", ALL).unwrap();
    assert!(is_quarantined(&bench));
    assert!(bench.host.pardon(&conduct()));
    assert!(!is_quarantined(&bench) && !bench.host.pardon(&conduct()));
    // It starts afresh.
    (0..2).for_each(|_| drop(bench.run("panic")));
    assert!(!is_quarantined(&bench));
}

#[test]
fn a_version_that_was_found_wrong_is_quarantined_with_that_reason() {
    let bench = Bench::new();
    assert!(bench.host.quarantine(&conduct(), "it failed its probation"));
    let error = bench.run("robot").unwrap_err();
    assert!(error.to_string().contains("0.1.0 is quarantined: it failed its probation"), "{error}");
    // To another skill it is not there.
    bench.host.load(&bench.package_of("other", &manifest("other", ALL), &component("conduct"))).unwrap();
    let nobody: SkillId = "test/nobody".to_owned().try_into().unwrap();
    assert!(!bench.host.quarantine(&nobody, "it is not there"));
}

#[test]
fn a_damaged_file_is_moved_aside_and_the_host_starts() {
    for damaged in
        ["", "[{", "{}", r#"[{"skill": "../x", "version": "1.0.0", "digest": "", "quarantined": true, "why": []}]"#]
    {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join(FILE), damaged).unwrap();
        let bench = keeping(state.path());
        assert!(!is_quarantined(&bench));
        assert_eq!(std::fs::read_to_string(state.path().join("quarantine.json.damaged")).unwrap(), damaged);
        bench.run("panic").unwrap_err();
        drop(bench);
        // It begins when the one before has written what it had to.
        let _next = keeping(state.path());
        assert!(state.path().join(FILE).is_file());
    }
}
