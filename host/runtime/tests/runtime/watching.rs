//! Hot loading.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use waza_robot::Pace;
use waza_runtime::{Change, HostOptions, Layout, Watch};

use crate::fixture::{ALL, Bench};
use crate::packages::{self, component, manifest, remove, replace};

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
        "leads out of its package",
        "truncated",
        "which its manifest does not ask for",
        "2147483648 bytes",
        "test/probe",
    ];
    let mut seen: Vec<_> = expected
        .iter()
        .map(|_| match next(&changes) {
            Change::Refused { error, .. } => error.to_string(),
            Change::Loaded(id) => id.to_string(),
            Change::Removed(id) => panic!("{id} is gone"),
        })
        .collect();
    for expected in expected {
        let at = seen.iter().position(|seen| seen.contains(expected));
        seen.remove(at.unwrap_or_else(|| panic!("{expected} is not in: {seen:?}")));
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
    // Of them, and of nothing more.
    let refused: Vec<_> = (0..1000).map(|_| next(&changes)).collect();
    assert!(refused.iter().all(|change| matches!(change, Change::Refused { .. })));
    assert!(changes.try_recv().is_err());
}

/// Of the skill `test/probe`.
fn version(bench: &Bench) -> Option<semver::Version> {
    bench.host.skills().into_iter().find(|it| it.id.as_str() == "test/probe").map(|it| it.version)
}

fn of_version(version: &str) -> String {
    manifest("probe", &[]).replace("version = \"0.1.0\"", &format!("version = \"{version}\""))
}

/// A package whose component is not there yet.
fn half_a_package(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    std::fs::write(folder.join("skill.toml"), of_version("0.2.0")).unwrap();
}

fn loaded(changes: &Receiver<Change>, id: &str) {
    let change = next(changes);
    assert!(matches!(&change, Change::Loaded(loaded) if loaded.as_str() == id), "{change:?}");
}

#[test]
fn a_package_that_is_deleted_and_made_again_is_loaded_when_it_is_whole() {
    let bench = Bench::new();
    let folder = bench.package("probe", &[]);
    let (_watch, changes) = watch(&bench);
    loaded(&changes, "test/conduct");
    loaded(&changes, "test/probe");
    for how in ["deleted", "moved away"] {
        match how {
            "deleted" => std::fs::remove_dir_all(&folder).unwrap(),
            _ => remove(&folder),
        }
        half_a_package(&folder);
        // Whatever was seen in between, the half of it is refused in the end.
        while !matches!(next(&changes), Change::Refused { .. }) {}
        replace(&folder.join("guest.wasm"), component("probe"));
        while !matches!(next(&changes), Change::Loaded(_)) {}
        assert_eq!(version(&bench), Some(semver::Version::new(0, 2, 0)), "{how}");
        replace(&folder.join("skill.toml"), of_version("0.1.0"));
        loaded(&changes, "test/probe");
    }
}

#[test]
fn a_build_folder_that_is_deleted_and_made_again_is_followed() {
    let bench = Bench::with(Pace::Lockstep, HostOptions { layout: Layout::BuildTree, ..HostOptions::default() }, ALL);
    let build = tempfile::tempdir().unwrap();
    let release = build.path().join("target/release");
    std::fs::create_dir_all(&release).unwrap();
    replace(&release.join("guest.wasm"), component("probe"));
    let path = release.join("guest.wasm");
    let elsewhere = of_version("0.1.0").replace("guest.wasm", path.to_str().unwrap());
    bench.package_of("probe", &elsewhere, &[]);
    let (_watch, changes) = watch(&bench);
    loaded(&changes, "test/conduct");
    loaded(&changes, "test/probe");
    let digest = || bench.host.skills().into_iter().find(|it| it.id.as_str() == "test/probe").unwrap().digest;
    let before = digest();

    std::fs::remove_dir_all(build.path().join("target")).unwrap();
    assert!(refusal(&changes).contains("No such file"), "the build was cleaned");
    assert_eq!(digest(), before, "the older version stays");
    std::fs::create_dir_all(&release).unwrap();
    replace(&path, component("examples/spin"));
    loaded(&changes, "test/probe");
    assert_ne!(digest(), before);
}

#[test]
fn a_folder_of_packages_that_is_moved_away_and_made_anew_is_followed_and_what_was_loaded_stays_meanwhile() {
    let bench = Bench::new();
    let (_watch, changes) = watch(&bench);
    loaded(&changes, "test/conduct");
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::rename(bench.packages.path(), elsewhere.path().join("packages")).unwrap();
    let why = refusal(&changes);
    assert!(why.contains("cannot watch") && why.contains("what was loaded stays"), "{why}");
    assert_eq!(bench.host.skills().len(), 1);

    std::fs::create_dir(bench.packages.path()).unwrap();
    assert!(matches!(next(&changes), Change::Removed(id) if id.as_str() == "test/conduct"));
    half_a_package(&bench.packages.path().join("probe"));
    while !refusal(&changes).contains("guest.wasm") {}
    replace(&bench.packages.path().join("probe/guest.wasm"), component("probe"));
    loaded(&changes, "test/probe");
}

#[cfg(unix)]
#[test]
fn a_link_to_a_release_that_is_switched_to_the_next_one_brings_its_packages_and_the_old_one_may_go() {
    use std::os::unix::fs::symlink;

    let bench = Bench::new();
    let releases = tempfile::tempdir().unwrap();
    for release in ["1", "2"] {
        let folder = releases.path().join(release);
        std::fs::create_dir(&folder).unwrap();
        packages::package(&folder.join("probe"), &of_version(&format!("0.{release}.0")), &component("probe"));
    }
    let current = releases.path().join("current");
    symlink("1", &current).unwrap();
    let (sender, changes) = channel();
    let _watch = bench.host.watch(&current, move |change| drop(sender.send(change))).unwrap();
    loaded(&changes, "test/probe");
    assert_eq!(version(&bench), Some(semver::Version::new(0, 1, 0)));

    let switched = releases.path().join("next");
    symlink("2", &switched).unwrap();
    std::fs::rename(&switched, &current).unwrap();
    loaded(&changes, "test/probe");
    assert_eq!(version(&bench), Some(semver::Version::new(0, 2, 0)));

    std::fs::remove_dir_all(releases.path().join("1")).unwrap();
    // The new release is followed like any other folder, and the old one's end changes nothing.
    replace(&current.join("probe/skill.toml"), of_version("0.3.0"));
    loaded(&changes, "test/probe");
    assert_eq!(version(&bench), Some(semver::Version::new(0, 3, 0)));
}

#[cfg(unix)]
#[test]
fn another_file_of_the_same_size_and_time_is_another_version() {
    let bench = Bench::new();
    let folder = bench.package_of("probe", &of_version("0.1.0"), &packages::relay("one"));
    let path = folder.join("guest.wasm");
    let (_watch, changes) = watch(&bench);
    next(&changes);
    next(&changes);
    let before = std::fs::metadata(&path).unwrap();
    let newer = packages::relay("two");
    assert_eq!(newer.len() as u64, before.len());
    // Written to, as `cp -p` does it.
    let written = std::fs::File::options().write(true).truncate(true).open(&path).unwrap();
    (&written).write_all(&newer).unwrap();
    written.set_modified(before.modified().unwrap()).unwrap();
    drop(written);
    next(&changes);
    // Put in its place, as `rsync -t` does it.
    let beside = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&beside, packages::relay("three")).unwrap();
    beside.as_file().set_modified(before.modified().unwrap()).unwrap();
    beside.persist(&path).unwrap();
    next(&changes);
}

/// Does this as somebody who is not root, whose limits nobody else shares: the threads that are started in it are theirs too.
#[cfg(target_os = "linux")]
fn as_nobody(work: impl FnOnce() + Send) {
    /// Nobody in particular.
    const SOMEBODY: libc::uid_t = 61_273;

    std::thread::scope(|scope| {
        let done = scope.spawn(|| {
            // SAFETY: the call takes three numbers. Unlike `libc::setresuid` the bare system call is of this thread alone.
            unsafe {
                if libc::geteuid() == 0 {
                    assert_eq!(libc::syscall(libc::SYS_setresuid, -1, SOMEBODY, -1), 0);
                }
            }
            work();
        });
        done.join().unwrap();
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_may_not_be_read_is_refused_and_keeps_no_other_from_being_followed() {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    let (conduct, probe) = (component("conduct"), component("probe"));
    as_nobody(|| {
        let bench = Bench::new();
        assert!(!conduct.is_empty());
        let closed = bench.packages.path().join("aaa");
        std::fs::create_dir(&closed).unwrap();
        std::fs::set_permissions(&closed, Permissions::from_mode(0o000)).unwrap();
        let folder = bench.packages.path().join("zzz");
        half_a_package(&folder);
        let (_watch, changes) = watch(&bench);
        let first = [0; 3].map(|_| format!("{:?}", next(&changes)));
        for expected in ["Permission denied", "Loaded(SkillId(\"test/conduct\"))", "zzz/guest.wasm"] {
            assert!(first.iter().any(|it| it.contains(expected)), "{expected} is not in: {first:?}");
        }
        replace(&folder.join("guest.wasm"), &probe);
        while !matches!(next(&changes), Change::Loaded(id) if id.as_str() == "test/probe") {}
        std::fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_system_that_has_no_more_watches_to_give_is_looked_at_all_the_same() {
    use rustix::fs::inotify;

    let probe = component("probe");
    as_nobody(|| {
        let bench = Bench::new();
        let taken: Vec<_> = std::iter::from_fn(|| inotify::init(inotify::CreateFlags::CLOEXEC).ok()).collect();
        assert!(!taken.is_empty());
        let (_watch, changes) = watch(&bench);
        loaded(&changes, "test/conduct");
        bench.package_of("probe", &of_version("0.1.0"), &probe);
        loaded(&changes, "test/probe");
    });
}
