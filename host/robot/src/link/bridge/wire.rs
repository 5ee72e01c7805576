//! Messages on a stream: four bytes of length, one of kind, then values. All numbers are little-endian.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::link::MOST_STOPS;
use crate::safety::Rule;

/// Of the messages below; both ends must have the same.
pub(super) const VERSION: u16 = 3;

/// How every conversation begins.
const MAGIC: [u8; 4] = *b"WAZA";

/// The longest message but for pixels, bytes.
pub(super) const MOST_BYTES: usize = 64 << 10;

/// The longest message with a frame's pixels, bytes.
pub(super) const MOST_FRAME_BYTES: usize = 64 << 20;

/// Read from a stream at once, bytes.
const CHUNK_BYTES: usize = 64 << 10;

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// From a client, first: magic, version, role.
    Hello = 1,
    /// The answer: what the robot is, and what the server says about itself.
    Welcome,
    /// Or why not, in words.
    Refused,
    /// Asks for a measurement.
    Read,
    /// Positions, velocities and efforts of every joint, then a sample of every sensor, then how often each rule of the
    /// server's filter began to act.
    Measured,
    /// The host's count of stops, to be kept, and a position a joint, to be commanded. Not answered: its failure is the answer to the next `Read`. What is asked after it is
    /// answered when it has gone out.
    Write,
    /// Asks for the frames of this moment to be taken.
    Capture,
    /// Under which number they are kept, and each camera's own number of its frame.
    Captured,
    /// Asks for the pixels of one: the number that they are kept under, and the camera's index.
    Look,
    /// Width, height, bytes.
    Pixels,
    /// Asks who is in charge.
    Ask,
    /// Who is, what the joints do, how often each rule of the server's filter began to act, and the count of stops.
    Status,
    /// What was asked failed, in words.
    Failed,
    /// To a host, before anything is asked: the robot is its own. What is commanded, at rest, and the count of stops.
    Found,
}

impl Kind {
    const ALL: [Self; 14] = [
        Self::Hello,
        Self::Welcome,
        Self::Refused,
        Self::Read,
        Self::Measured,
        Self::Write,
        Self::Capture,
        Self::Captured,
        Self::Look,
        Self::Pixels,
        Self::Ask,
        Self::Status,
        Self::Failed,
        Self::Found,
    ];
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Reads and commands; one at a time.
    Control,
    /// Looks at frames that a control connection took.
    Cameras,
    /// Watches.
    Observer,
}

impl Role {
    const ALL: [Self; 3] = [Self::Control, Self::Cameras, Self::Observer];
}

/// A stream of messages. It never blocks longer than it is told to, whatever the other end does.
pub(super) struct Wire {
    stream: UnixStream,
    most: usize,
    chunk: Box<[u8]>,
    received: Vec<u8>,
    sent: Vec<u8>,
    /// The payload of the newest message.
    payload: Vec<u8>,
}

impl Wire {
    pub fn new(stream: UnixStream, most: usize) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let chunk = vec![0; CHUNK_BYTES].into_boxed_slice();
        Ok(Self { stream, most, chunk, received: Vec::new(), sent: Vec::new(), payload: Vec::new() })
    }

    /// Sends a message in one piece.
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`] if the other end has not taken all of it after `longest`: the stream is of no use then.
    pub fn send(&mut self, longest: Duration, kind: Kind, write: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        self.sent.clear();
        self.sent.extend([0; 4]);
        self.sent.push(kind as u8);
        write(&mut self.sent);
        let length = u32::try_from(self.sent.len() - 4).map_err(|_| broken("a message is too long to be sent"))?;
        self.sent[..4].copy_from_slice(&length.to_le_bytes());
        let deadline = Instant::now() + longest;
        let mut written = 0;
        while written < self.sent.len() {
            match self.stream.write(&self.sent[written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait_for(PollFlags::OUT, deadline)?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits for a message; one that is here already is there whatever `longest` is.
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`] after `longest`; [`ErrorKind::UnexpectedEof`] when the other end is gone;
    /// [`ErrorKind::InvalidData`] when it breaks the protocol.
    pub fn receive(&mut self, longest: Duration) -> io::Result<(Kind, Values<'_>)> {
        let deadline = Instant::now() + longest;
        let kind = loop {
            // First what is here: what is kept of a stream never grows past a message and a chunk.
            if let Some(kind) = self.next_message()? {
                break kind;
            }
            match self.fill() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait_for(PollFlags::IN, deadline)?,
                // Whoever sends a message byte by byte has no longer than others.
                Ok(()) if Instant::now() >= deadline => {
                    break self.next_message()?.ok_or(ErrorKind::TimedOut)?;
                }
                other => other?,
            }
        };
        Ok((kind, Values(&self.payload)))
    }

    /// Waits until the stream can be read or written.
    fn wait_for(&self, what: PollFlags, deadline: Instant) -> io::Result<()> {
        let rest = deadline.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        let rest = Timespec { tv_sec: rest.as_secs() as i64, tv_nsec: rest.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&self.stream, what)], Some(&rest)) {
            // Whether the time is over is seen when it is tried again.
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let read = loop {
            match self.stream.read(&mut self.chunk) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.received.extend_from_slice(&self.chunk[..read]);
        Ok(())
    }

    /// Moves a whole message from what was received to the payload.
    fn next_message(&mut self) -> io::Result<Option<Kind>> {
        let Some((length, rest)) = self.received.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length == 0 || length > self.most {
            return Err(broken("a message has a length that none may have"));
        }
        let Some(message) = rest.get(..length) else { return Ok(None) };
        let kind = Kind::ALL.into_iter().find(|kind| *kind as u8 == message[0]);
        self.payload.clear();
        self.payload.extend_from_slice(&message[1..]);
        self.received.drain(..4 + length);
        kind.map(Some).ok_or_else(|| broken("a message is of an unknown kind"))
    }
}

pub(super) fn broken(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// The values of a message, from first to last.
pub(super) struct Values<'a>(&'a [u8]);

impl<'a> Values<'a> {
    pub fn u16(&mut self) -> io::Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> io::Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> io::Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn f32(&mut self) -> io::Result<f32> {
        self.array().map(f32::from_le_bytes)
    }

    /// Whatever numbers come.
    pub fn floats(&mut self, into: &mut [f32]) -> io::Result<()> {
        into.iter_mut().try_for_each(|value| {
            *value = self.f32()?;
            Ok(())
        })
    }

    /// Numbers that are not infinite, and numbers.
    pub fn finite(&mut self, into: &mut [f32]) -> io::Result<()> {
        self.floats(into)?;
        let finite = into.iter().all(|value| value.is_finite());
        if finite { Ok(()) } else { Err(broken("a value is no finite number")) }
    }

    /// One count a rule.
    pub fn counts(&mut self) -> io::Result<Counts> {
        let mut counts = Counts::default();
        counts.iter_mut().try_for_each(|count| {
            *count = self.u64()?;
            Ok::<_, io::Error>(())
        })?;
        Ok(counts)
    }

    /// One that may be missing.
    pub fn option(&mut self) -> io::Result<Option<u64>> {
        let (there, value) = (self.array::<1>()?, self.u64()?);
        Ok((there != [0]).then_some(value))
    }

    /// A count of stops that can be counted on from.
    pub fn stops(&mut self) -> io::Result<u64> {
        let stops = self.u64()?;
        if stops > MOST_STOPS { Err(broken("it counts more stops than there can be")) } else { Ok(stops) }
    }

    /// Everything that is left.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Everything that is left, in words.
    pub fn text(self) -> String {
        String::from_utf8_lossy(self.0).chars().filter(|character| !character.is_control()).take(500).collect()
    }

    /// Nothing may be left.
    pub fn end(self) -> io::Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(broken("a message is longer than its kind allows")) }
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk().ok_or_else(|| broken("a message ends too early"))?;
        self.0 = rest;
        Ok(*first)
    }
}

pub(super) fn put_floats(message: &mut Vec<u8>, values: &[f32]) {
    message.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

/// How often each rule of a filter began to act, in the order of [`Rule::ALL`].
pub(super) type Counts = [u64; Rule::ALL.len()];

pub(super) fn put_counts(message: &mut Vec<u8>, counts: &Counts) {
    message.extend(counts.iter().flat_map(|count| count.to_le_bytes()));
}

pub(super) fn put_option(message: &mut Vec<u8>, value: Option<u64>) {
    message.push(u8::from(value.is_some()));
    message.extend(value.unwrap_or_default().to_le_bytes());
}

pub(super) fn put_hello(message: &mut Vec<u8>, role: Role) {
    message.extend(MAGIC);
    message.extend(VERSION.to_le_bytes());
    message.push(role as u8);
}

/// The role that a client asks for, or why it gets none.
pub(super) fn hello(mut values: Values<'_>) -> io::Result<Result<Role, String>> {
    if values.array()? != MAGIC {
        return Err(broken("it does not begin as a robot link does"));
    }
    let version = values.u16()?;
    if version != VERSION {
        return Ok(Err(format!(
            "speaks version {VERSION} of the link's protocol, not {version}; use one release of Waza"
        )));
    }
    let [role] = values.array()?;
    values.end()?;
    let role = Role::ALL.into_iter().find(|it| *it as u8 == role);
    Ok(role.ok_or_else(|| "knows no such role".into()))
}

/// What the robot behind a link is, as far as both ends must agree.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shape {
    pub control_hz: f32,
    pub joints: u16,
    pub cameras: u16,
    /// Channels of each sensor.
    pub sensors: Vec<u16>,
    /// After so long without a command the watchdog takes over, milliseconds.
    pub silence_ms: u32,
}

impl Shape {
    pub fn put(&self, message: &mut Vec<u8>) {
        put_floats(message, &[self.control_hz]);
        let counts = [self.joints, self.cameras, self.sensors.len() as u16];
        message.extend(counts.iter().chain(&self.sensors).flat_map(|count| count.to_le_bytes()));
        message.extend(self.silence_ms.to_le_bytes());
    }

    pub fn take(values: &mut Values<'_>) -> io::Result<Self> {
        let control_hz = values.f32()?;
        let (joints, cameras, sensors) = (values.u16()?, values.u16()?, values.u16()?);
        let sensors = (0..sensors).map(|_| values.u16()).collect::<io::Result<_>>()?;
        let silence_ms = values.u32()?;
        Ok(Self { control_hz, joints, cameras, sensors, silence_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    fn pair() -> (UnixStream, Wire) {
        let (raw, wired) = UnixStream::pair().unwrap();
        (raw, Wire::new(wired, MOST_BYTES).unwrap())
    }

    #[test]
    fn a_message_that_comes_in_pieces_is_whole_when_its_last_byte_is_here() {
        let (mut raw, mut wire) = pair();
        let bytes = [9, 0, 0, 0, Kind::Write as u8, 0, 0, 128, 63, 0, 0, 0, 64];
        for (index, byte) in bytes.iter().enumerate() {
            assert_eq!(wire.receive(Duration::ZERO).err().unwrap().kind(), ErrorKind::TimedOut, "after {index} bytes");
            raw.write_all(&[*byte]).unwrap();
        }
        let (kind, mut values) = wire.receive(SHORT).unwrap();
        let mut floats = [0.0; 2];
        values.finite(&mut floats).unwrap();
        assert_eq!((kind, floats), (Kind::Write, [1.0, 2.0]));
        values.end().unwrap();
        assert_eq!(wire.receive(SHORT).err().unwrap().kind(), ErrorKind::TimedOut);
        drop(raw);
        assert_eq!(wire.receive(SHORT).err().unwrap().kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_breaks_the_protocol_is_refused_before_anything_is_kept_of_it() {
        let length = |bytes: u32| [bytes.to_le_bytes().as_slice(), &[Kind::Read as u8]].concat();
        for bytes in [length(0), length(u32::MAX), length(MOST_BYTES as u32 + 1), vec![1, 0, 0, 0, 200]] {
            let (mut raw, mut wire) = pair();
            raw.write_all(&bytes).unwrap();
            assert_eq!(wire.receive(SHORT).err().unwrap().kind(), ErrorKind::InvalidData, "{bytes:?}");
        }
        let values = |bytes| Values(bytes);
        let (no_number, endless) = (f32::NAN.to_le_bytes(), f32::INFINITY.to_le_bytes());
        assert!(values(&[0, 0]).f32().is_err());
        assert!(values(&[]).option().is_err());
        assert!(values(&no_number).finite(&mut [0.0]).is_err());
        assert!(values(&endless).finite(&mut [0.0]).is_err());
        assert!(values(&[0; 8]).counts().is_err());
        assert!(values(&[1]).end().is_err());
        assert!(hello(values(b"GET / HTTP/1.1")).is_err());
        assert!(hello(values(b"WAZA\x01\x00\x00")).unwrap().unwrap_err().contains("version"));
        assert!(hello(values(b"WAZA\x03\x00\x09")).unwrap().is_err());
    }

    #[test]
    fn whoever_reads_a_message_a_byte_at_a_time_or_sends_one_so_holds_nobody_longer_than_they_wait() {
        let (mut raw, mut wire) = pair();
        let reading = std::thread::spawn(move || {
            let mut byte = [0; 1];
            while raw.read(&mut byte).is_ok_and(|read| read > 0) {}
        });
        let sent = wire.send(Duration::ZERO, Kind::Pixels, |message| message.resize(32 << 20, 0));
        assert_eq!(sent.err().unwrap().kind(), ErrorKind::TimedOut);
        drop(wire);
        reading.join().unwrap();

        let (mut raw, mut wire) = pair();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let writing = std::thread::spawn(move || {
            raw.write_all(&60_000u32.to_le_bytes()).unwrap();
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                // It may have given up.
                let _ = raw.write_all(&[0]);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        assert_eq!(wire.receive(SHORT).err().unwrap().kind(), ErrorKind::TimedOut);
        drop((wire, stop));
        writing.join().unwrap();
    }

    #[test]
    fn a_shape_reads_back_as_it_was_written() {
        let shape = Shape { control_hz: 100.0, joints: 6, cameras: 2, sensors: vec![6, 3], silence_ms: 50 };
        let mut message = Vec::new();
        shape.put(&mut message);
        assert_eq!(Shape::take(&mut Values(&message)).unwrap(), shape);
        assert!(Shape::take(&mut Values(&message[1..])).is_err());
    }
}
