//! Writes and removes files on a thread of its own, so that nobody else waits for the disk: not the thread of a run, which also
//! works for its motion, not the one that calls a controller in every tick, and not the one that serves the operator.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use futures_channel::oneshot;
use parking_lot::{Condvar, Mutex};

use crate::disk::{self, Disk};

/// Whether a file has reached the disk. Cancelled if it was removed before, or if nothing is written any more.
pub type Written = oneshot::Receiver<io::Result<()>>;

/// The thread. Dropping this waits for what was ordered.
pub struct DiskWriter {
    writer: Writer,
    thread: Option<JoinHandle<()>>,
}

/// Where writes are ordered. Nothing here waits for the disk.
#[derive(Clone)]
pub struct Writer(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is something in the queue, or it is closed.
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    /// At most one for a file: a newer takes the place of an older, and whoever waits for either is told of the newer.
    waiting: VecDeque<Write>,
    closed: bool,
}

/// What is to become of a file.
struct Write {
    path: PathBuf,
    content: Option<Content>,
    tell: Vec<oneshot::Sender<io::Result<()>>>,
}

/// Makes a file's content, on the thread that writes it.
type Content = Box<dyn FnOnce() -> io::Result<Vec<u8>> + Send>;

impl DiskWriter {
    /// Starts it.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(disk: Arc<dyn Disk>) -> io::Result<Self> {
        let writer = Writer(Arc::default());
        let shared = writer.0.clone();
        let work = move || {
            let _closing = Closing(&shared);
            shared.work(&*disk);
        };
        let thread = std::thread::Builder::new().name("waza-disk".into()).spawn(work)?;
        Ok(Self { writer, thread: Some(thread) })
    }

    /// Where writes are ordered.
    pub fn writer(&self) -> Writer {
        self.writer.clone()
    }
}

impl Drop for DiskWriter {
    fn drop(&mut self) {
        self.writer.0.queue.lock().closed = true;
        self.writer.0.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there has lost what was not written, and whoever waited was told.
            let _ = thread.join();
        }
    }
}

/// Even if the thread panics nobody waits for it for ever.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.closed = true;
        let lost = std::mem::take(&mut queue.waiting);
        drop(queue);
        drop(lost);
    }
}

impl Writer {
    /// Lets a file be written, whole or not at all, in place of one that is there. Its content is made when its turn has come.
    pub fn write(&self, path: &Path, content: impl FnOnce() -> io::Result<Vec<u8>> + Send + 'static) -> Written {
        let (sender, written) = oneshot::channel();
        self.order(Write { path: path.into(), content: Some(Box::new(content)), tell: vec![sender] });
        written
    }

    /// Lets a file be removed, whether it is there or only ordered.
    pub fn remove(&self, path: &Path) {
        self.order(Write { path: path.into(), content: None, tell: Vec::new() });
    }

    fn order(&self, mut write: Write) {
        let mut queue = self.0.queue.lock();
        if queue.closed {
            return;
        }
        // Telling somebody may run their code: what is replaced is dropped outside the lock.
        let replaced = match queue.waiting.iter_mut().find(|waiting| waiting.path == write.path) {
            Some(waiting) => {
                if write.content.is_some() {
                    write.tell.append(&mut waiting.tell);
                }
                Some(std::mem::replace(waiting, write))
            }
            None => {
                queue.waiting.push_back(write);
                None
            }
        };
        drop(queue);
        drop(replaced);
        self.0.changed.notify_one();
    }
}

impl Shared {
    fn work(&self, disk: &dyn Disk) {
        loop {
            let mut queue = self.queue.lock();
            self.changed.wait_while(&mut queue, |queue| queue.waiting.is_empty() && !queue.closed);
            let Some(Write { path, content, tell }) = queue.waiting.pop_front() else { return };
            drop(queue);
            let done = match content {
                Some(content) => content().and_then(|content| disk::write_whole(disk, &path, &content)),
                None => disk::remove(disk, &path),
            };
            if let Err(error) = &done {
                tracing::warn!("{} could not be written or removed: {error}", path.display());
            }
            for sender in tell {
                let again = done.as_ref().copied().map_err(|error| io::Error::new(error.kind(), error.to_string()));
                // Who does not wait any more does not mind.
                let _ = sender.send(again);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    fn start() -> (DiskWriter, Writer) {
        let thread = DiskWriter::start(Arc::new(RealDisk)).unwrap();
        let writer = thread.writer();
        (thread, writer)
    }

    #[test]
    fn the_newest_content_is_what_stays_and_everybody_who_waited_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let (_thread, writer) = start();
        let written: Vec<_> = (0..100).map(|number| writer.write(&path, move || Ok(vec![number; 1 << 16]))).collect();
        for written in written {
            pollster::block_on(written).unwrap().unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), vec![99; 1 << 16]);
    }

    #[test]
    fn what_is_removed_does_not_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let (thread, writer) = start();
        for _ in 0..20 {
            let written = [1, 2, 3].map(|number| writer.write(&path, move || Ok(vec![number; 1 << 16])));
            writer.remove(&path);
            // Written before, or never.
            written.into_iter().for_each(|written| assert!(!matches!(pollster::block_on(written), Ok(Err(_)))));
        }
        drop(thread);
        assert!(!path.exists());
    }

    #[test]
    fn what_was_ordered_is_there_when_the_thread_has_ended_and_a_disk_that_refuses_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let (thread, writer) = start();
        let paths: Vec<_> = (0..10).map(|number| folder.path().join(format!("{number}"))).collect();
        paths.iter().for_each(|path| drop(writer.write(path, || Ok(b"content".to_vec()))));
        let refused = writer.write(&folder.path().join("no/such"), || Ok(b"content".to_vec()));
        drop(thread);
        assert!(paths.iter().all(|path| std::fs::read(path).unwrap() == b"content"));
        assert_eq!(pollster::block_on(refused).unwrap().unwrap_err().kind(), io::ErrorKind::NotFound);
        let late = writer.write(&paths[0], || Ok(b"late".to_vec()));
        assert!(pollster::block_on(late).is_err(), "nobody is told that it was written");
    }

    #[test]
    fn who_waits_is_told_when_the_thread_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let (_thread, writer) = start();
        let broken = writer.write(&folder.path().join("broken"), || panic!("on purpose"));
        let behind = writer.write(&folder.path().join("behind"), || Ok(Vec::new()));
        assert!(pollster::block_on(broken).is_err());
        assert!(pollster::block_on(behind).is_err());
    }
}
