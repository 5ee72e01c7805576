//! The host's end of a served link.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::wire::{self, Kind, MOST_BYTES, MOST_FRAME_BYTES, Role, Shape, Wire};
use super::{BridgeError, Status};
use crate::clock;
use crate::embodiment::Embodiment;
use crate::link::{Link, LinkError};
use crate::observation::{Frame, Image, Measurement, Proprioception};

/// How long whoever is not the control loop waits for an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// How often a server that is not there yet is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A link that another process owns: see [`Server`](super::Server).
///
/// An answer may take as long as the watchdog waits for a command; a tick that waits for one is late, and counted. When the
/// server is gone or slower, reading fails, and connects anew in the next tick.
pub struct RemoteLink {
    pub(super) embodiment: Arc<Embodiment>,
    pub(super) path: PathBuf,
    pub(super) shape: Shape,
    pub(super) control: Option<Wire>,
    pub(super) cameras: Arc<Cameras>,
}

impl RemoteLink {
    /// Connects, and waits up to `patience` for a server that is just starting.
    ///
    /// # Errors
    /// [`BridgeError`] if there is no server, it serves another host or another robot, or it speaks another version.
    pub fn connect(path: &Path, embodiment: Arc<Embodiment>, patience: Duration) -> Result<Self, BridgeError> {
        let deadline = Instant::now() + patience;
        let (control, shape) = loop {
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
        let cameras = Arc::new(Cameras { path: path.into(), wire: Mutex::default() });
        Ok(Self { embodiment, path: path.into(), shape, control: Some(control), cameras })
    }

    /// How long a host may be silent before the watchdog takes over.
    pub fn silence(&self) -> Duration {
        Duration::from_millis(self.shape.silence_ms.into())
    }

    /// A conversation of the control loop's; one that fails is over.
    fn converse<T>(&mut self, talk: impl FnOnce(&mut Wire, Duration) -> io::Result<T>) -> Result<T, LinkError> {
        let longest = self.silence();
        let lost = |error: &dyn std::fmt::Display| LinkError(format!("{}: {error}", self.path.display()));
        let mut wire = match self.control.take() {
            Some(wire) => wire,
            None => {
                let period = clock::period(self.embodiment.control_hz);
                let (wire, shape) =
                    greet(&self.path, Role::Control, MOST_BYTES, period).map_err(|error| lost(&error))?;
                let before = Shape { silence_ms: shape.silence_ms, ..self.shape.clone() };
                if shape != before {
                    return Err(lost(&"another robot is served there now"));
                }
                self.shape = shape;
                wire
            }
        };
        let talked = talk(&mut wire, longest).map_err(|error| lost(&error))?;
        self.control = Some(wire);
        Ok(talked)
    }
}

impl Link for RemoteLink {
    fn read_into(&mut self, into: &mut Measurement) -> Result<(), LinkError> {
        let (joints, sensors) = (self.embodiment.joints.len(), self.shape.sensors.clone());
        *into = self.converse(|wire, longest| {
            wire.send(Kind::Read, |_| {})?;
            let (kind, mut values) = wire.receive(longest)?;
            if kind == Kind::Failed {
                return Ok(Err(LinkError(values.text())));
            }
            expect(kind, Kind::Measured)?;
            let joints = Proprioception {
                positions: values.finite(joints)?,
                velocities: values.finite(joints)?,
                efforts: values.finite(joints)?,
            };
            let samples = sensors.iter().map(|&channels| values.finite(channels.into())).collect::<io::Result<_>>()?;
            values.end()?;
            Ok(Ok(Measurement { joints, samples }))
        })??;
        Ok(())
    }

    fn write(&mut self, positions: &[f32]) -> Result<(), LinkError> {
        if self.control.is_none() {
            return Err(LinkError(format!("{}: it is not connected", self.path.display())));
        }
        self.converse(|wire, _| wire.send(Kind::Write, |message| wire::put_floats(message, positions)))
    }

    /// Frames of this moment, whose pixels come when somebody looks at them. A frame whose pixels cannot be had any more is
    /// black, and the log says so: the server was restarted meanwhile, or has taken more than 64 moments since.
    fn capture(&mut self) -> Result<Vec<Frame>, LinkError> {
        let count = self.embodiment.cameras.len();
        let (moment, numbers) = self.converse(|wire, longest| {
            wire.send(Kind::Capture, |_| {})?;
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
            let (cameras, spec) = (self.cameras.clone(), &self.embodiment.cameras[index]);
            let (name, width, height) = (spec.name.clone(), spec.width, spec.height);
            let frame = Frame::lazy(move || {
                cameras.look(moment, index).unwrap_or_else(|error| {
                    tracing::error!(camera = name, %error, "a frame's pixels are lost");
                    Image { width, height, rgb: vec![0; (width * height * 3) as usize].into() }
                })
            });
            number.map_or(frame.clone(), |number| frame.numbered(number))
        };
        Ok(numbers.into_iter().enumerate().map(frame).collect())
    }
}

/// The connection on which pixels travel; it waits for whoever looks, never for the control loop.
pub(super) struct Cameras {
    pub path: PathBuf,
    pub wire: Mutex<Option<Wire>>,
}

impl Cameras {
    fn look(&self, moment: u64, camera: usize) -> Result<Image, BridgeError> {
        // A conversation that was broken off is not kept.
        let mut kept = self.wire.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wire = match kept.take() {
            Some(wire) => wire,
            None => greet(&self.path, Role::Cameras, MOST_FRAME_BYTES, PATIENCE)?.0,
        };
        let looked = look(&mut wire, moment, camera as u16).map_err(|source| failed(&self.path, source))?;
        *kept = Some(wire);
        looked.map_err(|what| BridgeError::Peer { path: self.path.clone(), what })
    }
}

pub(super) fn look(wire: &mut Wire, moment: u64, camera: u16) -> io::Result<Result<Image, String>> {
    wire.send(Kind::Look, |message| {
        message.extend(moment.to_le_bytes());
        message.extend(camera.to_le_bytes());
    })?;
    let (kind, mut values) = wire.receive(PATIENCE)?;
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
    path: PathBuf,
    wire: Wire,
    joints: usize,
}

impl Observer {
    /// Connects.
    ///
    /// # Errors
    /// As [`RemoteLink::connect`].
    pub fn connect(path: &Path) -> Result<Self, BridgeError> {
        let (wire, shape) = greet(path, Role::Observer, MOST_BYTES, PATIENCE)?;
        Ok(Self { path: path.into(), wire, joints: shape.joints.into() })
    }

    /// Who is in charge, and what the joints do.
    ///
    /// # Errors
    /// [`BridgeError`] if the server is gone or does not keep to the protocol.
    pub fn status(&mut self) -> Result<Status, BridgeError> {
        let joints = self.joints;
        let mut ask = || {
            self.wire.send(Kind::Ask, |_| {})?;
            let (kind, mut values) = self.wire.receive(PATIENCE)?;
            expect(kind, Kind::Status)?;
            let status = Status {
                ticks: values.u64()?,
                watchdog_since: values.option()?,
                commanded: values.finite(joints)?,
                positions: values.finite(joints)?,
            };
            values.end()?;
            Ok(status)
        };
        ask().map_err(|source| failed(&self.path, source))
    }
}

fn expect(kind: Kind, expected: Kind) -> io::Result<()> {
    if kind == expected { Ok(()) } else { Err(wire::broken("it answered something else than what was asked")) }
}

/// Opens a conversation.
fn greet(path: &Path, role: Role, most: usize, longest: Duration) -> Result<(Wire, Shape), BridgeError> {
    let stream = UnixStream::connect(path).map_err(|source| BridgeError::Io {
        what: "reach a robot link at",
        path: path.into(),
        source,
    })?;
    let mut wire = Wire::new(stream, most);
    match hello(&mut wire, role, longest) {
        Ok(Ok(shape)) => Ok((wire, shape)),
        Ok(Err(what)) => Err(BridgeError::Peer { path: path.into(), what }),
        Err(source) => Err(failed(path, source)),
    }
}

/// What the robot is, or why the other end refuses.
pub(super) fn hello(wire: &mut Wire, role: Role, longest: Duration) -> io::Result<Result<Shape, String>> {
    wire.stream().set_write_timeout(Some(longest))?;
    wire.send(Kind::Hello, |message| wire::put_hello(message, role))?;
    let (kind, values) = wire.receive(longest)?;
    if kind == Kind::Refused {
        return Ok(Err(values.text()));
    }
    expect(kind, Kind::Welcome)?;
    Shape::take(values).map(Ok)
}

fn failed(path: &Path, source: io::Error) -> BridgeError {
    BridgeError::Peer { path: path.into(), what: format!("does not answer as a robot link does: {source}") }
}
