//! Writes files on a thread of its own, so that no run waits for the disk on the thread that also works for its motion.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use futures_channel::oneshot;

use crate::state;

/// Whether a file has reached the disk. Cancelled if it was removed before.
pub(crate) type Written = oneshot::Receiver<io::Result<()>>;

/// The thread. Dropping this waits for what was ordered.
pub(crate) struct Scribe {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

/// Where orders are left.
pub(crate) struct Desk {
    orders: Mutex<Orders>,
    ordered: Condvar,
    done: Condvar,
}

#[derive(Default)]
struct Orders {
    /// At most one for a file: a newer takes the place of an older, and whoever waits for either is told of the newer.
    waiting: VecDeque<Order>,
    /// The file that is being written.
    writing: Option<PathBuf>,
    closed: bool,
}

struct Order {
    path: PathBuf,
    content: Vec<u8>,
    tell: Vec<oneshot::Sender<io::Result<()>>>,
}

impl Scribe {
    pub fn start() -> io::Result<Self> {
        let desk = Arc::new(Desk { orders: Mutex::default(), ordered: Condvar::new(), done: Condvar::new() });
        let theirs = desk.clone();
        let thread = std::thread::Builder::new().name("waza-scribe".into()).spawn(move || theirs.work())?;
        Ok(Self { desk, thread: Some(thread) })
    }

    pub fn desk(&self) -> Arc<Desk> {
        self.desk.clone()
    }
}

impl Drop for Scribe {
    fn drop(&mut self) {
        self.desk.lock().closed = true;
        self.desk.ordered.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there has lost what was not written, which the next host does not miss.
            let _ = thread.join();
        }
    }
}

impl Desk {
    /// Lets a file be written, whole or not at all, in place of one that is there.
    pub fn write(&self, path: &Path, content: Vec<u8>) -> Written {
        let (sender, written) = oneshot::channel();
        let mut orders = self.lock();
        match orders.waiting.iter_mut().find(|order| order.path == path) {
            Some(order) => {
                order.content = content;
                order.tell.push(sender);
            }
            None => orders.waiting.push_back(Order { path: path.into(), content, tell: vec![sender] }),
        }
        drop(orders);
        self.ordered.notify_one();
        written
    }

    /// Removes a file, and what was ordered for it. Returns when it is gone.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        let mut orders = self.lock();
        let forgotten = orders.waiting.iter().position(|order| order.path == path);
        let forgotten = forgotten.and_then(|index| orders.waiting.remove(index));
        let writing = |orders: &mut Orders| orders.writing.as_deref() == Some(path);
        drop(self.done.wait_while(orders, writing).unwrap_or_else(PoisonError::into_inner));
        // Telling somebody may run their code: not under the lock.
        drop(forgotten);
        std::fs::remove_file(path)
    }

    fn work(&self) {
        let mut orders = self.lock();
        loop {
            let idle = |orders: &mut Orders| orders.waiting.is_empty() && !orders.closed;
            orders = self.ordered.wait_while(orders, idle).unwrap_or_else(PoisonError::into_inner);
            let Some(Order { path, content, tell }) = orders.waiting.pop_front() else { return };
            orders.writing = Some(path.clone());
            drop(orders);
            let written = state::write(&path, &[&content]);
            if let Err(error) = &written {
                tracing::warn!("{} could not be written: {error}", path.display());
            }
            self.lock().writing = None;
            self.done.notify_all();
            for sender in tell {
                let again = written.as_ref().copied().map_err(|error| io::Error::new(error.kind(), error.to_string()));
                // Who does not wait any more does not mind.
                let _ = sender.send(again);
            }
            orders = self.lock();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Orders> {
        // Every change under this lock is a single step, so a panic cannot leave it half done.
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_content_is_what_stays_and_everybody_who_waited_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let scribe = Scribe::start().unwrap();
        let written: Vec<_> = (0..100).map(|number| scribe.desk.write(&path, vec![number; 1 << 16])).collect();
        for written in written {
            pollster::block_on(written).unwrap().unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), vec![99; 1 << 16]);
    }

    #[test]
    fn what_is_removed_does_not_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let scribe = Scribe::start().unwrap();
        for _ in 0..20 {
            let written = [1, 2, 3].map(|number| scribe.desk.write(&path, vec![number; 1 << 16]));
            let _ = scribe.desk.remove(&path);
            assert!(!path.exists());
            // Written before, or never.
            written.into_iter().for_each(|written| assert!(!matches!(pollster::block_on(written), Ok(Err(_)))));
            assert!(!path.exists());
        }
    }

    #[test]
    fn what_was_ordered_is_there_when_the_thread_has_ended_and_a_disk_that_refuses_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let scribe = Scribe::start().unwrap();
        let paths: Vec<_> = (0..10).map(|number| folder.path().join(format!("{number}"))).collect();
        paths.iter().for_each(|path| drop(scribe.desk.write(path, b"content".to_vec())));
        let refused = scribe.desk.write(&folder.path().join("no/such"), b"content".to_vec());
        drop(scribe);
        assert!(paths.iter().all(|path| std::fs::read(path).unwrap() == b"content"));
        assert_eq!(pollster::block_on(refused).unwrap().unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
