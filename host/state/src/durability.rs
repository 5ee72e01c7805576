//! What was acknowledged is there after the host was killed, and after the power went.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use waza_package::{Digest, VersionId};

use crate::checkpoints::{RunFile, RunFiles};
use crate::disk::{Disk, Draft, RealDisk};
use crate::folder::StateFolder;
use crate::run::{RunId, TaskRequest};
use crate::run_numbers::RunNumbers;
use crate::writer::Written;

/// Runs that leave checkpoints in a state folder, as a host's do.
struct Runs {
    numbers: RunNumbers,
    files: Arc<RunFiles>,
    live: Vec<(RunId, RunFile, u64)>,
    /// Checkpoints of which nobody knows yet whether they are on the disk.
    waiting: Vec<(RunId, u64, Written)>,
    version: VersionId,
    random: ChaCha8Rng,
    // Last, as a host's.
    _state: StateFolder,
}

/// What a host said of its runs.
#[derive(Clone, Copy)]
enum Said {
    /// A run has that number.
    Begun(u64),
    /// That checkpoint of it is on the disk.
    Kept(u64, u64),
    /// It has come to its end.
    Ended(u64),
}

impl Runs {
    fn open(folder: &Path, disk: Arc<dyn Disk>, seed: u64) -> Self {
        let state = StateFolder::open(folder, disk).unwrap();
        let files = RunFiles::open(&state).unwrap();
        let id = "test/run".to_owned().try_into().unwrap();
        let version = VersionId { id, version: semver::Version::new(1, 0, 0), digest: Digest::of(b"component") };
        Self {
            numbers: RunNumbers::open(Some(&state), files.last()),
            files,
            live: Vec::new(),
            waiting: Vec::new(),
            version,
            random: ChaCha8Rng::seed_from_u64(seed),
            _state: state,
        }
    }

    /// One thing that happens to one of them.
    fn step(&mut self, say: &mut dyn FnMut(Said)) {
        let pick = self.random.next_u32() as usize;
        match pick % 16 {
            0 | 1 => {
                let run = self.numbers.next();
                self.live.push((run, self.files.of(run), 0));
                say(Said::Begun(run.0));
            }
            2 if !self.live.is_empty() => {
                let (run, file, _) = self.live.remove(pick / 16 % self.live.len());
                say(Said::Ended(run.0));
                file.remove();
            }
            3..8 => self.settle(say),
            _ if !self.live.is_empty() => {
                let index = pick / 16 % self.live.len();
                let (run, file, count) = &mut self.live[index];
                *count += 1;
                let filler = vec![*count as u8; self.random.next_u32() as usize % 6000];
                let state = [&count.to_le_bytes(), &filler[..]].concat();
                let written = file.keep(self.version.clone(), &TaskRequest::default(), &state).unwrap();
                self.waiting.push((*run, *count, written));
            }
            _ => {}
        }
    }

    /// Waits for the disk.
    fn settle(&mut self, say: &mut dyn FnMut(Said)) {
        for (run, count, written) in self.waiting.drain(..) {
            if let Ok(Ok(())) = pollster::block_on(written) {
                say(Said::Kept(run.0, count));
            }
        }
    }
}

/// All that hosts with one state folder said.
#[derive(Default)]
struct Log {
    begun: BTreeSet<u64>,
    kept: BTreeMap<u64, u64>,
    ended: BTreeSet<u64>,
}

impl Log {
    fn note(&mut self, said: Said) {
        match said {
            Said::Begun(run) => assert!(self.begun.insert(run), "{run} is given twice"),
            // Of a run that has ended nothing need be there.
            Said::Kept(run, _) if self.ended.contains(&run) => {}
            Said::Kept(run, count) => drop(self.kept.insert(run, count)),
            Said::Ended(run) => {
                self.ended.insert(run);
                self.kept.remove(&run);
            }
        }
    }

    /// The next host finds at least what was acknowledged, whole, and gives no number again.
    fn check(&mut self, folder: &Path, disk: Arc<dyn Disk>) {
        let next = Runs::open(folder, disk, 0);
        let count = |state: &[u8]| u64::from_le_bytes(state[..8].try_into().unwrap());
        let found =
            next.files.interrupted().into_iter().map(|run| (run.id.0, count(run.request.resume.as_ref().unwrap())));
        let found: BTreeMap<_, _> = found.collect();
        for (run, kept) in &self.kept {
            assert!(
                found.get(run) >= Some(kept),
                "{kept} of run {run} was acknowledged, there is {:?}",
                found.get(run)
            );
        }
        let others = std::fs::read_dir(folder.join("runs")).unwrap().map(|entry| entry.unwrap().path());
        let others: Vec<_> = others.filter(|path| path.extension().is_none_or(|it| it != "run")).collect();
        assert!(others.is_empty(), "{others:?} is left");
        let number = next.numbers.next().0;
        assert!(self.begun.last() < Some(&number), "{number} is given twice");
        found.keys().for_each(|run| assert!(next.files.forget(RunId(*run))));
        self.kept.clear();
    }
}

/// Names the state folder of a host that is to be killed.
const FOLDER: &str = "WAZA_TEST_STATE_FOLDER";

/// Only in the process that the test below kills.
#[test]
fn a_host_that_is_to_be_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let mut runs = Runs::open(Path::new(&folder), Arc::new(RealDisk), u64::from(std::process::id()));
    let mut say = |said| {
        let line = match said {
            Said::Begun(run) => format!("\nbegun {run}\n"),
            Said::Kept(run, count) => format!("\nkept {run} {count}\n"),
            Said::Ended(run) => format!("\nended {run}\n"),
        };
        io::stdout().write_all(line.as_bytes()).unwrap();
    };
    loop {
        runs.step(&mut say);
    }
}

#[test]
fn of_two_hundred_hosts_that_are_killed_each_leaves_every_checkpoint_that_it_acknowledged() {
    const KILLS: usize = 200;
    let folder = tempfile::tempdir().unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut log = Log::default();
    let mut acknowledged = 0;
    for _ in 0..KILLS {
        let mut host = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "durability::a_host_that_is_to_be_killed", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(host.stdout.take().unwrap()).lines();
        let words = random.next_u32() % 12;
        let mut hear = |line: io::Result<String>| {
            let line = line.unwrap();
            let (what, numbers) = line.split_once(' ').unwrap_or_default();
            let numbers: Vec<u64> = numbers.split(' ').filter_map(|number| number.parse().ok()).collect();
            match (what, numbers.as_slice()) {
                ("begun", &[run]) => log.note(Said::Begun(run)),
                ("kept", &[run, count]) => {
                    acknowledged += 1;
                    log.note(Said::Kept(run, count));
                }
                ("ended", &[run]) => log.note(Said::Ended(run)),
                _ => return false,
            }
            true
        };
        let mut heard = 0;
        while heard < words {
            heard += u32::from(hear(lines.next().unwrap()));
        }
        std::thread::sleep(Duration::from_micros(u64::from(random.next_u32() % 4000)));
        host.kill().unwrap();
        host.wait().unwrap();
        // A line that was cut off was said to nobody.
        let rest: Vec<_> = lines.collect();
        for line in rest {
            hear(line);
        }
        log.check(folder.path(), Arc::new(RealDisk));
    }
    assert!(acknowledged > KILLS, "{acknowledged} checkpoints are no test");
}

/// A file system whose power goes after so many operations, and which keeps no more than it has promised: what a file holds
/// since it was last synced, and what a name leads to since its folder was.
#[derive(Default)]
struct Model {
    /// Operations until the power goes.
    left: usize,
    files: Vec<ModelFile>,
    /// What each name has led to since its folder was synced, first what it led to then.
    names: BTreeMap<PathBuf, Vec<Option<usize>>>,
}

#[derive(Default)]
struct ModelFile {
    content: Vec<u8>,
    is_synced: bool,
}

#[derive(Clone)]
struct ModelDisk(Arc<Mutex<Model>>);

struct ModelDraft {
    disk: ModelDisk,
    path: PathBuf,
    file: usize,
}

impl Model {
    fn operate(&mut self) -> io::Result<()> {
        let left = self.left.checked_sub(1).ok_or_else(|| io::Error::other("the power is gone"))?;
        self.left = left;
        Ok(())
    }

    fn name(&mut self, path: &Path, file: Option<usize>) {
        self.names.entry(path.into()).or_insert_with(|| vec![None]).push(file);
    }

    /// What could be found when the power is back.
    fn after(&self, random: &mut ChaCha8Rng) -> BTreeMap<&Path, Vec<u8>> {
        let mut pick = |among: RangeInclusive<usize>| {
            among.start() + random.next_u32() as usize % (among.end() - among.start() + 1)
        };
        let mut found = BTreeMap::new();
        for (path, led_to) in &self.names {
            let Some(file) = led_to[pick(0..=led_to.len() - 1)] else { continue };
            let ModelFile { content, is_synced } = &self.files[file];
            let mut content = content.clone();
            if !is_synced {
                content.truncate(pick(0..=content.len()));
                for sector in content.chunks_mut(512) {
                    if pick(0..=1) == 0 {
                        sector.fill(0);
                    }
                }
            }
            found.insert(path.as_path(), content);
        }
        found
    }
}

impl ModelDisk {
    fn with_power_for(operations: usize) -> Self {
        Self(Arc::new(Mutex::new(Model { left: operations, ..Model::default() })))
    }
}

impl Disk for ModelDisk {
    fn create(&self, folder: &Path) -> io::Result<Box<dyn Draft>> {
        let mut model = self.0.lock();
        model.operate()?;
        let file = model.files.len();
        model.files.push(ModelFile::default());
        let path = folder.join(format!("{}{file}", crate::disk::DRAFT));
        model.name(&path, Some(file));
        Ok(Box::new(ModelDraft { disk: self.clone(), path, file }))
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let mut model = self.0.lock();
        model.operate()?;
        let of_folder = model.names.iter_mut().filter(|(path, _)| path.parent() == Some(folder));
        of_folder.for_each(|(_, led_to)| drop(led_to.drain(..led_to.len() - 1)));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut model = self.0.lock();
        model.operate()?;
        if model.names.get(path).and_then(|led_to| *led_to.last()?).is_none() {
            return Err(io::ErrorKind::NotFound.into());
        }
        model.name(path, None);
        Ok(())
    }
}

impl Draft for ModelDraft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut model = self.disk.0.lock();
        model.operate()?;
        let file = &mut model.files[self.file];
        file.content.extend_from_slice(bytes);
        file.is_synced = false;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut model = self.disk.0.lock();
        model.operate()?;
        model.files[self.file].is_synced = true;
        Ok(())
    }

    fn rename(self: Box<Self>, path: &Path) -> io::Result<()> {
        let mut model = self.disk.0.lock();
        model.operate()?;
        model.name(&self.path, None);
        model.name(path, Some(self.file));
        Ok(())
    }
}

#[test]
fn a_power_cut_at_any_operation_of_the_disk_leaves_every_checkpoint_that_was_acknowledged() {
    const STEPS: usize = 80;
    const OUTCOMES: u64 = 3;
    let mut cuts = 0;
    for seed in 0..3 {
        for operations in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let disk = ModelDisk::with_power_for(operations);
            let mut said = Vec::new();
            let mut runs = Runs::open(folder.path(), Arc::new(disk.clone()), seed);
            // A host whose disk takes nothing at its start has been told so.
            let number_is_kept = operations > 4;
            for _ in 0..STEPS {
                runs.step(&mut |it| said.push(it));
            }
            runs.settle(&mut |it| said.push(it));
            // A host that is not there any more takes no number back.
            let has_power = std::mem::take(&mut disk.0.lock().left) > 0;
            drop(runs);
            for outcome in 0..OUTCOMES {
                let folder = tempfile::tempdir().unwrap();
                let mut random = ChaCha8Rng::seed_from_u64(operations as u64 * OUTCOMES + outcome);
                crate::folder::make(&folder.path().join("runs")).unwrap();
                for (path, content) in disk.0.lock().after(&mut random) {
                    std::fs::write(folder.path().join(within(path)), content).unwrap();
                }
                let mut log = Log::default();
                said.iter()
                    .filter(|said| number_is_kept || !matches!(said, Said::Begun(_)))
                    .for_each(|said| log.note(*said));
                log.check(folder.path(), Arc::new(ModelDisk::with_power_for(usize::MAX)));
            }
            if has_power {
                break;
            }
            cuts += 1;
        }
    }
    assert!(cuts >= 200, "{cuts} points are no test");
}

/// Where a path lies in the state folder.
fn within(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap();
    if path.parent().unwrap().ends_with("runs") { Path::new("runs").join(name) } else { name.into() }
}
