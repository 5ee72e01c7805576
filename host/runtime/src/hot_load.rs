//! Hot loading: a folder of skill packages, watched.
//!
//! Whatever lies in the folder, the host goes on, and what was loaded stays until there is something better:
//!
//! | what lies there | what becomes of it |
//! |---|---|
//! | a package that is half copied, or still being copied | refused as truncated; loaded when it is whole |
//! | a component of no bytes | refused as empty |
//! | a component or manifest of gigabytes | refused by its size, unread |
//! | a device or a pipe in place of a file | refused as no file, unopened |
//! | a symbolic link that leads in a circle | as a folder unseen; as a component refused as unreadable |
//! | a file that a link or its name takes out of the package | refused, unread |
//! | a component that takes long to compile, or that breaks the compiler | the rest is loaded meanwhile; refused in the end |
//! | a manifest that lies about the component's imports | refused with the permission to add, before anything runs |
//! | two packages with one id | the second by name is refused, and loaded when the first is gone |
//! | a package under a new name | loaded under it; the skill is there all the while |
//! | more packages than a host takes | the first by name are looked at, the folder is refused for the rest |
//! | a file that changes without end | looked at all the same, every half second |
//! | a folder that may not be read | refused with the reason; the others are followed all the same |
//! | a folder that is deleted or moved away, and made again | followed anew, the folder of packages itself too |
//! | no folder of packages any more, or one that cannot be read | what was loaded stays; looked at again when it is back |
//! | a link in place of the folder of packages | the packages that it leads to; when it leads elsewhere, those |
//! | another file of the same size and time | loaded, for it is another file or was changed since |
//! | a place from which no events come: a network mount, or no inotify watches left | looked at every two seconds |
//!
//! What the operating system tells of changes is a hint, which makes the host look sooner. What is there is found out by
//! looking, so a hint that never comes costs two seconds and nothing else.
//!
//! Several packages are loaded at once, small ones first. Nobody knows how long a compiler takes before it has, so each gets
//! little of its time at first; those that need more come after all others, and never take the last of the threads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use notify::event::ModifyKind;
use notify::{ErrorKind, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::{Condvar, Mutex};
use waza_package::manifest::{FILE, Manifest};
use waza_package::{Cost, Flaw, PackageError, Patience, SkillId};

use crate::error::RuntimeError;
use crate::host::Host;

/// A build writes its files in many steps; packages are looked at once it has been quiet for so long.
const QUIET: Duration = Duration::from_millis(150);

/// They are looked at after so long, quiet or not: who keeps writing must not keep others from being loaded.
const LONGEST_UNREST: Duration = Duration::from_millis(500);

/// They are looked at after so long though no change was told. For a package this is two calls of `stat`.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Packages in one folder.
const MOST_PACKAGES: usize = 1000;

/// What became of a package.
#[derive(Debug)]
pub enum Change {
    /// It is loaded, in place of an older version if there was one.
    Loaded(SkillId),
    /// It is gone, and the skill is unloaded. Runs in flight go on.
    Removed(SkillId),
    /// It was not loaded; if an older version was, that stays.
    Refused {
        /// The package, or the folder of all packages.
        folder: PathBuf,
        /// Why.
        error: RuntimeError,
    },
}

/// Watches until it is dropped.
#[must_use = "dropping it ends the watch"]
pub struct Watch {
    signal: Arc<Signal>,
    queue: Arc<Queue>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.signal.state.lock().over = true;
        self.signal.woken.notify_one();
        self.queue.close();
    }
}

/// What the thread of a watch waits for.
#[derive(Default)]
struct Signal {
    state: Mutex<State>,
    woken: Condvar,
}

#[derive(Default)]
struct State {
    /// Something has changed since the last look.
    changed: bool,
    /// Nobody wants to know any more.
    over: bool,
    /// What loading has come to.
    done: Vec<Done>,
    /// The folders whose changes are told, by canonical path. The watch of a folder ends with that folder; what has its path
    /// afterwards is another one.
    watched: BTreeMap<PathBuf, FileId>,
}

impl Signal {
    /// Takes what the operating system tells.
    fn tell(&self, event: notify::Result<notify::Event>) {
        let mut state = self.state.lock();
        match event {
            // Reading is no change; without this, looking at a package would be a reason to look again.
            Ok(event) if event.kind.is_access() => return,
            Ok(event) if !event.need_rescan() => {
                if matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))) {
                    state.watched.retain(|path, _| !event.paths.contains(path));
                }
            }
            // Events are lost, and with them perhaps the end of a folder.
            _ => state.watched.clear(),
        }
        state.changed = true;
        self.woken.notify_one();
    }

    /// Takes what loading has come to.
    fn done(&self, done: Done) {
        self.state.lock().done.push(done);
        self.woken.notify_one();
    }

    /// Waits until something was loaded or refused, or something has changed and it is quiet again, or it is time to look all
    /// the same. None: it is over.
    fn wait(&self) -> Option<Woken> {
        let idle = |state: &mut State| !(state.changed || state.over) && state.done.is_empty();
        let mut state = self.state.lock();
        self.woken.wait_while_for(&mut state, idle, LOOK_AGAIN);
        let latest = Instant::now() + LONGEST_UNREST;
        while state.done.is_empty() && std::mem::take(&mut state.changed) && Instant::now() < latest {
            self.woken.wait_while_until(&mut state, idle, latest.min(Instant::now() + QUIET));
        }
        let woken = Woken { done: std::mem::take(&mut state.done), is_quiet: !state.changed };
        (!state.over).then_some(woken)
    }
}

/// Why the thread of a watch goes on.
struct Woken {
    done: Vec<Done>,
    /// Packages can be looked at: they do not change just now.
    is_quiet: bool,
}

/// A package that is to be loaded, in the order in which that is done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Order {
    patience: Patience,
    /// Of its component.
    bytes: u64,
    folder: PathBuf,
}

/// What loading has come to.
struct Done {
    order: Order,
    loaded: Result<SkillId, RuntimeError>,
}

/// Packages that wait for a thread which loads them.
#[derive(Default)]
struct Queue {
    state: Mutex<Waiting>,
    woken: Condvar,
}

#[derive(Default)]
struct Waiting {
    orders: BTreeSet<Order>,
    /// Threads that are at work with long patience.
    long: usize,
    over: bool,
}

impl Queue {
    fn add(&self, orders: impl IntoIterator<Item = Order>) {
        self.state.lock().orders.extend(orders);
        self.woken.notify_all();
    }

    fn close(&self) {
        self.state.lock().over = true;
        self.woken.notify_all();
    }

    /// Waits for the next that one of so many threads may take. None: it is over.
    fn take(&self, threads: usize) -> Option<Order> {
        let mut state = self.state.lock();
        loop {
            if state.over {
                return None;
            }
            if let Some(order) = state.next(threads) {
                return Some(order);
            }
            self.woken.wait(&mut state);
        }
    }

    fn took(&self, order: &Order) {
        if order.patience == Patience::Long {
            self.state.lock().long -= 1;
            self.woken.notify_all();
        }
    }
}

impl Waiting {
    /// The next that one of so many threads may take; the last of them takes nothing that needs long.
    fn next(&mut self, threads: usize) -> Option<Order> {
        let may_take = |order: &&Order| order.patience == Patience::Short || self.long + 1 < threads;
        let order = self.orders.first().filter(may_take)?.clone();
        self.orders.remove(&order);
        self.long += usize::from(order.patience == Patience::Long);
        Some(order)
    }
}

/// Whether the compiler's time was too short for it.
fn needs_patience(loaded: &Result<SkillId, RuntimeError>) -> bool {
    use PackageError::Component;
    matches!(loaded, Err(RuntimeError::Package(Component { flaw: Flaw::Costly(Cost::Time(_)), .. })))
}

struct Packages {
    host: Host,
    /// As it was given: it may be a link, which may lead elsewhere tomorrow.
    folder: PathBuf,
    signal: Arc<Signal>,
    queue: Arc<Queue>,
    /// None: the system had none left. It is asked again at every look.
    watcher: Option<RecommendedWatcher>,
    known: BTreeMap<PathBuf, Package>,
    /// What was said of the folder: that it cannot be read, or has too many packages.
    said: Option<Complaint>,
    /// Why changes are not told at once, as it was last said.
    deaf: Option<String>,
}

#[derive(PartialEq)]
enum Complaint {
    Unreadable(io::ErrorKind),
    Overfull,
}

struct Package {
    manifest: Option<Print>,
    component: Option<Print>,
    /// What the manifest says.
    about: Option<About>,
    loaded: Option<SkillId>,
    stage: Stage,
}

#[derive(PartialEq)]
enum Stage {
    /// It waits for being loaded.
    Loading,
    /// It was loaded or refused, as it was found.
    Settled,
    /// Another package had its id first.
    HasRival,
}

impl Package {
    /// The skill that is about to be loaded from it.
    fn awaited(&self) -> Option<&SkillId> {
        self.about.as_ref().filter(|_| self.stage == Stage::Loading).map(|about| &about.id)
    }
}

#[derive(Clone)]
struct About {
    id: SkillId,
    component: PathBuf,
}

impl Host {
    /// Loads every skill package in the folders inside `folder`, and follows what changes there. This waits for none of them:
    /// `changed` is told on a thread of the watch.
    ///
    /// # Errors
    /// [`RuntimeError::Watch`] if the folder cannot be read.
    pub fn watch(&self, folder: &Path, changed: impl Fn(Change) + Send + 'static) -> Result<Watch, RuntimeError> {
        let wrong = |error: io::Error| RuntimeError::Watch { path: folder.into(), what: error.to_string() };
        let (signal, queue) = (Arc::<Signal>::default(), Arc::<Queue>::default());
        let mut packages = Packages {
            host: self.clone(),
            folder: std::path::absolute(folder).map_err(wrong)?,
            signal: signal.clone(),
            queue: queue.clone(),
            watcher: None,
            known: BTreeMap::new(),
            said: None,
            deaf: None,
        };
        let root = folder.canonicalize().and_then(|root| fs::read_dir(&root).map(|_| root)).map_err(wrong)?;
        packages.follow([root].into());
        let watch = Watch { signal: signal.clone(), queue: queue.clone() };
        // The second is there for what the first takes long for.
        let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 4));
        for _ in 0..threads {
            let (host, signal, queue) = (self.clone(), signal.clone(), queue.clone());
            let load = move || {
                while let Some(order) = queue.take(threads) {
                    let loaded = host.load_within(&order.folder, order.patience);
                    queue.took(&order);
                    signal.done(Done { order, loaded });
                }
            };
            std::thread::Builder::new().name("waza-load".into()).spawn(load).map_err(wrong)?;
        }
        let follow = move || {
            packages.look(&changed);
            while let Some(Woken { done, is_quiet }) = packages.signal.wait() {
                done.into_iter().for_each(|done| packages.settle(done, &changed));
                if is_quiet {
                    packages.look(&changed);
                }
            }
        };
        std::thread::Builder::new().name("waza-watch".into()).spawn(follow).map_err(wrong)?;
        Ok(watch)
    }
}

impl Packages {
    fn look(&mut self, changed: &impl Fn(Change)) {
        // What appeared in a place before it was followed caused no event.
        while self.compare(changed) {}
    }

    /// Compares every package with what is known of it. Says whether it is to be done again, because new places are followed
    /// since.
    fn compare(&mut self, changed: &impl Fn(Change)) -> bool {
        let Some((folders, packages)) = self.folders(changed) else { return false };
        let mut places: BTreeSet<_> = folders.iter().filter_map(|folder| folder.canonicalize().ok()).collect();
        let mut orders = Vec::new();
        for folder in &packages {
            let known = self.known.get(folder);
            let manifest = Print::of(&folder.join(FILE));
            let about = match known {
                Some(known) if known.manifest == manifest => known.about.clone(),
                _ => Manifest::open(folder).ok().map(|it| About { id: it.id, component: folder.join(it.component) }),
            };
            let component = about.as_ref().map(|about| about.component.as_path());
            places.extend(component.and_then(Path::parent).and_then(|it| it.canonicalize().ok()));
            let component = component.and_then(Print::of);
            let rival = about.as_ref().and_then(|about| self.owner(&about.id, folder, &packages));
            if let Some(known) = known
                // What has changed since is seen when it is loaded.
                && (known.stage == Stage::Loading
                    || (known.manifest, known.component) == (manifest, component)
                    // A rival that is not there any more leaves the place to this one.
                    && (known.stage == Stage::Settled || rival.is_some()))
            {
                continue;
            }
            let loaded = self.known.remove(folder).and_then(|known| known.loaded);
            let stage = match about.as_ref().map(|about| about.id.clone()).zip(rival) {
                Some((id, first)) => {
                    let error = RuntimeError::Duplicate { id, first };
                    changed(Change::Refused { folder: folder.clone(), error });
                    Stage::HasRival
                }
                None => {
                    let bytes = component.map_or(0, |print| print.bytes);
                    orders.push(Order { patience: Patience::Short, bytes, folder: folder.clone() });
                    Stage::Loading
                }
            };
            let package = Package { manifest, component, about, loaded, stage };
            self.known.insert(folder.clone(), package);
        }
        self.queue.add(orders);
        let is_gone =
            |folder: &PathBuf, package: &mut Package| !packages.contains(folder) && package.stage != Stage::Loading;
        let gone: Vec<_> = self.known.extract_if(.., is_gone).collect();
        for id in gone.into_iter().filter_map(|(_, package)| package.loaded) {
            // Under another name it is about to be loaded, and there meanwhile.
            let is_heir = |package: &&mut Package| package.loaded.is_none() && package.awaited() == Some(&id);
            match self.known.values_mut().find(is_heir) {
                Some(heir) => heir.loaded = Some(id),
                None => self.forget(id, changed),
            }
        }
        self.follow(places)
    }

    /// Takes in what loading a package has come to.
    fn settle(&mut self, done: Done, changed: &impl Fn(Change)) {
        let Done { order, loaded } = done;
        if order.patience == Patience::Short && needs_patience(&loaded) {
            self.queue.add([Order { patience: Patience::Long, ..order }]);
            return;
        }
        let folder = order.folder;
        let Some(package) = self.known.get_mut(&folder) else { return };
        package.stage = Stage::Settled;
        match loaded {
            Ok(id) => {
                let before = package.loaded.replace(id.clone());
                // It may call itself something else than it did.
                before.filter(|before| *before != id).into_iter().for_each(|before| self.forget(before, changed));
                changed(Change::Loaded(id));
            }
            // It went while it was looked at. The next look does not find it any more.
            Err(_) if !is_package(&folder) => {}
            Err(error) => changed(Change::Refused { folder, error }),
        }
    }

    /// The folders inside, and which of them are packages that are looked at. None: the folder itself cannot be read, and
    /// nobody knows what is there.
    fn folders(&mut self, changed: &impl Fn(Change)) -> Option<(Vec<PathBuf>, BTreeSet<PathBuf>)> {
        let read = folders(&self.folder);
        let complaint = match &read {
            Ok(folders) => (folders.len() > MOST_PACKAGES).then_some(Complaint::Overfull),
            Err(error) => Some(Complaint::Unreadable(error.kind())),
        };
        let is_news = complaint.is_some() && complaint != self.said;
        self.said = complaint;
        let path = self.folder.clone();
        let error = match &read {
            Ok(folders) => RuntimeError::TooMany { path, packages: folders.len(), most: MOST_PACKAGES },
            Err(error) => RuntimeError::Watch { path, what: format!("{error}; what was loaded stays") },
        };
        if is_news {
            changed(Change::Refused { folder: self.folder.clone(), error });
        }
        let mut folders = read.ok()?;
        folders.truncate(MOST_PACKAGES);
        let packages = folders.iter().filter(|folder| is_package(folder)).cloned().collect();
        Some((folders, packages))
    }

    /// The other package that a skill is loaded from, or is about to be, if it is still there.
    fn owner(&self, id: &SkillId, but: &Path, packages: &BTreeSet<PathBuf>) -> Option<PathBuf> {
        let has = |package: &Package| [package.loaded.as_ref(), package.awaited()].contains(&Some(id));
        let is_owner =
            |(folder, package): &(&PathBuf, &Package)| has(package) && *folder != but && packages.contains(*folder);
        self.known.iter().find(is_owner).map(|(folder, _)| folder.clone())
    }

    /// Unloads a skill unless another package has taken it over.
    fn forget(&self, id: SkillId, changed: &impl Fn(Change)) {
        if !self.known.values().any(|package| package.loaded.as_ref() == Some(&id)) {
            self.host.unload(&id);
            changed(Change::Removed(id));
        }
    }

    /// Watches these folders and no others, and says whether there are any that were not watched before. A package's build
    /// folder is large; only where its component lies is watched.
    fn follow(&mut self, places: BTreeSet<PathBuf>) -> bool {
        let (mut any_new, mut failures) = (false, Vec::new());
        if self.watcher.is_none() {
            let signal = self.signal.clone();
            let made = notify::recommended_watcher(move |event| signal.tell(event));
            self.watcher = made.map_err(|error| failures.push(explain(&error))).ok();
        }
        if let Some(watcher) = &mut self.watcher {
            let watched = self.signal.state.lock().watched.clone();
            for gone in watched.keys().filter(|path| !places.contains(*path)) {
                // One that was deleted is not watched any more.
                let _ = watcher.unwatch(gone);
                self.signal.state.lock().watched.remove(gone);
            }
            for (place, id) in places.iter().filter_map(|place| Some((place, FileId::of(place)?))) {
                if watched.get(place) == Some(&id) {
                    continue;
                }
                // A folder that was moved away is still watched, under the path that it had.
                let _ = watcher.unwatch(place);
                // First, so that its end is not told before it is here.
                self.signal.state.lock().watched.insert(place.clone(), id);
                match watcher.watch(place, RecursiveMode::NonRecursive) {
                    Ok(()) => any_new = true,
                    Err(error) => {
                        self.signal.state.lock().watched.remove(place);
                        failures.push(format!("{}: {}", place.display(), explain(&error)));
                    }
                }
            }
        }
        self.complain(failures);
        any_new
    }

    /// Says once why changes are not told at once, and once that they are again.
    fn complain(&mut self, failures: Vec<String>) {
        let deaf = failures.into_iter().next();
        if deaf == self.deaf {
            return;
        }
        let folder = self.folder.display();
        match &deaf {
            Some(why) => tracing::warn!("changes in {folder} are looked for every {LOOK_AGAIN:?}, and not told: {why}"),
            None => tracing::info!("changes in {folder} are told again"),
        }
        self.deaf = deaf;
    }
}

/// The first failure's way out, where there is one.
fn explain(error: &notify::Error) -> String {
    /// Of Linux and every other Unix.
    const EMFILE: i32 = 24;
    let limit = |what: &str, key: &str| format!("{what}; raise the limit with `sysctl fs.inotify.{key}=N`");
    match &error.kind {
        ErrorKind::MaxFilesWatch => limit("no inotify watches are left", "max_user_watches"),
        ErrorKind::Io(error) if error.raw_os_error() == Some(EMFILE) => {
            limit("no inotify instances are left, or no file handles", "max_user_instances")
        }
        ErrorKind::Io(error) => error.to_string(),
        _ => error.to_string(),
    }
}

fn folders(inside: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(inside)?.filter_map(Result::ok);
    let mut folders: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    Ok(folders)
}

/// Whether there is a manifest. What cannot be looked at may be one: it is not gone.
fn is_package(folder: &Path) -> bool {
    match fs::metadata(folder.join(FILE)) {
        Ok(about) => about.is_file(),
        Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    }
}

/// Which file it is, whatever its name: its device and inode. Elsewhere than on Unix all are taken for the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId([u64; 2]);

impl FileId {
    fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|about| Self::in_metadata(&about))
    }

    #[cfg(unix)]
    fn in_metadata(about: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self([about.dev(), about.ino()])
    }

    #[cfg(not(unix))]
    fn in_metadata(_: &Metadata) -> Self {
        Self([0; 2])
    }
}

/// A file from outside. One that is put in its place, or written to, has another, though size and time be kept: nobody but
/// the system sets the time of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Print {
    id: FileId,
    bytes: u64,
    modified: SystemTime,
    /// Seconds and nanoseconds, on Unix.
    changed: [i64; 2],
}

impl Print {
    fn of(file: &Path) -> Option<Self> {
        let about = fs::metadata(file).ok()?;
        let (id, modified) = (FileId::in_metadata(&about), about.modified().ok()?);
        Some(Self { id, bytes: about.len(), modified, changed: changed(&about) })
    }
}

#[cfg(unix)]
fn changed(about: &Metadata) -> [i64; 2] {
    use std::os::unix::fs::MetadataExt;
    [about.ctime(), about.ctime_nsec()]
}

#[cfg(not(unix))]
fn changed(_: &Metadata) -> [i64; 2] {
    [0; 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quick_and_small_is_loaded_first_and_what_takes_long_never_takes_the_last_thread() {
        let order = |patience, bytes| Order { patience, bytes, folder: "package".into() };
        let (quick, larger) = (order(Patience::Short, 10), order(Patience::Short, 1000));
        let (slow, slower) = (order(Patience::Long, 1), order(Patience::Long, 2));
        let mut waiting = Waiting::default();
        waiting.orders.extend([&slower, &larger, &slow, &quick].map(Order::clone));
        let next = |waiting: &mut Waiting| waiting.next(2);
        assert_eq!([next(&mut waiting), next(&mut waiting)], [Some(quick.clone()), Some(larger)]);
        assert_eq!([next(&mut waiting), next(&mut waiting)], [Some(slow), None]);
        waiting.orders.insert(quick.clone());
        assert_eq!([next(&mut waiting), next(&mut waiting)], [Some(quick), None]);
        waiting.long -= 1;
        assert_eq!(next(&mut waiting), Some(slower));
    }

    #[test]
    fn a_limit_of_the_system_is_named_with_the_setting_that_raises_it() {
        let watches = explain(&notify::Error::new(ErrorKind::MaxFilesWatch));
        assert!(watches.contains("sysctl fs.inotify.max_user_watches"), "{watches}");
        let instances = explain(&notify::Error::io(io::Error::from_raw_os_error(24)));
        assert!(instances.contains("sysctl fs.inotify.max_user_instances"), "{instances}");
    }
}
