//! What a host finds of the one before it.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

use waza_robot::Pace;
use waza_runtime::{
    ControllerChange, Disk, Draft, Event, Host, HostOptions, RealDisk, Refusal, RunId, Running, RuntimeError,
    SkillError, SkillId, TaskRequest,
};

use crate::controller::{changes, swap};
use crate::fixture::{ALL, Bench, Turner};
use crate::packages::{component, manifest, relay};

fn bench(state: &Path) -> Bench {
    Bench::with(Pace::Lockstep, HostOptions { state: Some(state.into()), ..HostOptions::default() }, ALL)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() { found.extend(files(&entry.path())) } else { found.push(entry.path()) }
    }
    found
}

/// A run that has ended leaves nothing, as soon as the disk is there for that.
fn is_empty_soon(folder: &Path) {
    let began = Instant::now();
    while !files(folder).is_empty() {
        assert!(began.elapsed() < Duration::from_secs(60), "{:?} is left", files(folder));
        std::thread::sleep(Duration::from_millis(1));
    }
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
    is_empty_soon(&state.join("runs"));
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
    is_empty_soon(&state.path().join("runs"));
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
fn no_number_of_a_run_is_given_twice_however_the_host_ends() {
    let state = tempfile::tempdir().unwrap();
    let number = |bench: &Bench| bench.start("look").id().to_string().parse::<u64>().unwrap();
    let first = bench(state.path());
    let numbers: Vec<_> = (0..400).map(|_| number(&first)).collect();
    assert_eq!(numbers, (1..=400).collect::<Vec<_>>());
    // What a host that is killed now leaves.
    let killed = tempfile::tempdir().unwrap();
    std::fs::copy(state.path().join("next_run"), killed.path().join("next_run")).unwrap();
    assert!(number(&bench(killed.path())) > 400);
    drop(first);
    assert_eq!(number(&bench(state.path())), 401, "a host that ends in order leaves no gap");
    for damage in [&b""[..], b"no number", b"18446744073709551615", &[0xff; 9]] {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join("next_run"), damage).unwrap();
        assert_eq!(number(&bench(state.path())), 1);
        assert_eq!(std::fs::read(state.path().join("next_run.damaged")).unwrap(), damage);
    }
}

#[test]
fn a_checkpoint_under_the_name_of_another_run_is_set_aside() {
    let state = tempfile::tempdir().unwrap();
    killed(state.path());
    let [file] = files(&state.path().join("runs")).try_into().unwrap();
    std::fs::rename(&file, file.with_file_name("77.run")).unwrap();
    assert!(bench(state.path()).host.interrupted().is_empty());
    assert!(file.with_file_name("77.damaged").exists());
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
    let [first] =
        files(&compiled).into_iter().filter(|it| it.extension().is_some()).collect::<Vec<_>>().try_into().unwrap();
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
        let began = Instant::now();
        while resident_kib(place) != Some(0) {
            assert!(began.elapsed() < Duration::from_secs(60), "a run that waits keeps its code");
            std::thread::sleep(Duration::from_millis(50));
        }
        drop(hold);
        assert_eq!(futures_executor::block_on(waiting).value.unwrap().summary, "hold the arm");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_version_that_is_replaced_is_let_go_when_its_last_run_ends() {
    let state = tempfile::tempdir().unwrap();
    let bench = bench(state.path());
    let place = state.path().join("compiled").canonicalize().unwrap();
    let mapped = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let files =
            maps.lines().filter_map(|line| line.split_once(place.to_str().unwrap()).map(|(_, file)| file.to_owned()));
        files.filter(|file| file.ends_with(".cwasm")).collect::<BTreeSet<_>>().len()
    };
    assert_eq!(mapped(), 1);
    let load = |version: u32| {
        let told = manifest("relay", ALL).replace("version = \"0.1.0\"", &format!("version = \"0.{version}.0\""));
        bench.host.load(&bench.package_of("relay", &told, &relay(&format!("version{version}")))).unwrap();
    };
    load(0);
    let keeps = bench.start("hold the arm");
    (1..10).for_each(load);
    assert_eq!(mapped(), 2, "{}", std::fs::read_to_string("/proc/self/maps").unwrap());
    assert_eq!(futures_executor::block_on(keeps).value.unwrap().summary, "hold the arm");
    let other = manifest("conduct", ALL).replace("version = \"0.1.0\"", "version = \"0.2.0\"");
    // Time stands still: nobody asks it to change to the next.
    let _hold = bench.robot.hold_time();
    let waits = bench.start("wait forever");
    bench.host.load(&bench.package_of("conduct", &other, &component("probe"))).unwrap();
    assert_eq!(mapped(), 3, "a run keeps its version");
    drop(waits);
    let began = Instant::now();
    while mapped() != 2 {
        assert!(began.elapsed() < Duration::from_secs(60), "it is kept");
        std::thread::sleep(Duration::from_millis(10));
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

#[test]
fn a_state_folder_belongs_to_one_host_and_nobody_else_may_write_there() {
    let state = tempfile::tempdir().unwrap();
    let first = bench(state.path());
    let error = refusal(&first, state.path());
    assert!(error.contains("another host uses it"), "{error}");
    let state = tempfile::tempdir().unwrap();
    std::fs::set_permissions(state.path(), Permissions::from_mode(0o777)).unwrap();
    let error = refusal(&first, state.path());
    assert!(error.contains("chmod go-w"), "{error}");
}

/// Why a second host cannot use a folder.
fn refusal(bench: &Bench, state: &Path) -> String {
    let options = HostOptions { state: Some(state.into()), ..HostOptions::default() };
    let error = Host::new(bench.robot.clone(), Turner::new(Duration::ZERO), options).err().unwrap();
    assert!(matches!(&error, RuntimeError::State(_)), "{error}");
    error.to_string()
}

#[test]
fn a_state_folder_of_somebody_else_is_refused_and_so_is_one_that_a_link_leads_to() {
    let bench = Bench::new();
    let folder = tempfile::tempdir().unwrap();
    let (theirs, user) = (folder.path().join("theirs"), std::fs::metadata(folder.path()).unwrap().uid());
    std::fs::create_dir(&theirs).unwrap();
    // Only root can give a folder away; for everybody else there is one of root's.
    let theirs = match std::os::unix::fs::chown(&theirs, Some(user + 1), None) {
        Ok(()) => theirs,
        Err(_) => PathBuf::from("/"),
    };
    let error = refusal(&bench, &theirs);
    assert!(error.contains("belongs to user") && error.contains(&format!("runs as user {user}")), "{error}");

    let state = tempfile::tempdir().unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(state.path(), &link).unwrap();
    let error = refusal(&bench, &link);
    assert!(error.contains("symbolic link"), "{error}");
    // What lies in it is not followed out of it either.
    std::os::unix::fs::symlink(folder.path(), state.path().join("compiled")).unwrap();
    let error = refusal(&bench, state.path());
    assert!(error.contains("compiled: it is a symbolic link"), "{error}");
}

#[test]
fn nobody_else_can_take_the_lock_of_a_state_folder() {
    let state = tempfile::tempdir().unwrap();
    let lock = state.path().join("lock");
    // As earlier hosts made it.
    std::fs::write(&lock, "").unwrap();
    std::fs::set_permissions(&lock, Permissions::from_mode(0o644)).unwrap();
    let _bench = bench(state.path());
    assert_eq!(std::fs::metadata(&lock).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn what_a_killed_host_had_begun_to_write_is_removed() {
    let state = tempfile::tempdir().unwrap();
    drop(bench(state.path()));
    let left = ["", "runs", "compiled"].map(|folder| state.path().join(folder).join(".tmpAbC123"));
    left.iter().for_each(|draft| std::fs::write(draft, "half a fi").unwrap());
    let _bench = bench(state.path());
    assert!(left.iter().all(|draft| !draft.exists()));
}

#[test]
fn a_checkpoint_that_the_next_host_could_not_read_is_refused() {
    let state = tempfile::tempdir().unwrap();
    let bench = bench(state.path());
    let of = |bytes: usize| TaskRequest {
        instruction: "count".into(),
        parameters: "x".repeat(bytes),
        ..TaskRequest::default()
    };
    let error = futures_executor::block_on(bench.start_with(of(4 << 20))).value.unwrap_err().to_string();
    assert!(error.contains("the checkpoint could not be kept") && error.contains("4194309 bytes"), "{error}");
    futures_executor::block_on(bench.start_with(of(3 << 20))).value.unwrap();
}

/// A bench with a state folder and with `relay`, which leaves checkpoints and behaves like that when it is resumed.
fn relaying(state: &Path, conduct: &str) -> Bench {
    let bench = bench(state);
    let manifest = manifest("relay", &["durable", "motion:body", "model", "sensing"]);
    bench.host.load(&bench.package_of("relay", &manifest, &relay(conduct))).unwrap();
    bench
}

/// Tells of each checkpoint that has reached the disk.
fn checkpoints() -> (impl Fn(Event) + Send + Sync + 'static, mpsc::Receiver<usize>) {
    let (sender, checkpoints) = mpsc::channel();
    let tell = move |event| {
        if let Event::Checkpoint { bytes } = event {
            // Nobody may look any more.
            let _ = sender.send(bytes);
        }
    };
    (tell, checkpoints)
}

/// Starts `relay` as if it had been before, and waits until a few of its checkpoints are on the disk.
fn relayed(bench: &Bench, instruction: &str) -> Running {
    let (instruction, parameters) = (instruction.into(), "1000000".into());
    let request = TaskRequest { instruction, parameters, resume: Some(vec![0; 4]), ..TaskRequest::default() };
    let (tell, checkpoints) = checkpoints();
    let running = bench.host.run("test/relay", request, tell);
    for _ in 0..3 {
        checkpoints.recv().unwrap();
    }
    running
}

fn waiting(bench: &Bench) -> Vec<RunId> {
    bench.host.interrupted().into_iter().map(|run| run.id).collect()
}

/// Whether an interrupted run goes on, from a checkpoint of its own.
fn goes_on(bench: &Bench, run: RunId) {
    let [left] = bench.host.interrupted().try_into().unwrap();
    let step = u32::from_le_bytes(left.request.resume.clone().unwrap().try_into().unwrap());
    assert!(left.id == run && step >= 3, "{run}: {step}");
    let (tell, checkpoints) = checkpoints();
    let running = bench.host.resume(run, tell).unwrap();
    assert_eq!(waiting(bench), []);
    checkpoints.recv().unwrap();
    running.interrupt();
    futures_executor::block_on(running).value.unwrap_err();
    let [again] = bench.host.interrupted().try_into().unwrap();
    assert!(u32::from_le_bytes(again.request.resume.clone().unwrap().try_into().unwrap()) > step);
}

#[test]
fn a_run_that_ends_with_its_host_goes_on_in_the_same_host_or_in_the_next() {
    let state = tempfile::tempdir().unwrap();
    let bench = relaying(state.path(), "steady");
    let running = relayed(&bench, "count");
    let run = running.id();
    running.interrupt();
    assert!(matches!(futures_executor::block_on(running).value, Err(SkillError::Stopped { .. })));
    goes_on(&bench, run);
    drop(bench);
    let bench = relaying(state.path(), "steady");
    goes_on(&bench, run);
    // Nobody waits for it any more, as when what had started it has crashed.
    drop(bench.host.resume(run, |_| ()).unwrap());
    drop(bench);
    let bench = relaying(state.path(), "steady");
    goes_on(&bench, run);
    assert!(bench.host.forget(run));
    drop(bench);
    assert_eq!(waiting(&relaying(state.path(), "steady")), []);
}

#[test]
fn a_run_whose_motion_the_host_stop_ended_goes_on_when_that_is_reset() {
    let state = tempfile::tempdir().unwrap();
    let bench = relaying(state.path(), "jump");
    let running = relayed(&bench, "turn");
    let run = running.id();
    bench.robot.stop();
    let ended = futures_executor::block_on(running).value;
    assert!(matches!(ended, Err(SkillError::Returned { refusal: Refusal::Stopped, .. })), "{ended:?}");
    assert_eq!(waiting(&bench), [run]);
    bench.robot.reset(bench.robot.stopped().unwrap());
    goes_on(&bench, run);
}

#[test]
fn a_run_that_came_to_its_own_end_or_that_is_wanted_no_more_leaves_nothing() {
    let state = tempfile::tempdir().unwrap();
    for (conduct, expected) in [("steady", "stopped"), ("panic later", "crashed"), ("fail later", "the block is gone")]
    {
        let bench = relaying(state.path(), conduct);
        let (instruction, parameters) = ("count".into(), "1000000".into());
        let request = TaskRequest { instruction, parameters, resume: Some(vec![0; 4]), ..TaskRequest::default() };
        let (tell, checkpoints) = checkpoints();
        let running = bench.host.run("test/relay", request, tell);
        checkpoints.recv().unwrap();
        if conduct == "steady" {
            // Whoever leaves at the same time does not outweigh who wants it no more.
            running.interrupt();
            running.stop();
            running.interrupt();
        }
        let error = futures_executor::block_on(running).value.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(waiting(&bench), []);
        is_empty_soon(&state.path().join("runs"));
    }
}

#[test]
fn a_run_whose_skill_is_quarantined_can_still_be_resumed_when_that_is_pardoned() {
    let state = tempfile::tempdir().unwrap();
    killed(state.path());
    let bench = bench(state.path());
    let [run] = waiting(&bench).try_into().unwrap();
    let conduct: SkillId = "test/conduct".to_owned().try_into().unwrap();
    assert!(bench.host.quarantine(&conduct, "it is not trusted"));
    let refused = futures_executor::block_on(bench.host.resume(run, |_| ()).unwrap()).value;
    assert!(matches!(refused, Err(SkillError::Quarantined { .. })), "{refused:?}");
    assert_eq!(waiting(&bench), [run]);
    assert!(bench.host.pardon(&conduct));
    let resumed = bench.host.resume(run, |_| ()).unwrap();
    assert_eq!(futures_executor::block_on(resumed).value.unwrap().data, "1");
}

/// A disk that takes nothing while it stands.
#[derive(Default)]
struct SlowDisk {
    stands: Mutex<bool>,
    goes: Condvar,
}

/// Lets a disk go again, at the latest when a test has failed.
struct Standing(Arc<SlowDisk>);

impl SlowDisk {
    fn stand(self: &Arc<Self>) -> Standing {
        *self.stands.lock().unwrap() = true;
        Standing(self.clone())
    }

    fn wait(&self) {
        drop(self.goes.wait_while(self.stands.lock().unwrap(), |stands| *stands).unwrap());
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        *self.0.stands.lock().unwrap() = false;
        self.0.goes.notify_all();
    }
}

impl Disk for SlowDisk {
    fn create(&self, folder: &Path) -> io::Result<Box<dyn Draft>> {
        self.wait();
        RealDisk.create(folder)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.wait();
        RealDisk.sync_folder(folder)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.wait();
        RealDisk.remove(path)
    }
}

/// Does something while the disk of a host stands still, and fails if it waits for that.
fn while_the_disk_stands(state: &Path, work: impl FnOnce(&Bench) + Send + 'static) {
    let disk = Arc::new(SlowDisk::default());
    let options = HostOptions { state: Some(state.into()), ..HostOptions::default() };
    let bench = Bench::keeping(Turner::new(Duration::ZERO), Pace::Lockstep, options, ALL, disk.clone());
    let (sender, done) = mpsc::channel();
    let standing = disk.stand();
    let working = std::thread::spawn(move || {
        work(&bench);
        let _ = sender.send(());
        bench
    });
    let waited = done.recv_timeout(Duration::from_secs(120));
    drop(standing);
    let bench = working.join().unwrap();
    assert!(waited.is_ok(), "somebody waits for the disk");
    drop(bench);
}

#[test]
fn while_the_disk_stands_a_controller_that_fails_is_replaced_in_the_same_tick() {
    let state = tempfile::tempdir().unwrap();
    while_the_disk_stands(state.path(), |bench| {
        let data = swap(bench, "engage: 0.3, 5");
        assert!(data.starts_with("0.30 [") && !data.contains("command_age"), "{data}");
        let changes = changes(bench);
        let [ControllerChange::Swapped { .. }, ControllerChange::Kept { .. }] = changes.as_slice() else {
            panic!("{changes:?}")
        };
        assert_eq!(bench.host.quarantined().len(), 1);
    });
    assert_eq!(bench(state.path()).host.quarantined().len(), 1, "it is known when the disk goes again");
}

#[test]
fn while_the_disk_stands_nobody_waits_to_run_to_judge_to_pardon_or_to_forget() {
    let state = tempfile::tempdir().unwrap();
    killed(state.path());
    let conduct: SkillId = "test/conduct".to_owned().try_into().unwrap();
    let judged = conduct.clone();
    while_the_disk_stands(state.path(), move |bench| {
        let [run] = waiting(bench).try_into().unwrap();
        assert!(bench.host.forget(run) && !bench.host.forget(run));
        (0..3).for_each(|_| drop(bench.run("panic").unwrap_err()));
        assert!(matches!(bench.run("look"), Err(SkillError::Quarantined { .. })));
        assert!(bench.host.pardon(&judged));
        // More than were reserved for these.
        (0..300).for_each(|_| drop(bench.data("look")));
        assert!(bench.host.quarantine(&judged, "it is not trusted"));
    });
    let bench = bench(state.path());
    assert_eq!(waiting(&bench), []);
    assert_eq!(bench.host.quarantined().len(), 1);
    assert_eq!(bench.start("look").id().to_string(), "306");
}
