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
//! | a manifest that lies about the component's imports | refused with the permission to add, before anything runs |
//! | two packages with one id | the second by name is refused, and loaded when the first is gone |
//! | a package under a new name | loaded under it; the skill is there all the while |
//! | more packages than a host takes | the first by name are looked at, the folder is refused for the rest |
//! | a file that changes without end | looked at all the same, every half second |

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use crate::error::RuntimeError;
use crate::host::Host;
use crate::ids::SkillId;
use crate::manifest::{FILE, Manifest};

/// A build writes its files in many steps; packages are looked at once it has been quiet for so long.
const QUIET: Duration = Duration::from_millis(150);

/// They are looked at after so long, quiet or not: who keeps writing must not keep others from being loaded.
const LONGEST_UNREST: Duration = Duration::from_millis(500);

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
        /// The package.
        folder: PathBuf,
        /// Why.
        error: RuntimeError,
    },
}

/// Watches until it is dropped.
#[must_use = "dropping it ends the watch"]
pub struct Watch(Sender<Message>);

impl Drop for Watch {
    fn drop(&mut self) {
        // The thread may have ended already.
        let _ = self.0.send(Message::End);
    }
}

enum Message {
    Changed,
    End,
}

/// A package from outside: the sizes and times of its manifest and its component.
type Print = [Option<(u64, SystemTime)>; 2];

struct Packages {
    host: Host,
    folder: PathBuf,
    watcher: RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
    known: BTreeMap<PathBuf, Package>,
    /// It was said that there are too many packages.
    overfull: bool,
}

struct Package {
    print: Print,
    loaded: Option<SkillId>,
    /// The id that another package had first.
    rival: Option<SkillId>,
}

impl Host {
    /// Loads every skill package in the folders inside `folder`, and follows what changes there. `changed` is told, for
    /// what is there already before this returns, and for what comes later on a thread of the watch.
    ///
    /// # Errors
    /// [`RuntimeError::Watch`] if the folder cannot be watched.
    pub fn watch(&self, folder: &Path, changed: impl Fn(Change) + Send + 'static) -> Result<Watch, RuntimeError> {
        let wrong = |what: String| RuntimeError::Watch { path: folder.into(), what };
        let (sender, messages) = channel();
        let tell = sender.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading is no change; without this, looking at a package would be a reason to look again.
            if event.is_ok_and(|event| !event.kind.is_access()) {
                let _ = tell.send(Message::Changed);
            }
        });
        let mut packages = Packages {
            host: self.clone(),
            folder: folder.canonicalize().map_err(|error| wrong(error.to_string()))?,
            watcher: watcher.map_err(|error| wrong(error.to_string()))?,
            watched: BTreeSet::new(),
            known: BTreeMap::new(),
            overfull: false,
        };
        packages.follow(BTreeSet::new()).map_err(|error| wrong(error.to_string()))?;
        packages.look(&changed);
        let follow = move || packages.keep_looking(&messages, &changed);
        std::thread::Builder::new()
            .name("waza-watch".into())
            .spawn(follow)
            .map_err(|error| wrong(error.to_string()))?;
        Ok(Watch(sender))
    }
}

impl Packages {
    fn keep_looking(mut self, messages: &Receiver<Message>, changed: &impl Fn(Change)) {
        while let Ok(Message::Changed) = messages.recv() {
            let latest = Instant::now() + LONGEST_UNREST;
            loop {
                match messages.recv_timeout(QUIET.min(latest.saturating_duration_since(Instant::now()))) {
                    Ok(Message::Changed) => {}
                    Ok(Message::End) | Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => break,
                }
            }
            self.look(changed);
        }
    }

    fn look(&mut self, changed: &impl Fn(Change)) {
        // What appeared in a place before it was followed caused no event.
        while self.compare(changed) {}
    }

    /// Compares every package with what is known of it. Says whether it is to be done again: because new places are
    /// followed since, or a package went meanwhile.
    fn compare(&mut self, changed: &impl Fn(Change)) -> bool {
        let (folders, packages) = self.folders(changed);
        let mut places: BTreeSet<_> = folders.into_iter().collect();
        let mut went = false;
        for folder in &packages {
            let manifest = Manifest::open(folder).ok();
            let component = manifest.as_ref().map(|manifest| folder.join(&manifest.component));
            places.extend(component.as_deref().and_then(Path::parent).and_then(|it| it.canonicalize().ok()));
            let print = [print(&folder.join(FILE)), component.as_deref().and_then(print)];
            let owner = manifest.as_ref().and_then(|it| self.owner(&it.id, folder, &packages));
            if let Some(known) = self.known.get(folder)
                && known.print == print
                // A rival that is not there any more leaves the place to this one.
                && (known.rival.is_none() || owner.is_some())
            {
                continue;
            }
            let known = self.known.remove(folder);
            let rival = manifest.map(|it| it.id).zip(owner);
            let loaded = match &rival {
                Some((id, first)) => Err(RuntimeError::Duplicate { id: id.clone(), first: first.clone() }),
                None => self.host.load(folder),
            };
            let rival = rival.map(|(id, _)| id);
            if loaded.is_err() && !is_package(folder) {
                // It went while it was looked at. The next look does not find it any more.
                self.known.extend(known.map(|known| (folder.clone(), known)));
                went = true;
                continue;
            }
            let before = known.and_then(|known| known.loaded);
            match loaded {
                Ok(id) => {
                    self.known.insert(folder.clone(), Package { print, loaded: Some(id.clone()), rival });
                    // It may call itself something else than it did.
                    before.filter(|before| *before != id).into_iter().for_each(|before| self.forget(before, changed));
                    changed(Change::Loaded(id));
                }
                Err(error) => {
                    self.known.insert(folder.clone(), Package { print, loaded: before, rival });
                    changed(Change::Refused { folder: folder.clone(), error });
                }
            }
        }
        let gone: Vec<_> = self.known.extract_if(.., |folder, _| !packages.contains(folder)).collect();
        gone.into_iter().filter_map(|(_, package)| package.loaded).for_each(|id| self.forget(id, changed));
        let follows = self.follow(places).unwrap_or_else(|error| {
            tracing::warn!("not every change in {} will be seen: {error}", self.folder.display());
            false
        });
        follows || went
    }

    /// The folders inside, and which of them are packages that are looked at.
    fn folders(&mut self, changed: &impl Fn(Change)) -> (Vec<PathBuf>, BTreeSet<PathBuf>) {
        let mut folders = folders(&self.folder);
        let found = folders.len();
        folders.truncate(MOST_PACKAGES);
        if found > MOST_PACKAGES && !self.overfull {
            let error = RuntimeError::TooMany { path: self.folder.clone(), packages: found, most: MOST_PACKAGES };
            changed(Change::Refused { folder: self.folder.clone(), error });
        }
        self.overfull = found > MOST_PACKAGES;
        let packages = folders.iter().filter(|folder| is_package(folder)).cloned().collect();
        (folders, packages)
    }

    /// The other package that a skill is loaded from, if it is still there.
    fn owner(&self, id: &SkillId, but: &Path, packages: &BTreeSet<PathBuf>) -> Option<PathBuf> {
        let is_owner = |(folder, package): &(&PathBuf, &Package)| {
            package.loaded.as_ref() == Some(id) && *folder != but && packages.contains(*folder)
        };
        self.known.iter().find(is_owner).map(|(folder, _)| folder.clone())
    }

    /// Unloads a skill unless another package has taken it over.
    fn forget(&self, id: SkillId, changed: &impl Fn(Change)) {
        if !self.known.values().any(|package| package.loaded.as_ref() == Some(&id)) {
            self.host.unload(&id);
            changed(Change::Removed(id));
        }
    }

    /// Follows the folder and these places, and no others. A package's build folder is large; only where its component
    /// lies is followed.
    fn follow(&mut self, mut places: BTreeSet<PathBuf>) -> notify::Result<bool> {
        places.insert(self.folder.clone());
        for gone in self.watched.difference(&places) {
            // What was deleted is not followed any more.
            let _ = self.watcher.unwatch(gone);
        }
        let new: Vec<_> = places.difference(&self.watched).cloned().collect();
        self.watched = places;
        for place in &new {
            self.watcher.watch(place, RecursiveMode::NonRecursive)?;
        }
        Ok(!new.is_empty())
    }
}

fn folders(inside: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(inside).into_iter().flatten().filter_map(Result::ok);
    let mut folders: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

fn is_package(folder: &Path) -> bool {
    folder.join(FILE).is_file()
}

fn print(file: &Path) -> Option<(u64, SystemTime)> {
    let about = std::fs::metadata(file).ok()?;
    Some((about.len(), about.modified().ok()?))
}
