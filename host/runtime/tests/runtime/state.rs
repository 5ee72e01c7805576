//! What a host finds of the one before it.

use std::path::Path;

use waza_robot::Pace;
use waza_runtime::{Event, HostOptions, RuntimeError, TaskRequest};

use crate::fixture::{ALL, Bench};

fn bench(state: &Path) -> Bench {
    Bench::with(Pace::Lockstep, HostOptions { state: Some(state.into()), ..HostOptions::default() }, ALL)
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() { found.extend(files(&entry.path())) } else { found.push(entry.path()) }
    }
    found
}

/// Makes a host, lets a run leave a checkpoint, and keeps the file that it would leave if it were killed then.
fn killed(state: &Path) {
    let bench = bench(state);
    let (runs, kept) = (state.join("runs"), state.join("kept"));
    std::fs::create_dir(&kept).unwrap();
    let keep = move |event: Event| {
        if matches!(event, Event::Checkpoint { .. }) {
            let [file] = files(&runs).try_into().unwrap();
            std::fs::copy(&file, kept.join(file.file_name().unwrap())).unwrap();
        }
    };
    let request = TaskRequest { instruction: "count".into(), seed: 7, priority: 3, ..TaskRequest::default() };
    let running = bench.host.run("test/conduct", request, keep);
    futures_executor::block_on(running).value.unwrap();
    assert!(files(&state.join("runs")).is_empty(), "a run that ended leaves nothing");
    drop(bench);
    for file in files(&state.join("kept")) {
        std::fs::rename(&file, state.join("runs").join(file.file_name().unwrap())).unwrap();
    }
}

#[test]
fn a_run_of_a_killed_host_is_offered_and_goes_on_from_its_checkpoint_when_somebody_asks() {
    let state = tempfile::tempdir().unwrap();
    killed(state.path());
    let bench = bench(state.path());
    let [left] = bench.host.interrupted().try_into().unwrap();
    assert_eq!((left.skill.as_str(), left.request.instruction.as_str()), ("test/conduct", "count"));
    assert_eq!((left.request.seed, left.request.priority, left.request.resume.as_deref()), (7, 3, Some(&[1][..])));
    bench.reach(50);
    assert!(bench.host.runs().is_empty(), "nothing goes on by itself");
    let resumed = bench.host.resume(left.id, |_| ()).unwrap();
    assert_eq!(futures_executor::block_on(resumed).value.unwrap().data, "1");
    assert!(bench.host.interrupted().is_empty());
    assert!(bench.host.resume(left.id, |_| ()).is_none());
    assert!(files(&state.path().join("runs")).is_empty());
}

#[test]
fn a_run_that_is_forgotten_is_not_offered_again() {
    let state = tempfile::tempdir().unwrap();
    killed(state.path());
    let first = bench(state.path());
    let id = first.host.interrupted()[0].id;
    assert!(first.host.forget(id) && !first.host.forget(id));
    drop(first);
    assert!(bench(state.path()).host.interrupted().is_empty());
}

#[test]
fn numbers_of_runs_go_on_after_those_that_are_left() {
    let state = tempfile::tempdir().unwrap();
    killed(state.path());
    let bench = bench(state.path());
    let left = bench.host.interrupted()[0].id;
    assert!(bench.start("look").id() > left);
}

#[test]
fn a_damaged_checkpoint_is_set_aside_and_the_host_starts() {
    for damage in [&b""[..], b"{}\n", b"no json\nat all", &[0xff; 4096]] {
        let state = tempfile::tempdir().unwrap();
        killed(state.path());
        let [file] = files(&state.path().join("runs")).try_into().unwrap();
        std::fs::write(&file, damage).unwrap();
        assert!(bench(state.path()).host.interrupted().is_empty());
        assert!(file.with_extension("damaged").exists() && !file.exists());
    }
    let state = tempfile::tempdir().unwrap();
    killed(state.path());
    let [file] = files(&state.path().join("runs")).try_into().unwrap();
    let whole = std::fs::read(&file).unwrap();
    for end in 0..whole.len() {
        std::fs::write(&file, &whole[..end]).unwrap();
        assert!(waza_runtime::Interrupted::read(&file).is_err(), "{end} of {} bytes were taken", whole.len());
    }
}

#[test]
fn a_checkpoint_that_does_not_fit_on_the_disk_is_refused_and_the_one_before_stays() {
    let state = tempfile::tempdir().unwrap();
    let bench = bench(state.path());
    // No file can be made in a folder that is gone, whoever asks.
    std::fs::remove_dir(state.path().join("runs")).unwrap();
    let error = bench.run("count").unwrap_err().to_string();
    assert!(error.contains("failed: the checkpoint could not be kept") && error.contains("the one before"), "{error}");
}

#[test]
fn a_component_is_compiled_once_and_a_damaged_or_stale_cache_is_a_miss() {
    let state = tempfile::tempdir().unwrap();
    let compiled = state.path().join("compiled");
    drop(bench(state.path()));
    let [first] = files(&compiled).try_into().unwrap();
    let written = std::fs::metadata(&first).unwrap().modified().unwrap();
    assert_eq!(bench(state.path()).data("look"), "shoulder_pan 0.000 6");
    assert_eq!(std::fs::metadata(&first).unwrap().modified().unwrap(), written, "a hit is not written again");
    let whole = std::fs::read(&first).unwrap();
    for damage in [&whole[..whole.len() / 2], b"", b"rubbish"] {
        // Not in place: whoever has mapped the file keeps what it was.
        std::fs::remove_file(&first).unwrap();
        std::fs::write(&first, damage).unwrap();
        assert_eq!(bench(state.path()).data("look"), "shoulder_pan 0.000 6");
        assert_eq!(std::fs::read(&first).unwrap(), whole);
    }
    // What another engine compiled has the right digest and is of no use.
    let other = b"compiled by another version";
    let renamed = first.with_file_name(format!("{}.cwasm", sha256(other)));
    std::fs::remove_file(&first).unwrap();
    std::fs::write(&renamed, other).unwrap();
    assert_eq!(bench(state.path()).data("look"), "shoulder_pan 0.000 6");
    assert_eq!(std::fs::read(&first).unwrap(), whole);
}

#[cfg(target_os = "linux")]
#[test]
fn the_code_of_a_skill_takes_memory_only_while_it_runs() {
    let state = tempfile::tempdir().unwrap();
    let place = state.path().join("compiled").canonicalize();
    // The first host compiles, the second finds what it compiled.
    for _ in 0..2 {
        let bench = bench(state.path());
        let place = place.as_deref().unwrap_or(state.path()).to_str().unwrap();
        assert_eq!(resident_kib(place), Some(0), "loading leaves nothing");
        assert_eq!(bench.data("look"), "shoulder_pan 0.000 6");
        assert!(resident_kib(place) > Some(0));
        let waiting = bench.start("hold the arm");
        let hold = bench.robot.hold_time();
        let began = std::time::Instant::now();
        while resident_kib(place) != Some(0) {
            assert!(began.elapsed() < std::time::Duration::from_secs(60), "a run that waits keeps its code");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        drop(hold);
        assert_eq!(futures_executor::block_on(waiting).value.unwrap().summary, "hold the arm");
    }
}

/// What is in memory of the code that lies in files under `place`; none: there is no code. Not what instances were filled
/// with from there.
fn resident_kib(place: &str) -> Option<u64> {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut of_ours = false;
    let mut resident = None;
    for line in maps.lines() {
        if line.contains(" rw") || line.contains(" r-") {
            of_ours = line.contains(place) && !line.contains(" rw");
        } else if let Some(kib) = line.strip_prefix("Rss:").filter(|_| of_ours) {
            let kib: u64 = kib.trim().trim_end_matches(" kB").parse().unwrap();
            *resident.get_or_insert(0) += kib;
        }
    }
    resident
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_state_folder_belongs_to_one_host_and_nobody_else_may_write_there() {
    let state = tempfile::tempdir().unwrap();
    let first = bench(state.path());
    let open = || {
        let options = HostOptions { state: Some(state.path().into()), ..HostOptions::default() };
        waza_runtime::Host::new(first.robot.clone(), crate::fixture::Turner::new(std::time::Duration::ZERO), options)
    };
    let error = open().err().unwrap();
    assert!(matches!(&error, RuntimeError::State { .. }), "{error}");
    assert!(error.to_string().contains("another host uses it"), "{error}");
    let state = tempfile::tempdir().unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(state.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let options = HostOptions { state: Some(state.path().into()), ..HostOptions::default() };
    let model = crate::fixture::Turner::new(std::time::Duration::ZERO);
    let error = waza_runtime::Host::new(first.robot.clone(), model, options).err().unwrap().to_string();
    assert!(error.contains("chmod go-w"), "{error}");
}
