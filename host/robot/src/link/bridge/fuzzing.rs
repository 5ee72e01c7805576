//! What reads bytes and is nobody's interface, for the targets in `fuzz/`.

use std::collections::VecDeque;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;
use std::time::Duration;

use parking_lot::Mutex;

use super::remote::{self, RemoteLink};
use super::server::{self, Request, Shared};
use super::wire::{Counts, MOST_BYTES, MOST_FRAME_BYTES, Shape, Wire};
use crate::embodiment::Embodiment;
use crate::observation::{Frame, Image, Measurement};

/// A stream on which these bytes come, and then its end. The other end takes what is said, and reads nothing.
fn saying(bytes: &[u8]) -> Option<(UnixStream, UnixStream)> {
    let (mut said, heard) = UnixStream::pair().ok()?;
    said.set_nonblocking(true).ok()?;
    said.write_all(bytes).ok()?;
    said.shutdown(Shutdown::Write).ok()?;
    Some((said, heard))
}

fn shape(robot: &Embodiment) -> Shape {
    Shape {
        control_hz: robot.control_hz,
        joints: robot.joints.len() as u16,
        cameras: robot.cameras.len() as u16,
        sensors: robot.sensors.iter().map(|sensor| sensor.channels.len() as u16).collect(),
        silence_ms: 50,
    }
}

/// Serves a client that says these bytes, whatever it wants. The commands of one that wants the robot.
pub fn commands(bytes: &[u8], robot: &Embodiment) -> Vec<Vec<f32>> {
    let Some((_said, heard)) = saying(bytes) else { return Vec::new() };
    let frame = Frame::ready(Image { width: 2, height: 1, rgb: vec![7; 6].into() });
    let shared = Shared {
        shape: shape(robot),
        about: "what is fuzzed".into(),
        closed: AtomicBool::new(false),
        taken: AtomicBool::new(false),
        status: Mutex::default(),
        moments: Mutex::new(VecDeque::from([(1, vec![frame])])),
    };
    let (sender, hosts) = channel();
    // What it does wrong ends its connection.
    let _ = server::converse(heard, &shared, &sender);
    let Ok(mut host) = hosts.try_recv() else { return Vec::new() };
    let mut commands = Vec::new();
    let mut command = vec![0.0; robot.joints.len()];
    while let Ok((kind, values)) = host.receive(Duration::ZERO)
        && let Ok(asked) = server::request(kind, values, &mut command)
    {
        if matches!(asked, Request::Write(_)) {
            commands.push(command.clone());
        }
    }
    commands
}

/// A link whose server says these bytes.
pub fn link(bytes: &[u8], robot: &Arc<Embodiment>) -> Option<Linked> {
    let (said, heard) = saying(bytes)?;
    // Nobody is served there: a conversation that is over begins no other.
    let path = Path::new("/nowhere/link");
    let link = RemoteLink {
        embodiment: robot.clone(),
        path: path.into(),
        shape: shape(robot),
        about: String::new(),
        control: Some(Wire::new(heard, MOST_BYTES).ok()?),
        cameras: remote::cameras(path, robot),
        interventions: Counts::default(),
        found: None,
        stops: 0,
    };
    Some(Linked { link, _said: said })
}

/// What [`link`] makes.
pub struct Linked {
    link: RemoteLink,
    _said: UnixStream,
}

impl Linked {
    /// Measurements, and the numbers of frames, until the conversation is over.
    pub fn measurements(mut self) -> Vec<Measurement> {
        use crate::link::Link;
        let mut measured = Vec::new();
        while self.link.control.is_some() {
            measured.extend(self.link.read());
            if self.link.control.is_some() {
                let _ = self.link.capture();
            }
        }
        measured
    }
}

/// What comes of a greeting that is answered with these bytes, and a camera's pixels after it.
pub fn image(bytes: &[u8]) -> Option<Image> {
    let (_said, heard) = saying(bytes)?;
    let wire = Wire::new(heard, MOST_FRAME_BYTES).ok()?;
    let mut greeted = remote::hello(wire, super::wire::Role::Cameras, remote::PATIENCE).ok()?.ok()?;
    remote::look(&mut greeted.wire, remote::PATIENCE, 1, 0).ok()?.ok()
}
