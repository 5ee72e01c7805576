//! Hot loading: a folder of skill packages, watched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, SystemTime};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use crate::error::RuntimeError;
use crate::host::Host;
use crate::manifest::{FILE, Manifest, SkillId};

/// A build writes its files in many steps; packages are looked at once it has been quiet for so long.
const QUIET: Duration = Duration::from_millis(150);

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
}

struct Package {
    print: Print,
    loaded: Option<SkillId>,
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
            loop {
                match messages.recv_timeout(QUIET) {
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

    /// Compares every package with what is known of it. Says whether new places are followed since.
    fn compare(&mut self, changed: &impl Fn(Change)) -> bool {
        let mut places = BTreeSet::new();
        let mut present = BTreeSet::new();
        for folder in folders(&self.folder) {
            places.insert(folder.clone());
            let manifest = folder.join(FILE);
            if !manifest.is_file() {
                continue;
            }
            let component = Manifest::open(&folder).ok().map(|manifest| folder.join(manifest.component));
            places.extend(component.as_deref().and_then(Path::parent).and_then(|it| it.canonicalize().ok()));
            let print = [print(&manifest), component.as_deref().and_then(print)];
            present.insert(folder.clone());
            if self.known.get(&folder).is_some_and(|known| known.print == print) {
                continue;
            }
            let before = self.known.remove(&folder).and_then(|known| known.loaded);
            let (loaded, change) = match self.host.load(&folder) {
                Ok(id) => (Some(id.clone()), Change::Loaded(id)),
                Err(error) => (before, Change::Refused { folder: folder.clone(), error }),
            };
            self.known.insert(folder, Package { print, loaded });
            changed(change);
        }
        let gone: Vec<_> = self.known.extract_if(.., |folder, _| !present.contains(folder)).collect();
        for id in gone.into_iter().filter_map(|(_, package)| package.loaded) {
            self.host.unload(&id);
            changed(Change::Removed(id));
        }
        self.follow(places).unwrap_or_else(|error| {
            tracing::warn!("not every change in {} will be seen: {error}", self.folder.display());
            false
        })
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

fn print(file: &Path) -> Option<(u64, SystemTime)> {
    let about = std::fs::metadata(file).ok()?;
    Some((about.len(), about.modified().ok()?))
}
