//! Hot loading.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use waza_runtime::{Change, Watch};

use crate::fixture::{ALL, Bench, component, manifest};

fn watch(bench: &Bench) -> (Watch, Receiver<Change>) {
    let (sender, changes) = channel();
    let watch = bench.host.watch(bench.packages.path(), move |change| drop(sender.send(change))).unwrap();
    (watch, changes)
}

fn next(changes: &Receiver<Change>) -> Change {
    changes.recv_timeout(Duration::from_secs(60)).unwrap()
}

#[test]
fn packages_that_come_change_and_go_take_effect_while_the_host_runs() {
    let bench = Bench::new();
    let (_watch, changes) = watch(&bench);
    assert!(matches!(next(&changes), Change::Loaded(id) if id.as_str() == "test/conduct"));

    let folder = bench.package("probe", &[]);
    assert!(matches!(next(&changes), Change::Loaded(id) if id.as_str() == "test/probe"));

    let newer = manifest("probe", &[]).replace("version = \"0.1.0\"", "version = \"0.2.0\"");
    std::fs::write(folder.join("skill.toml"), newer).unwrap();
    assert!(matches!(next(&changes), Change::Loaded(_)));
    let probe = || bench.host.skills().into_iter().find(|skill| skill.id.as_str() == "test/probe");
    assert_eq!(probe().unwrap().version, semver::Version::new(0, 2, 0));

    std::fs::write(folder.join("guest.wasm"), b"not a component").unwrap();
    assert!(matches!(next(&changes), Change::Refused { .. }));
    assert!(probe().is_some(), "the older version stays");

    std::fs::remove_dir_all(&folder).unwrap();
    assert!(matches!(next(&changes), Change::Removed(id) if id.as_str() == "test/probe"));
    assert!(probe().is_none());
}

#[test]
fn a_run_in_flight_keeps_its_version_when_the_skill_is_replaced() {
    let bench = Bench::new();
    let (_watch, changes) = watch(&bench);
    next(&changes);
    let hold = bench.robot.hold_time();
    let running = bench.start("hold the arm");
    let folder = bench.package_of("conduct", &manifest("conduct", &ALL[..4]), &component("probe"));
    assert!(matches!(next(&changes), Change::Loaded(_)), "{folder:?}");
    drop(hold);
    assert_eq!(futures_executor::block_on(running).value.unwrap().summary, "hold the arm");
}
