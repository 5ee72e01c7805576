//! The queue, the thread, the file. Whoever records never waits for the disk.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use mcap::records::{MessageHeader, Metadata};
use mcap::{Attachment, WriteOptions};
use parking_lot::{Condvar, Mutex};
use waza_robot::{Embodiment, Observation};

use crate::header::{Header, Package};
use crate::{COMPONENT, ENTRIES, HEADER, MANIFEST, MOST_COMPONENT_BYTES, MOST_ENTRY_BYTES, TRUNCATED, seen};

/// Bytes that wait for the disk, before the record is cut short. Observations give way at half of it.
const MOST_WAITING: usize = 64 << 20;

/// The most bytes of a file.
const MOST_BYTES: u64 = 4 << 30;

/// Bytes of messages in one checksummed chunk: what a torn file loses at most.
const CHUNK_BYTES: u64 = 256 << 10;

/// Why a record cannot be started, or was not finished. Each message is one line with the place and a way out.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The file cannot be made or written.
    #[error("cannot write the record {path}: {what}; choose another file, or make room", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// The component is larger than a record takes.
    #[error(
        "the component has {bytes} bytes, a record takes at most {MOST_COMPONENT_BYTES}; strip it and build it for release"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

/// What was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Entries in the file.
    pub entries: u64,
    /// Observations in the file.
    pub observations: u64,
    /// Observations that the disk was too slow for. A replay does not need them.
    pub left_out: u64,
    /// Why the record ends before its run did, if it does.
    pub cut: Option<String>,
}

/// Entries and observations in a file that was closed, or why it broke off.
type Counted = Result<(u64, u64), String>;

enum Item {
    Entry(u64, String),
    Observed(u32, Arc<Observation>),
}

#[derive(Default)]
struct Queue {
    items: VecDeque<(usize, Item)>,
    waiting: usize,
    left_out: u64,
    /// Nothing is taken any more.
    cut: Option<String>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    pushed: Condvar,
}

/// Writes one run's record. Dropping it closes the file.
pub struct Recorder {
    shared: Arc<Shared>,
    embodiment: Arc<Embodiment>,
    path: PathBuf,
    thread: Mutex<Option<JoinHandle<Counted>>>,
}

impl Recorder {
    /// Starts a record, in place of a file of that name.
    ///
    /// # Errors
    /// [`WriteError`] if the file cannot be made or the component is too large.
    pub fn create(path: &Path, header: &Header, package: Package, robot: Arc<Embodiment>) -> Result<Self, WriteError> {
        if package.component.len() > MOST_COMPONENT_BYTES {
            return Err(WriteError::TooLarge { bytes: package.component.len() });
        }
        let failed = |what: String| WriteError::File { path: path.into(), what };
        let file = BufWriter::new(File::create(path).map_err(|error| failed(error.to_string()))?);
        let pages = Pages::begin(file, header, package, &robot, MOST_BYTES).map_err(|error| failed(chain(&error)))?;
        let shared = Arc::new(Shared::default());
        let work = {
            let (shared, robot) = (shared.clone(), robot.clone());
            move || write(pages, &shared, &robot)
        };
        let thread = std::thread::Builder::new().name("waza-record".into()).spawn(work);
        let thread = Mutex::new(Some(thread.map_err(|error| failed(error.to_string()))?));
        Ok(Self { shared, embodiment: robot, path: path.into(), thread })
    }

    /// The next entry, at an instant of robot time, ns. Never waits: what the disk is too slow for cuts the record short.
    pub fn entry(&self, at_ns: u64, entry: String) {
        let bytes = entry.len();
        let mut queue = self.shared.queue.lock();
        if queue.cut.is_some() || queue.closed {
            return;
        }
        if bytes > MOST_ENTRY_BYTES {
            queue.cut = Some(format!("an entry has {bytes} bytes, more than {MOST_ENTRY_BYTES}"));
        } else if queue.waiting + bytes > MOST_WAITING {
            queue.cut = Some(format!("the disk was too slow: {} bytes waited for it", queue.waiting));
        } else {
            queue.push(bytes, Item::Entry(at_ns, entry));
        }
        drop(queue);
        self.shared.pushed.notify_one();
    }

    /// An observation that the skill was handed, by its number. Never waits: it is left out if the disk is too slow.
    pub fn observed(&self, number: u32, seen: Arc<Observation>) {
        let bytes = seen::weight(&self.embodiment, &seen);
        let mut queue = self.shared.queue.lock();
        if queue.cut.is_some() || queue.closed {
            return;
        }
        if queue.waiting + bytes > MOST_WAITING / 2 {
            queue.left_out += 1;
            return;
        }
        queue.push(bytes, Item::Observed(number, seen));
        drop(queue);
        self.shared.pushed.notify_one();
    }

    /// Takes no more, and waits until everything is in the file. Once.
    ///
    /// # Errors
    /// [`WriteError::File`] if the file broke off; what was written before stays readable.
    pub fn finish(&self) -> Result<Written, WriteError> {
        let ended = self.close();
        let queue = self.shared.queue.lock();
        let (entries, observations) = ended.map_err(|what| WriteError::File { path: self.path.clone(), what })?;
        Ok(Written { entries, observations, left_out: queue.left_out, cut: queue.cut.clone() })
    }

    fn close(&self) -> Counted {
        self.shared.queue.lock().closed = true;
        self.shared.pushed.notify_one();
        let thread = self.thread.lock().take();
        let Some(thread) = thread else { return Err("it is closed already".into()) };
        thread.join().unwrap_or_else(|_| Err("the thread that writes it panicked".into()))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // Whoever wants to know calls `finish`.
        let _ = self.close();
    }
}

impl Queue {
    fn push(&mut self, bytes: usize, item: Item) {
        self.waiting += bytes;
        self.items.push_back((bytes, item));
    }
}

/// Writes what is pushed until the queue is closed and empty.
fn write<W: Write + Seek>(mut pages: Pages<W>, shared: &Shared, robot: &Embodiment) -> Counted {
    let broke_off = |error: mcap::McapError| {
        let what = chain(&error);
        let mut queue = shared.queue.lock();
        queue.cut.get_or_insert_with(|| what.clone());
        queue.items.clear();
        what
    };
    loop {
        let item = {
            let mut queue = shared.queue.lock();
            while queue.items.is_empty() && !queue.closed {
                shared.pushed.wait(&mut queue);
            }
            let Some((bytes, item)) = queue.items.pop_front() else { break };
            queue.waiting -= bytes;
            item
        };
        let written = match item {
            Item::Entry(at_ns, entry) => pages.entry(at_ns, entry.as_bytes()),
            Item::Observed(number, seen) => pages.observed(robot, number, &seen),
        };
        match written {
            Ok(true) => {}
            Ok(false) => {
                let mut queue = shared.queue.lock();
                queue.cut.get_or_insert_with(|| format!("the file has reached {} bytes", pages.most_bytes));
                queue.items.clear();
                queue.waiting = 0;
            }
            Err(error) => return Err(broke_off(error)),
        }
    }
    let cut = shared.queue.lock().cut.clone();
    let counts = (pages.entries, pages.observations);
    pages.end(cut.as_deref()).map_err(broke_off)?;
    Ok(counts)
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    std::iter::once(error.to_string()).chain(causes.map(ToString::to_string)).collect::<Vec<_>>().join(": ")
}

/// The file that is being written.
struct Pages<W: Write + Seek> {
    writer: mcap::Writer<W>,
    entries_channel: u16,
    /// As [`seen::topics`] has them.
    seen_channels: Vec<u16>,
    entries: u64,
    observations: u64,
    bytes: u64,
    most_bytes: u64,
}

impl<W: Write + Seek> Pages<W> {
    fn begin(
        file: W,
        header: &Header,
        package: Package,
        robot: &Embodiment,
        most_bytes: u64,
    ) -> Result<Self, mcap::McapError> {
        let options = WriteOptions::new().compression(None).chunk_size(Some(CHUNK_BYTES)).profile("waza");
        let mut writer = options.library(concat!("waza-record ", env!("CARGO_PKG_VERSION"))).create(file)?;
        let text = serde_json::to_string(header).map_err(std::io::Error::other)?;
        let metadata = BTreeMap::from([("header".to_owned(), text)]);
        writer.write_metadata(&Metadata { name: HEADER.into(), metadata })?;
        let bytes = package.component.len() as u64;
        let files = [
            (COMPONENT, "application/wasm", package.component),
            (MANIFEST, "application/toml", package.manifest.into_bytes()),
        ];
        for (name, media_type, data) in files {
            let (name, media_type, data) = (name.into(), media_type.into(), data.into());
            writer.attach(&Attachment { log_time: 0, create_time: 0, name, media_type, data })?;
        }
        let none = BTreeMap::new();
        let schema = writer.add_schema("waza.Entry", "jsonschema", br#"{"type":"object"}"#)?;
        let entries_channel = writer.add_channel(schema, ENTRIES, "json", &none)?;
        let mut seen_channels = Vec::new();
        for topic in seen::topics(robot) {
            let schema = writer.add_schema(topic.schema, "jsonschema", topic.shape.to_string().as_bytes())?;
            seen_channels.push(writer.add_channel(schema, &topic.name, "json", &none)?);
        }
        Ok(Self { writer, entries_channel, seen_channels, entries: 0, observations: 0, bytes, most_bytes })
    }

    /// False: the file is full.
    fn entry(&mut self, at_ns: u64, entry: &[u8]) -> Result<bool, mcap::McapError> {
        let room = self.message(self.entries_channel, self.entries, at_ns, entry)?;
        self.entries += u64::from(room);
        Ok(room)
    }

    fn observed(&mut self, robot: &Embodiment, number: u32, seen: &Observation) -> Result<bool, mcap::McapError> {
        for (index, message) in seen::messages(robot, number, seen).into_iter().enumerate() {
            let (Some(message), Some(&channel)) = (message, self.seen_channels.get(index)) else { continue };
            if !self.message(channel, self.observations, seen.taken_ns, &message)? {
                return Ok(false);
            }
        }
        self.observations += 1;
        Ok(true)
    }

    fn message(&mut self, channel_id: u16, sequence: u64, at_ns: u64, data: &[u8]) -> Result<bool, mcap::McapError> {
        self.bytes += data.len() as u64;
        if self.bytes > self.most_bytes {
            return Ok(false);
        }
        // A tool's aid only: it may wrap.
        let sequence = sequence as u32;
        let header = MessageHeader { channel_id, sequence, log_time: at_ns, publish_time: at_ns };
        self.writer.write_to_known_channel(&header, data).map(|()| true)
    }

    fn end(mut self, cut: Option<&str>) -> Result<(), mcap::McapError> {
        if let Some(cut) = cut {
            let metadata = BTreeMap::from([("why".to_owned(), cut.to_owned())]);
            self.writer.write_metadata(&Metadata { name: TRUNCATED.into(), metadata })?;
        }
        self.writer.finish().map(drop)
    }
}
