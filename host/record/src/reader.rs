//! From a file that may be anything to a record. Whatever is whole at its beginning counts; what is not is said.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use mcap::McapError;
use mcap::records::{Record as Page, op};
use mcap::sans_io::{LinearReadEvent, LinearReader, LinearReaderOptions};

use crate::header::{Header, Package};
use crate::{COMPONENT, ENTRIES, HEADER, JOINTS, MANIFEST, MOST_COMPONENT_BYTES, MOST_ENTRY_BYTES, TRUNCATED};

/// The longest record of a file: the largest of its parts and what surrounds it.
const LONGEST: usize =
    (if MOST_ENTRY_BYTES > MOST_COMPONENT_BYTES { MOST_ENTRY_BYTES } else { MOST_COMPONENT_BYTES }) + (1 << 20);

/// The most bytes of entries that are kept: a record is read into memory.
const MOST_BYTES: usize = 2 << 30;

/// Bytes that are read at once.
const READ: usize = 1 << 20;

/// The most channels that are told apart.
const MOST_CHANNELS: usize = 4096;

/// A run as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What ran, and what it was given.
    pub header: Header,
    /// The component and its manifest.
    pub package: Package,
    /// In their order, with their instants of robot time, ns.
    pub entries: Vec<(u64, String)>,
    /// How many there are.
    pub observations: u64,
    /// Why there is not more, where the record was cut short or its file is damaged.
    pub cut: Option<String>,
}

/// Why a file is no record. Each message is one line with the place and a way out.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}; name a file that `waza run --record` wrote", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is something else, or damaged at its beginning.
    #[error("{path} is no record of a run: {what}; name a file that `waza run --record` wrote", path = .path.display())]
    NotARecord {
        /// The file.
        path: PathBuf,
        /// Why.
        what: String,
    },
}

impl Record {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ReadError`] if it cannot be read, or if what a replay needs at its beginning is not there whole. Damage after that
    /// is no error: see [`Record::cut`].
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let file = File::open(path).map_err(|source| ReadError::File { path: path.into(), source })?;
        Self::read(file, path)
    }

    /// Reads anything; `path` is named in errors.
    ///
    /// # Errors
    /// As [`Record::open`].
    pub fn read(from: impl Read, path: &Path) -> Result<Self, ReadError> {
        let mut found = Found::default();
        let ended = read(from, &mut found);
        let cut = match ended {
            Err(Broken::Read(source)) => return Err(ReadError::File { path: path.into(), source }),
            Err(Broken::Damaged(what)) => Some(what),
            Ok(()) => found.cut,
        };
        let not = |what: &str| {
            let why = cut.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
            ReadError::NotARecord { path: path.into(), what: format!("{what}{why}") }
        };
        let header = found.header.ok_or_else(|| not("its header is missing"))?;
        let component = found.component.ok_or_else(|| not("its component is missing"))?;
        let package = Package { component, manifest: found.manifest.unwrap_or_default() };
        if package.digest() != header.component {
            return Err(not("its component is another than its header says"));
        }
        Ok(Self { header, package, entries: found.entries, observations: found.observations, cut })
    }
}

#[derive(Default)]
pub(crate) struct Found {
    header: Option<Header>,
    component: Option<Vec<u8>>,
    manifest: Option<String>,
    pub entries: Vec<(u64, String)>,
    bytes: usize,
    observations: u64,
    cut: Option<String>,
    /// The part with the data has ended.
    over: bool,
    /// Topics of channels.
    channels: HashMap<u16, Topic>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Topic {
    Entries,
    Joints,
    Other,
}

pub(crate) enum Broken {
    Read(std::io::Error),
    Damaged(String),
}

fn damaged(error: &McapError) -> Broken {
    Broken::Damaged(match error {
        McapError::UnexpectedEof | McapError::UnexpectedEoc => "the file ends in the middle".into(),
        error => error.to_string(),
    })
}

fn read(mut from: impl Read, found: &mut Found) -> Result<(), Broken> {
    let options = LinearReaderOptions::default()
        .with_emit_chunks(true)
        .with_validate_data_section_crc(true)
        .with_record_length_limit(LONGEST);
    let mut reader = LinearReader::new_with_options(options);
    while let Some(event) = reader.next_event() {
        match event.map_err(|error| damaged(&error))? {
            LinearReadEvent::ReadRequest(wanted) => {
                let buffer = reader.insert(wanted.clamp(1, READ));
                let read = from.read(buffer).map_err(Broken::Read)?;
                reader.notify_read(read);
            }
            LinearReadEvent::Record { opcode, data } => found.take(opcode, data)?,
        }
    }
    Ok(())
}

impl Found {
    fn take(&mut self, opcode: u8, data: &[u8]) -> Result<(), Broken> {
        match opcode {
            // What follows repeats what was.
            _ if self.over => Ok(()),
            op::DATA_END => {
                self.over = true;
                Ok(())
            }
            op::CHUNK => self.chunk(data),
            op::CHANNEL => {
                if let Page::Channel(channel) = page(opcode, data)? {
                    let topic = match channel.topic.as_str() {
                        ENTRIES => Topic::Entries,
                        JOINTS => Topic::Joints,
                        _ => Topic::Other,
                    };
                    if self.channels.len() >= MOST_CHANNELS {
                        return Err(Broken::Damaged(format!("it has more than {MOST_CHANNELS} channels")));
                    }
                    self.channels.insert(channel.id, topic);
                }
                Ok(())
            }
            op::METADATA => {
                let Page::Metadata(mut metadata) = page(opcode, data)? else { return Ok(()) };
                match metadata.name.as_str() {
                    HEADER if self.header.is_none() => {
                        let text = metadata.metadata.remove("header").unwrap_or_default();
                        let header = serde_json::from_str(&text);
                        self.header = Some(header.map_err(|error| Broken::Damaged(format!("its header: {error}")))?);
                    }
                    TRUNCATED => self.cut = Some(metadata.metadata.remove("why").unwrap_or_default()),
                    _ => {}
                }
                Ok(())
            }
            op::ATTACHMENT => self.attachment(data),
            _ => Ok(()),
        }
    }

    /// Messages stand in chunks alone. One whose checksum is wrong gives nothing, rather than something.
    fn chunk(&mut self, data: &[u8]) -> Result<(), Broken> {
        let Page::Chunk { header, data } = page(op::CHUNK, data)? else { return Ok(()) };
        if !header.compression.is_empty() {
            let how = &header.compression;
            return Err(Broken::Damaged(format!(
                "it is compressed with {how}; `mcap decompress` makes a copy that is not"
            )));
        }
        if crc32fast::hash(&data) != header.uncompressed_crc {
            return Err(Broken::Damaged("the checksum of a chunk is wrong".into()));
        }
        self.messages(&data)
    }

    /// The content of a chunk.
    pub fn messages(&mut self, mut rest: &[u8]) -> Result<(), Broken> {
        while let [opcode, ..] = *rest {
            // opcode: u8, length: u64, little-endian.
            let length = array(rest, 1).map(u64::from_le_bytes).and_then(|length| usize::try_from(length).ok());
            let end = length.and_then(|length| length.checked_add(9));
            let Some((record, after)) = end.and_then(|end| rest.split_at_checked(end)) else {
                return Err(Broken::Damaged("a chunk ends in the middle".into()));
            };
            match opcode {
                op::MESSAGE => self.message(&record[9..])?,
                op::CHANNEL => self.take(opcode, &record[9..])?,
                _ => {}
            }
            rest = after;
        }
        Ok(())
    }

    fn message(&mut self, data: &[u8]) -> Result<(), Broken> {
        // channel: u16, sequence: u32, log_time: u64, publish_time: u64, little-endian.
        let (Some(channel), Some(at_ns), Some(body)) = (array(data, 0), array(data, 6), data.get(22..)) else {
            return Err(Broken::Damaged("a message is too short".into()));
        };
        match self.channels.get(&u16::from_le_bytes(channel)) {
            Some(Topic::Entries) => {
                let text = std::str::from_utf8(body).map_err(|_| Broken::Damaged("an entry is no text".into()))?;
                self.bytes += text.len();
                if self.bytes > MOST_BYTES {
                    return Err(Broken::Damaged(format!("it has more than {MOST_BYTES} bytes of entries")));
                }
                self.entries.push((u64::from_le_bytes(at_ns), text.into()));
            }
            Some(Topic::Joints) => self.observations += 1,
            Some(Topic::Other) => {}
            None => return Err(Broken::Damaged("a message is of no channel".into())),
        }
        Ok(())
    }

    fn attachment(&mut self, data: &[u8]) -> Result<(), Broken> {
        // The library takes the lengths in here on trust.
        if !attachment_fits(data) {
            return Err(Broken::Damaged("the lengths in an attachment do not fit it".into()));
        }
        let Page::Attachment { header, data, .. } = page(op::ATTACHMENT, data)? else { return Ok(()) };
        match header.name.as_str() {
            COMPONENT if self.component.is_none() => self.component = Some(data.into_owned()),
            MANIFEST if self.manifest.is_none() => {
                let text = String::from_utf8(data.into_owned());
                self.manifest = Some(text.map_err(|_| Broken::Damaged("its manifest is no text".into()))?);
            }
            _ => {}
        }
        Ok(())
    }
}

fn page(opcode: u8, data: &[u8]) -> Result<Page<'_>, Broken> {
    mcap::parse_record(opcode, data).map_err(|error| damaged(&error))
}

fn array<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..)?.first_chunk().copied()
}

/// Whether an attachment's parts fill it: two instants, two strings, its bytes, a checksum.
fn attachment_fits(data: &[u8]) -> bool {
    let fits = || {
        let mut at = 16usize;
        for _ in 0..2 {
            at = at.checked_add(4)?.checked_add(u32::from_le_bytes(array(data, at)?) as usize)?;
        }
        let length = usize::try_from(u64::from_le_bytes(array(data, at)?)).ok()?;
        at.checked_add(8)?.checked_add(length)?.checked_add(4)
    };
    fits() == Some(data.len())
}
