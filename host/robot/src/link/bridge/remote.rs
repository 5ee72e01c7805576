//! The host's end of a served link.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};

use super::wire::{self, Counts, Kind, MOST_BYTES, MOST_FRAME_BYTES, Role, Shape, Wire};
use super::{BridgeError, Status};
use crate::clock;
use crate::embodiment::Embodiment;
use crate::link::{Found, Link, LinkError};
use crate::observation::{Frame, Image, Lost, Measurement};

/// How long whoever is not the control loop waits for an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// How long whoever looks at a frame waits for its pixels, others who look at that camera included.
const LOOK_WITHIN: Duration = Duration::from_secs(1);

/// How often a server that is not there yet is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A link that another process owns: see [`Server`](super::Server).
///
/// An answer may take as long as the watchdog waits for a command, and two periods; a tick that waits for one is late, and
/// counted. When the server is gone or slower, reading fails, and connects anew in the next tick. A command goes out when the
/// server's own control period is over: what is read after it is of the time after it.
pub struct RemoteLink {
    pub(super) embodiment: Arc<Embodiment>,
    pub(super) path: PathBuf,
    pub(super) shape: Shape,
    pub(super) about: String,
    pub(super) control: Option<Wire>,
    /// One a camera.
    pub(super) cameras: Vec<Arc<Camera>>,
    pub(super) interventions: Counts,
    /// What the server told when the control loop's connection began, until somebody asks for it.
    pub(super) found: Option<Found>,
    /// What it is to keep.
    pub(super) stops: u64,
}

impl RemoteLink {
    /// Connects, and waits up to `patience` for a server that is just starting, and then until the joints stand: the host
    /// before may just have died.
    ///
    /// # Errors
    /// [`BridgeError`] if there is no server, it serves another host or another robot, or it speaks another version.
    pub fn connect(path: &Path, embodiment: Arc<Embodiment>, patience: Duration) -> Result<Self, BridgeError> {
        let deadline = Instant::now() + patience;
        let Greeted { wire: mut control, shape, about } = loop {
            match greet(path, Role::Control, MOST_BYTES, PATIENCE) {
                Err(BridgeError::Io { source, .. })
                    if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
                        && Instant::now() < deadline =>
                {
                    std::thread::sleep(LOOK_EVERY);
                }
                other => break other?,
            }
        };
        let expected = Shape {
            control_hz: embodiment.control_hz,
            joints: embodiment.joints.len() as u16,
            cameras: embodiment.cameras.len() as u16,
            sensors: embodiment.sensors.iter().map(|sensor| sensor.channels.len() as u16).collect(),
            silence_ms: shape.silence_ms,
        };
        if shape != expected {
            let what = format!(
                "serves a robot of another shape than {} ({} joints at {} Hz, {} cameras); serve the same embodiment",
                embodiment.name, shape.joints, shape.control_hz, shape.cameras
            );
            return Err(BridgeError::Peer { path: path.into(), what });
        }
        let found = found(&mut control, embodiment.joints.len(), PATIENCE).map_err(|error| failed(path, error))?;
        let (cameras, stops) = (cameras(path, &embodiment), found.stops);
        let (path, control, interventions) = (path.into(), Some(control), Counts::default());
        let found = Some(found);
        Ok(Self { embodiment, path, shape, about, control, cameras, interventions, found, stops })
    }

    /// What the server says about the robot: [`ServerOptions::about`](super::ServerOptions::about).
    pub fn about(&self) -> &str {
        &self.about
    }

    /// How long a host may be silent before the watchdog takes over.
    pub fn silence(&self) -> Duration {
        Duration::from_millis(self.shape.silence_ms.into())
    }

    /// A conversation of the control loop's; one that fails is over.
    fn converse<T>(&mut self, talk: impl FnOnce(&mut Wire, Duration) -> io::Result<T>) -> Result<T, LinkError> {
        let period = clock::period(self.embodiment.control_hz);
        let longest = self.silence() + period * 2;
        let lost = |error: &dyn std::fmt::Display| LinkError(format!("{}: {error}", self.path.display()));
        let mut wire = match self.control.take() {
            Some(wire) => wire,
            None => {
                let mut greeted = greet(&self.path, Role::Control, MOST_BYTES, period).map_err(|error| lost(&error))?;
                let before = Shape { silence_ms: greeted.shape.silence_ms, ..self.shape.clone() };
                if greeted.shape != before || greeted.about != self.about {
                    return Err(lost(&"another robot is served there now"));
                }
                self.shape = greeted.shape;
                let joints = self.embodiment.joints.len();
                self.found = Some(found(&mut greeted.wire, joints, longest).map_err(|error| lost(&error))?);
                greeted.wire
            }
        };
        let talked = talk(&mut wire, longest).map_err(|error| lost(&error))?;
        self.control = Some(wire);
        Ok(talked)
    }
}

impl Link for RemoteLink {
    fn read_into(&mut self, into: &mut Measurement) -> Result<(), LinkError> {
        let embodiment = self.embodiment.clone();
        self.interventions = self.converse(|wire, longest| {
            wire.send(longest, Kind::Read, |_| {})?;
            let (kind, mut values) = wire.receive(longest)?;
            if kind == Kind::Failed {
                return Ok(Err(LinkError(values.text())));
            }
            expect(kind, Kind::Measured)?;
            let mut read = |into: &mut Vec<f32>, count| {
                into.resize(count, 0.0);
                values.finite(into)
            };
            let Measurement { joints, samples } = into;
            for joint_values in [&mut joints.positions, &mut joints.velocities, &mut joints.efforts] {
                read(joint_values, embodiment.joints.len())?;
            }
            samples.resize_with(embodiment.sensors.len(), Vec::new);
            for (sample, sensor) in samples.iter_mut().zip(&embodiment.sensors) {
                read(sample, sensor.channels.len())?;
            }
            let interventions = values.counts()?;
            values.end()?;
            Ok(Ok(interventions))
        })??;
        Ok(())
    }

    fn write(&mut self, positions: &[f32]) -> Result<(), LinkError> {
        if self.control.is_none() {
            return Err(LinkError(format!("{}: it is not connected", self.path.display())));
        }
        let stops = self.stops;
        self.converse(|wire, longest| {
            wire.send(longest, Kind::Write, |message| {
                message.extend(stops.to_le_bytes());
                wire::put_floats(message, positions);
            })
        })
    }

    fn found(&mut self) -> Option<Found> {
        self.found.take()
    }

    fn keep(&mut self, stops: u64) {
        self.stops = stops;
    }

    /// Frames of this moment, whose pixels come when somebody looks at them. They are lost if the server was restarted
    /// meanwhile, has taken more than 64 moments since, or does not answer within a second.
    fn capture(&mut self) -> Result<Vec<Frame>, LinkError> {
        let count = self.embodiment.cameras.len();
        let (moment, numbers) = self.converse(|wire, longest| {
            wire.send(longest, Kind::Capture, |_| {})?;
            let (kind, mut values) = wire.receive(longest)?;
            if kind == Kind::Failed {
                return Ok(Err(LinkError(values.text())));
            }
            expect(kind, Kind::Captured)?;
            let moment = values.u64()?;
            let numbers = (0..count).map(|_| values.option()).collect::<io::Result<Vec<_>>>()?;
            values.end()?;
            Ok(Ok((moment, numbers)))
        })??;
        let frame = |(index, number): (usize, Option<u64>)| {
            let camera = self.cameras[index].clone();
            let frame = Frame::fetched(move || {
                camera.look(moment, index as u16).map_err(|error| {
                    let lost = Lost { camera: camera.name.clone(), why: error.to_string() };
                    tracing::error!("{lost}");
                    lost
                })
            });
            number.map_or(frame.clone(), |number| frame.numbered(number))
        };
        Ok(numbers.into_iter().enumerate().map(frame).collect())
    }

    fn interventions(&self) -> Option<&Counts> {
        Some(&self.interventions)
    }
}

/// A connection that waits for its answers, and is made anew where it was ended meanwhile.
struct Line {
    path: PathBuf,
    role: Role,
    /// The longest message, bytes.
    most: usize,
    wire: Option<Wire>,
}

impl Line {
    fn ask<T>(
        &mut self,
        deadline: Instant,
        mut talk: impl FnMut(&mut Wire, Duration) -> io::Result<T>,
    ) -> Result<T, BridgeError> {
        let left = || deadline.saturating_duration_since(Instant::now());
        // A conversation that was broken off is not kept.
        if let Some(mut wire) = self.wire.take() {
            match talk(&mut wire, left()) {
                Ok(said) => {
                    self.wire = Some(wire);
                    return Ok(said);
                }
                // The server has ended what was idle, or was restarted.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
                    ) => {}
                Err(error) => return Err(failed(&self.path, error)),
            }
        }
        let mut wire = greet(&self.path, self.role, self.most, left())?.wire;
        let said = talk(&mut wire, left()).map_err(|source| failed(&self.path, source))?;
        self.wire = Some(wire);
        Ok(said)
    }
}

/// What pixels of one camera travel on; it waits for whoever looks, never for the control loop, and for no other camera.
pub(super) struct Camera {
    pub name: String,
    path: PathBuf,
    line: Mutex<Line>,
}

pub(super) fn cameras(path: &Path, embodiment: &Embodiment) -> Vec<Arc<Camera>> {
    let camera = |name: &String| {
        let line = Line { path: path.into(), role: Role::Cameras, most: MOST_FRAME_BYTES, wire: None };
        Arc::new(Camera { name: name.clone(), path: path.into(), line: Mutex::new(line) })
    };
    embodiment.cameras.iter().map(|spec| camera(&spec.name)).collect()
}

impl Camera {
    fn look(&self, moment: u64, camera: u16) -> Result<Image, BridgeError> {
        let deadline = Instant::now() + LOOK_WITHIN;
        let refused = |what| BridgeError::Peer { path: self.path.clone(), what };
        let Some(mut line) = self.line.try_lock_until(deadline) else {
            return Err(refused("is slow to answer others who look at this camera".into()));
        };
        line.ask(deadline, |wire, longest| look(wire, longest, moment, camera))?.map_err(refused)
    }
}

pub(super) fn look(wire: &mut Wire, longest: Duration, moment: u64, camera: u16) -> io::Result<Result<Image, String>> {
    wire.send(longest, Kind::Look, |message| {
        message.extend(moment.to_le_bytes());
        message.extend(camera.to_le_bytes());
    })?;
    let (kind, mut values) = wire.receive(longest)?;
    if kind == Kind::Failed {
        return Ok(Err(format!("says: {}", values.text())));
    }
    expect(kind, Kind::Pixels)?;
    let (width, height, rgb) = (values.u32()?, values.u32()?, values.rest());
    if u64::from(width).saturating_mul(height.into()).saturating_mul(3) != rgb.len() as u64 {
        return Err(wire::broken("a frame has not as many bytes as its size says"));
    }
    Ok(Ok(Image { width, height, rgb: rgb.to_vec().into() }))
}

/// Watches a served link from beside: any number may, whoever commands.
pub struct Observer {
    line: Line,
    joints: usize,
    about: String,
}

impl Observer {
    /// Connects.
    ///
    /// # Errors
    /// As [`RemoteLink::connect`].
    pub fn connect(path: &Path) -> Result<Self, BridgeError> {
        let Greeted { wire, shape, about } = greet(path, Role::Observer, MOST_BYTES, PATIENCE)?;
        let line = Line { path: path.into(), role: Role::Observer, most: MOST_BYTES, wire: Some(wire) };
        Ok(Self { line, joints: shape.joints.into(), about })
    }

    /// What the server says about the robot: [`ServerOptions::about`](super::ServerOptions::about).
    pub fn about(&self) -> &str {
        &self.about
    }

    /// Who is in charge, what the joints do, and what was kept from them.
    ///
    /// # Errors
    /// [`BridgeError`] if the server is gone or does not keep to the protocol.
    pub fn status(&mut self) -> Result<Status, BridgeError> {
        let joints = self.joints;
        self.line.ask(Instant::now() + PATIENCE, |wire, longest| {
            wire.send(longest, Kind::Ask, |_| {})?;
            let (kind, mut values) = wire.receive(longest)?;
            expect(kind, Kind::Status)?;
            let mut status = Status {
                ticks: values.u64()?,
                watchdog_since: values.option()?,
                commanded: vec![0.0; joints],
                positions: vec![0.0; joints],
                interventions: Counts::default(),
                stops: 0,
            };
            values.finite(&mut status.commanded)?;
            values.finite(&mut status.positions)?;
            status.interventions = values.counts()?;
            status.stops = values.stops()?;
            values.end()?;
            Ok(status)
        })
    }
}

fn expect(kind: Kind, expected: Kind) -> io::Result<()> {
    if kind == expected { Ok(()) } else { Err(wire::broken("it answered something else than what was asked")) }
}

/// A conversation that has begun.
pub(super) struct Greeted {
    pub wire: Wire,
    shape: Shape,
    about: String,
}

/// Opens a conversation.
fn greet(path: &Path, role: Role, most: usize, longest: Duration) -> Result<Greeted, BridgeError> {
    let reached = reach(path).and_then(|stream| Wire::new(stream, most));
    let wire =
        reached.map_err(|source| BridgeError::Io { what: "reach a robot link at", path: path.into(), source })?;
    match hello(wire, role, longest) {
        Ok(Ok(greeted)) => Ok(greeted),
        Ok(Err(what)) => Err(BridgeError::Peer { path: path.into(), what }),
        Err(source) => Err(failed(path, source)),
    }
}

/// Connects to a served socket, or says at once why not: a server that takes no connections any more, because its process is
/// stopped, would be waited for without end once a few wait there. The stream does not block.
///
/// # Errors
/// The system's.
pub fn reach(path: &Path) -> io::Result<UnixStream> {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    rustix::io::ioctl_fioclex(&socket)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(true)?;
    rustix::net::connect(&stream, &SocketAddrUnix::new(path)?)?;
    Ok(stream)
}

/// What the robot is, or why the other end refuses.
pub(super) fn hello(mut wire: Wire, role: Role, longest: Duration) -> io::Result<Result<Greeted, String>> {
    wire.send(longest, Kind::Hello, |message| wire::put_hello(message, role))?;
    let (kind, mut values) = wire.receive(longest)?;
    if kind == Kind::Refused {
        return Ok(Err(values.text()));
    }
    expect(kind, Kind::Welcome)?;
    let (shape, about) = (Shape::take(&mut values)?, values.text());
    Ok(Ok(Greeted { wire, shape, about }))
}

/// Waits until the robot is this host's own.
fn found(wire: &mut Wire, joints: usize, longest: Duration) -> io::Result<Found> {
    let (kind, mut values) = wire.receive(longest)?;
    expect(kind, Kind::Found)?;
    let mut commanded = vec![0.0; joints];
    values.finite(&mut commanded)?;
    let stops = values.stops()?;
    values.end()?;
    Ok(Found { commanded, stops })
}

fn failed(path: &Path, source: io::Error) -> BridgeError {
    BridgeError::Peer { path: path.into(), what: format!("does not answer as a robot link does: {source}") }
}
