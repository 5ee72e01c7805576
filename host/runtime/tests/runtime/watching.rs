//! Hot loading.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use waza_runtime::{Change, Watch};

use crate::fixture::{ALL, Bench};
use crate::packages::{component, manifest, remove, replace};

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
    replace(&folder.join("skill.toml"), newer);
    assert!(matches!(next(&changes), Change::Loaded(_)));
    let probe = || bench.host.skills().into_iter().find(|skill| skill.id.as_str() == "test/probe");
    assert_eq!(probe().unwrap().version, semver::Version::new(0, 2, 0));

    replace(&folder.join("guest.wasm"), b"not a component");
    assert!(matches!(next(&changes), Change::Refused { .. }));
    assert!(probe().is_some(), "the older version stays");

    remove(&folder);
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

/// What a package was refused for.
fn refusal(changes: &Receiver<Change>) -> String {
    match next(changes) {
        Change::Refused { error, .. } => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[cfg(unix)]
#[test]
fn bad_packages_are_refused_each_with_its_reason_and_the_rest_is_loaded() {
    use std::os::unix::fs::symlink;

    let bench = Bench::new();
    let empty = |name: &str| bench.package_of(name, &manifest(name, &[]), &[]).join("guest.wasm");
    empty("a-empty");
    let huge = std::fs::File::create(empty("b-huge")).unwrap();
    // Sparse: it has no blocks, but whoever reads it reads 2 GB.
    huge.set_len(2 << 30).unwrap();
    let (circle, other) = (empty("c-circle"), bench.packages.path().join("circle"));
    std::fs::remove_file(&circle).unwrap();
    symlink(&other, &circle).unwrap();
    symlink(&circle, &other).unwrap();
    symlink(bench.packages.path(), bench.packages.path().join("inside-itself")).unwrap();
    let endless = empty("d-endless");
    std::fs::remove_file(&endless).unwrap();
    symlink("/dev/zero", &endless).unwrap();
    bench.package_of("e-half", &manifest("e-half", &[]), &component("probe")[..5000]);
    bench.package_of("f-liar", &manifest("f-liar", &["sensing"]), &component("conduct"));
    let toml = bench.package_of("g-huge-manifest", "", &[]).join("skill.toml");
    std::fs::File::create(toml).unwrap().set_len(2 << 30).unwrap();
    bench.package("probe", &[]);

    let (_watch, changes) = watch(&bench);
    let expected = [
        "the file is empty",
        "has 2147483648 bytes, the host takes at most",
        "symbolic link",
        "test/conduct",
        "it is no file",
        "truncated",
        "which its manifest does not ask for",
        "2147483648 bytes",
        "test/probe",
    ];
    for expected in expected {
        let seen = match next(&changes) {
            Change::Refused { error, .. } => error.to_string(),
            Change::Loaded(id) => id.to_string(),
            Change::Removed(id) => panic!("{id} is gone"),
        };
        assert!(seen.contains(expected), "{expected} is not in: {seen}");
    }
}

#[test]
fn of_two_packages_with_one_id_the_second_waits_until_the_first_is_gone() {
    let bench = Bench::new();
    let (_watch, changes) = watch(&bench);
    next(&changes);
    let first = bench.package("probe", &[]);
    assert!(matches!(next(&changes), Change::Loaded(_)));
    let newer = manifest("probe", &[]).replace("version = \"0.1.0\"", "version = \"0.2.0\"");
    bench.package_of("a-rival", &newer, &component("probe"));
    let why = refusal(&changes);
    assert!(why.contains("test/probe is loaded from") && why.contains("probe already"), "{why}");
    let version = || bench.host.skills().into_iter().find(|it| it.id.as_str() == "test/probe").unwrap().version;
    assert_eq!(version(), semver::Version::new(0, 1, 0));

    remove(&first);
    assert!(matches!(next(&changes), Change::Loaded(id) if id.as_str() == "test/probe"));
    assert_eq!(version(), semver::Version::new(0, 2, 0));
}

#[test]
fn a_package_that_is_renamed_is_there_all_the_while_and_one_that_renames_itself_is_not_there_twice() {
    let bench = Bench::new();
    let folder = bench.package("probe", &[]);
    let (_watch, changes) = watch(&bench);
    next(&changes);
    next(&changes);
    let renamed = bench.packages.path().join("other-name");
    std::fs::rename(&folder, &renamed).unwrap();
    assert!(matches!(next(&changes), Change::Loaded(id) if id.as_str() == "test/probe"));

    let other = manifest("probe", &[]).replace("test/probe", "test/other");
    replace(&renamed.join("skill.toml"), other);
    assert!(matches!(next(&changes), Change::Removed(id) if id.as_str() == "test/probe"));
    assert!(matches!(next(&changes), Change::Loaded(id) if id.as_str() == "test/other"));
    let ids: Vec<_> = bench.host.skills().into_iter().map(|it| it.id.to_string()).collect();
    assert_eq!(ids, ["test/conduct", "test/other"]);
}

#[test]
fn a_file_that_changes_without_end_does_not_keep_others_from_being_loaded() {
    let bench = Bench::new();
    let noisy = bench.package_of("noisy", "not a manifest", &[]);
    let (_watch, changes) = watch(&bench);
    next(&changes);
    next(&changes);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for count in 0.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                std::fs::write(noisy.join("log"), format!("{count}")).unwrap();
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        bench.package("probe", &[]);
        // Without a limit to its patience the watch would never look.
        let loaded = next(&changes);
        done.store(true, Ordering::Relaxed);
        assert!(matches!(loaded, Change::Loaded(id) if id.as_str() == "test/probe"));
    });
}

#[test]
fn a_new_version_that_is_copied_in_slow_pieces_is_loaded_when_it_is_whole_and_the_old_one_stays_until_then() {
    let bench = Bench::new();
    let folder = bench.package("probe", &[]);
    let (_watch, changes) = watch(&bench);
    next(&changes);
    next(&changes);
    let digest = || bench.host.skills().into_iter().find(|it| it.id.as_str() == "test/probe").unwrap().digest;
    let before = digest();
    let newer = component("examples/spin");
    let mut file = std::fs::File::create(folder.join("guest.wasm")).unwrap();
    for piece in newer.chunks(newer.len() / 8) {
        assert_eq!(digest(), before);
        file.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(120));
    }
    drop(file);
    loop {
        match next(&changes) {
            Change::Refused { error, .. } => {
                assert_eq!(digest(), before);
                let what = error.to_string();
                assert!(what.contains("truncated") || what.contains("empty"), "{what}");
            }
            Change::Loaded(_) => break,
            Change::Removed(id) => panic!("{id} is gone"),
        }
    }
    assert_ne!(digest(), before);
}

#[test]
fn of_five_thousand_packages_the_first_are_looked_at_and_the_folder_is_refused_for_the_rest() {
    let bench = Bench::new();
    for number in 0..5000 {
        let folder = bench.packages.path().join(format!("{number:04}"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("skill.toml"), "not a manifest").unwrap();
    }
    let (_watch, changes) = watch(&bench);
    let why = refusal(&changes);
    assert!(why.contains("has 5001 folders, the host looks at the first 1000"), "{why}");
    let refused = changes.try_iter().filter(|change| matches!(change, Change::Refused { .. })).count();
    assert_eq!(refused, 1000);
}
