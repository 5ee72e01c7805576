//! The process that owns the link: it serves one host, and takes over when that falls silent.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::BridgeError;
use super::wire::{self, Kind, MOST_BYTES, Role, Shape, Values, Wire};
use crate::clock::{self, Metronome};
use crate::embodiment::Embodiment;
use crate::link::{self, Link, LinkError};
use crate::observation::{Frame, Measurement};
use crate::safety::filter::{Demand, Filter};
use crate::safety::{self, Kinematics};

/// Control periods without a command, unless told otherwise.
const SILENCE: u32 = 5;

/// Connections at once.
const MOST_CONNECTIONS: usize = 16;

/// Moments whose frames are kept for whoever looks at them later.
const MOMENTS: usize = 64;

/// How long a client may take to say what it wants, or to read what it asked for.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often a server that waits looks whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How a server watches over its robot.
pub struct ServerOptions {
    /// After so many control periods without a command the watchdog takes over.
    pub silence: u32,
    /// The arm's forward kinematics, for the server's own safety filter.
    pub kinematics: Box<dyn Kinematics>,
}

impl ServerOptions {
    /// Five control periods of silence.
    pub fn new(kinematics: impl Kinematics + 'static) -> Self {
        Self { silence: SILENCE, kinematics: Box::new(kinematics) }
    }
}

/// Who is in charge, and what the joints do.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Status {
    /// Commands that were sent to the robot, a host's and the watchdog's own.
    pub ticks: u64,
    /// The tick from which the watchdog has been in charge; `None`: a host is.
    pub watchdog_since: Option<u64>,
    /// The newest command, rad.
    pub commanded: Vec<f32>,
    /// The newest measurement, rad.
    pub positions: Vec<f32>,
}

/// Serves a link until it is dropped.
#[must_use = "dropping it ends the service, and with it the watchdog"]
pub struct Server {
    shared: Arc<Shared>,
    path: PathBuf,
    guarding: Option<JoinHandle<()>>,
}

pub(super) struct Shared {
    pub shape: Shape,
    pub closed: AtomicBool,
    /// A host has the link.
    pub taken: AtomicBool,
    pub status: Mutex<Status>,
    /// Frames by the number of their moment, oldest first.
    pub moments: Mutex<VecDeque<(u64, Vec<Frame>)>>,
}

impl Server {
    /// Serves `link` at `path` from two threads and one a connection. The robot holds until a host commands. A folder that
    /// is not there is made, for its owner alone; a socket that nobody serves any more is replaced.
    ///
    /// # Errors
    /// [`BridgeError`] if others may enter the folder, the path is served already, the link cannot be read, or the
    /// operating system refuses the socket or a thread.
    pub fn start(
        path: &Path,
        embodiment: Arc<Embodiment>,
        mut link: Box<dyn Link>,
        options: ServerOptions,
    ) -> Result<Self, BridgeError> {
        let measured = link.read()?;
        link::check(&measured, &embodiment)?;
        let listener = listen(path)?;
        let period = clock::period(embodiment.control_hz);
        let silence = period * options.silence.max(1);
        let shared = Arc::new(Shared {
            shape: Shape {
                control_hz: embodiment.control_hz,
                joints: embodiment.joints.len() as u16,
                cameras: embodiment.cameras.len() as u16,
                sensors: embodiment.sensors.iter().map(|sensor| sensor.channels.len() as u16).collect(),
                silence_ms: u32::try_from(silence.as_millis()).unwrap_or(u32::MAX),
            },
            closed: AtomicBool::new(false),
            taken: AtomicBool::new(false),
            status: Mutex::default(),
            moments: Mutex::default(),
        });
        let (sender, hosts) = channel();
        let newest_moment = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        // A host that brakes at once must not be taken for one that is abrupt: jerk is the host's filter's.
        let mut guarded = Embodiment::clone(&embodiment);
        guarded.joints.iter_mut().for_each(|joint| joint.jerk = None);
        let mut guard = Guard {
            filter: Filter::new(&guarded, options.kinematics, safety::Guard::On, &measured.joints.positions),
            demands: vec![Demand::Hold; embodiment.joints.len()],
            link,
            shared: shared.clone(),
            hosts,
            host: None,
            heard: Instant::now(),
            watchdog_since: Some(0),
            metronome: Metronome::new(period),
            ticks: 0,
            failure: None,
            newest_moment,
            measured,
            period,
            silence,
            embodiment,
        };
        guard.publish();
        let thread = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let spawned = std::thread::Builder::new().name(name.into()).spawn(work);
            spawned.map_err(|source| BridgeError::Io { what: "start a thread for", path: path.into(), source })
        };
        let accepting = shared.clone();
        let guarding = thread("waza-link", Box::new(move || guard.run()))?;
        let server = Self { shared, path: path.into(), guarding: Some(guarding) };
        thread("waza-link-accept", Box::new(move || accept(&listener, &accepting, &sender)))?;
        Ok(server)
    }

    /// Who is in charge, and what the joints do.
    pub fn status(&self) -> Status {
        lock(&self.shared.status).clone()
    }

    /// Whether the link is still served: it is not after its driver has panicked.
    pub fn is_serving(&self) -> bool {
        self.guarding.as_ref().is_some_and(|guarding| !guarding.is_finished())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        // Wakes whoever accepts.
        drop(UnixStream::connect(&self.path));
        if let Some(guarding) = self.guarding.take() {
            let _ = guarding.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn listen(path: &Path) -> Result<UnixListener, BridgeError> {
    let failed = |what| move |source| BridgeError::Io { what, path: path.into(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.exists() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed("make the folder of"))?;
    }
    let mode = std::fs::metadata(folder).map_err(failed("look at the folder of"))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(BridgeError::OpenFolder { path: folder.into() });
    }
    if std::fs::symlink_metadata(path).is_ok_and(|about| about.file_type().is_socket()) {
        if UnixStream::connect(path).is_ok() {
            return Err(BridgeError::Taken { path: path.into() });
        }
        // Left by a process that was killed.
        std::fs::remove_file(path).map_err(failed("replace the socket"))?;
    }
    UnixListener::bind(path).map_err(failed("listen at"))
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>, hosts: &Sender<Wire>) {
    let connections = Arc::new(());
    for stream in listener.incoming() {
        if shared.closed.load(Ordering::Acquire) {
            return;
        }
        let Ok(stream) = stream else {
            // Out of files, say; whoever is connected has the robot meanwhile.
            std::thread::sleep(PATIENCE / 10);
            continue;
        };
        if Arc::strong_count(&connections) > MOST_CONNECTIONS {
            tracing::warn!("a robot link has too many connections; one more is refused");
            continue;
        }
        let (shared, hosts, counted) = (shared.clone(), hosts.clone(), connections.clone());
        let converse = move || {
            if let Err(error) = converse(stream, &shared, &hosts) {
                tracing::debug!(%error, "a connection to the robot link ended");
            }
            drop(counted);
        };
        if let Err(error) = std::thread::Builder::new().name("waza-link-client".into()).spawn(converse) {
            tracing::warn!(%error, "no thread for a connection to the robot link");
        }
    }
}

/// Learns what a client wants, and serves it unless it wants the robot: that is the guard's.
pub(super) fn converse(stream: UnixStream, shared: &Shared, hosts: &Sender<Wire>) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut wire = Wire::new(stream, MOST_BYTES);
    let (kind, values) = wire.receive(PATIENCE)?;
    let role = match kind {
        Kind::Hello => wire::hello(values)?,
        _ => return Err(wire::broken("it does not begin with a greeting")),
    };
    let role = role.and_then(|role| {
        let taken = role == Role::Control && shared.taken.swap(true, Ordering::AcqRel);
        if taken { Err("has the robot commanded by another host".into()) } else { Ok(role) }
    });
    let role = match role {
        Ok(role) => role,
        Err(why) => return wire.send(Kind::Refused, |message| message.extend(why.into_bytes())),
    };
    let welcomed = wire.send(Kind::Welcome, |message| shared.shape.put(message));
    match role {
        Role::Control => {
            // One that is gone already is found out by the guard.
            let _ = hosts.send(wire);
            Ok(())
        }
        Role::Cameras => welcomed.and_then(|()| serve(&mut wire, shared, show)),
        Role::Observer => welcomed.and_then(|()| serve(&mut wire, shared, tell)),
    }
}

type Answer = (Kind, Vec<u8>);

fn serve(
    wire: &mut Wire,
    shared: &Shared,
    answer: fn(&Shared, Kind, Values<'_>) -> io::Result<Answer>,
) -> io::Result<()> {
    while !shared.closed.load(Ordering::Acquire) {
        let (kind, payload) = match wire.receive(PATIENCE) {
            Ok((kind, values)) => answer(shared, kind, values)?,
            Err(error) if error.kind() == ErrorKind::TimedOut => continue,
            Err(error) => return Err(error),
        };
        wire.send(kind, |message| message.extend(payload))?;
    }
    Ok(())
}

/// The pixels of a frame, drawn on this thread if they are not yet.
fn show(shared: &Shared, kind: Kind, mut values: Values<'_>) -> io::Result<Answer> {
    if kind != Kind::Look {
        return Err(wire::broken("cameras are only looked at"));
    }
    let (moment, camera) = (values.u64()?, values.u16()?);
    values.end()?;
    let frame = {
        let moments = lock(&shared.moments);
        let frames = moments.iter().find(|(number, _)| *number == moment);
        frames.and_then(|(_, frames)| frames.get(usize::from(camera))).cloned()
    };
    let Some(frame) = frame else {
        return Ok((Kind::Failed, b"that frame is not kept any more".to_vec()));
    };
    let image = frame.image();
    let mut message = Vec::with_capacity(image.rgb.len() + 8);
    message.extend(image.width.to_le_bytes());
    message.extend(image.height.to_le_bytes());
    message.extend_from_slice(&image.rgb);
    Ok((Kind::Pixels, message))
}

fn tell(shared: &Shared, kind: Kind, values: Values<'_>) -> io::Result<Answer> {
    if kind != Kind::Ask {
        return Err(wire::broken("observers only ask"));
    }
    values.end()?;
    let Status { ticks, watchdog_since, commanded, positions } = lock(&shared.status).clone();
    let mut message = ticks.to_le_bytes().to_vec();
    wire::put_option(&mut message, watchdog_since);
    wire::put_floats(&mut message, &commanded);
    wire::put_floats(&mut message, &positions);
    Ok((Kind::Status, message))
}

/// The thread that owns the link.
struct Guard {
    link: Box<dyn Link>,
    embodiment: Arc<Embodiment>,
    filter: Filter,
    demands: Vec<Demand>,
    measured: Measurement,
    shared: Arc<Shared>,
    hosts: Receiver<Wire>,
    host: Option<Wire>,
    /// When the host commanded last.
    heard: Instant,
    watchdog_since: Option<u64>,
    metronome: Metronome,
    ticks: u64,
    /// Why the last command did not reach the robot.
    failure: Option<LinkError>,
    newest_moment: u64,
    period: Duration,
    silence: Duration,
}

pub(super) enum Request {
    Read,
    Write(Vec<f32>),
    Capture,
}

impl Guard {
    fn run(mut self) {
        // As the host's control loop, which waits for its answers.
        if let Err(error) = crate::priority::before_all() {
            tracing::warn!("the robot link has no real-time priority ({error}); it may be late on a busy machine");
        }
        while !self.shared.closed.load(Ordering::Acquire) {
            match self.watchdog_since {
                None => self.serve_host(),
                Some(_) => self.watch(),
            }
        }
    }

    /// Waits for what the host wants; takes over if that takes too long.
    fn serve_host(&mut self) {
        let left = self.silence.saturating_sub(self.heard.elapsed());
        let joints = self.embodiment.joints.len();
        let Some(host) = &mut self.host else { return self.take_over("the host is gone") };
        let asked = host.receive(left.min(LOOK_EVERY)).and_then(|(kind, values)| request(kind, values, joints));
        match asked {
            Ok(asked) => self.obey(asked),
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                if self.heard.elapsed() >= self.silence {
                    self.take_over("the host has fallen silent");
                }
            }
            Err(error) => {
                self.lose(&error);
                self.take_over("the host is gone");
            }
        }
    }

    fn take_over(&mut self, why: &str) {
        tracing::warn!(tick = self.ticks, "{why}; the watchdog brings the joints to rest and holds");
        self.watchdog_since = Some(self.ticks);
        self.metronome = Metronome::new(self.period);
    }

    /// One period in which the watchdog is in charge, unless a host commands.
    fn watch(&mut self) {
        self.metronome.wait();
        if self.host.is_none() {
            self.welcome();
        }
        let joints = self.embodiment.joints.len();
        while let Some(host) = &mut self.host {
            let asked =
                host.poll().and_then(|asked| asked.map(|(kind, values)| request(kind, values, joints)).transpose());
            match asked {
                Ok(Some(asked)) => self.obey(asked),
                Ok(None) => break,
                Err(error) => self.lose(&error),
            }
            if self.watchdog_since.is_none() {
                return;
            }
        }
        if self.measure().is_ok() {
            self.command(None);
        }
    }

    /// Takes a host that has connected. It continues from where the robot is.
    fn welcome(&mut self) {
        self.host = self.hosts.try_recv().ok();
        let Some(host) = &self.host else { return };
        tracing::info!(tick = self.ticks, "a host has connected");
        // Whoever does not read what it asked for may not keep the watchdog waiting.
        if let Err(error) = host.stream().set_write_timeout(Some(self.period)) {
            return self.lose(&error);
        }
        if self.measure().is_ok() && self.filter.stands() {
            let positions = &self.measured.joints.positions;
            if link::moved(positions, self.filter.command()) {
                self.filter.continue_from(positions);
            }
        }
    }

    fn lose(&mut self, error: &io::Error) {
        tracing::info!(tick = self.ticks, %error, "the host has left");
        self.host = None;
        self.shared.taken.store(false, Ordering::Release);
    }

    fn obey(&mut self, asked: Request) {
        let (kind, payload) = match asked {
            Request::Write(positions) => {
                self.heard = Instant::now();
                if self.watchdog_since.take().is_some() {
                    tracing::info!(tick = self.ticks, "a host is in charge");
                }
                return self.command(Some(&positions));
            }
            Request::Read => match self.failure.take().map_or_else(|| self.measure(), Err) {
                Ok(()) => (Kind::Measured, self.measurement()),
                Err(LinkError(why)) => (Kind::Failed, why.into_bytes()),
            },
            Request::Capture => match self.capture() {
                Ok(captured) => (Kind::Captured, captured),
                Err(LinkError(why)) => (Kind::Failed, why.into_bytes()),
            },
        };
        let Some(host) = &mut self.host else { return };
        if let Err(error) = host.send(kind, |message| message.extend(payload)) {
            self.lose(&error);
        }
    }

    fn measure(&mut self) -> Result<(), LinkError> {
        let measured = self.link.read()?;
        link::check(&measured, &self.embodiment)?;
        self.measured = measured;
        self.filter.feel(&self.measured);
        Ok(())
    }

    fn measurement(&self) -> Vec<u8> {
        let Measurement { joints, samples } = &self.measured;
        let mut message = Vec::new();
        for values in [&joints.positions, &joints.velocities, &joints.efforts].into_iter().chain(samples) {
            wire::put_floats(&mut message, values);
        }
        message
    }

    /// Sends the robot what the filter makes of a host's command, or of none.
    fn command(&mut self, positions: Option<&[f32]>) {
        match positions {
            Some(positions) => {
                for (demand, &position) in self.demands.iter_mut().zip(positions) {
                    *demand = Demand::To(position.into());
                }
            }
            None => self.demands.fill(Demand::Hold),
        }
        let tick = self.ticks;
        self.filter.step(&self.demands, |act| {
            tracing::debug!(tick, rule = act.rule.name(), excess = act.excess, "the link's own filter acts");
        });
        if let Err(error) = self.link.write(self.filter.command()) {
            self.failure = Some(error);
        }
        self.ticks += 1;
        self.publish();
    }

    fn capture(&mut self) -> Result<Vec<u8>, LinkError> {
        let frames = self.link.capture()?;
        let (got, expected) = (frames.len(), self.embodiment.cameras.len());
        if got != expected {
            return Err(LinkError(format!("{got} frames came from {expected} cameras")));
        }
        self.newest_moment += 1;
        let mut message = self.newest_moment.to_le_bytes().to_vec();
        for frame in &frames {
            wire::put_option(&mut message, frame.number());
        }
        let mut moments = lock(&self.shared.moments);
        moments.push_back((self.newest_moment, frames));
        if moments.len() > MOMENTS {
            moments.pop_front();
        }
        Ok(message)
    }

    /// An observer who is just reading sees the next tick instead.
    fn publish(&mut self) {
        let Ok(mut status) = self.shared.status.try_lock() else { return };
        status.ticks = self.ticks;
        status.watchdog_since = self.watchdog_since;
        status.commanded.clear();
        status.commanded.extend_from_slice(self.filter.command());
        status.positions.clear();
        status.positions.extend_from_slice(&self.measured.joints.positions);
    }
}

pub(super) fn request(kind: Kind, mut values: Values<'_>, joints: usize) -> io::Result<Request> {
    let request = match kind {
        Kind::Read => Request::Read,
        Kind::Write => Request::Write(values.finite(joints)?),
        Kind::Capture => Request::Capture,
        _ => return Err(wire::broken("a host only reads, commands and takes frames")),
    };
    values.end()?;
    Ok(request)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard changes in single steps, so a panic cannot leave it half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
