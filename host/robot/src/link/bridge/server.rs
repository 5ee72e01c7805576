//! The process that owns the link: it serves one host, and takes over when that falls silent.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::BridgeError;
use super::wire::{self, Counts, Kind, MOST_BYTES, Role, Shape, Values, Wire};
use crate::clock;
use crate::embodiment::Embodiment;
use crate::link::{self, Lags, Link, LinkError};
use crate::observation::{Frame, Measurement};
use crate::safety::filter::{Demand, Filter};
use crate::safety::{self, Kinematics, Rule};

/// Control periods without a command, unless told otherwise.
const SILENCE: u32 = 5;

/// A host that is silent for so long, or longer where the watchdog waits longer, loses its connection: another may come.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(2);

/// A command may go out earlier than a control period after the one before by this part of the period, if it makes up for
/// one that went out late: neither hosts nor this thread are woken to the microsecond.
const EARLY: u32 = 4;

/// What a host may ask for between two commands; a host that keeps to one thing a tick asks for three.
const MOST_REQUESTS: usize = 64;

/// Connections at once, beside one a camera.
const MOST_CONNECTIONS: usize = 16;

/// Moments whose frames are kept for whoever looks at them later.
const MOMENTS: usize = 64;

/// How long a client may take to say what it wants, or to read what it asked for.
const PATIENCE: Duration = Duration::from_secs(1);

/// A client that wants nothing for so long is cut off; it may come back.
const IDLE: Duration = Duration::from_secs(3);

/// The log says at most so often what the filter did.
const SAY_EVERY: Duration = Duration::from_secs(1);

/// How a server watches over its robot.
pub struct ServerOptions {
    /// After so many control periods without a command the watchdog takes over.
    pub silence: u32,
    /// The arm's forward kinematics, for the server's own safety filter.
    pub kinematics: Box<dyn Kinematics>,
    /// What whoever connects is told about the robot that is served: at most 500 characters.
    pub about: String,
    /// What hosts count their stops on from: what [`Status::stops`] was when this robot was last served.
    pub stops: u64,
}

impl ServerOptions {
    /// Five control periods of silence, nothing to tell, and no stop yet.
    pub fn new(kinematics: impl Kinematics + 'static) -> Self {
        Self { silence: SILENCE, kinematics: Box::new(kinematics), about: String::new(), stops: 0 }
    }
}

/// Who is in charge, what the joints do, and what was kept from them.
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
    /// How often each rule of the server's own filter began to act, in the order of [`Rule::ALL`].
    pub interventions: Counts,
    /// How often hosts have latched or reset the host stop: odd while it is latched, and counted on over the lives of hosts.
    pub stops: u64,
}

/// Serves a link until it is dropped.
#[must_use = "dropping it ends the service, and with it the watchdog"]
pub struct Server {
    shared: Arc<Shared>,
    path: PathBuf,
    guarding: Option<JoinHandle<()>>,
    /// Of the path; given back when the socket is gone.
    _lock: File,
}

pub(super) struct Shared {
    pub shape: Shape,
    pub about: String,
    pub closed: AtomicBool,
    /// A host has the link.
    pub taken: AtomicBool,
    pub status: Mutex<Status>,
    /// Frames by the number of their moment, oldest first.
    pub moments: Mutex<VecDeque<(u64, Vec<Frame>)>>,
}

impl Server {
    /// Serves `link` at `path` from two threads and one a connection, within the limits of `embodiment`, whoever connects and
    /// whatever is said. The robot holds until a host commands. A folder that is not there is made, for its owner alone; a
    /// socket that nobody serves any more is replaced. A file beside it, with `.lock` after its name, says that it is served.
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
        let (lock, listener) = listen(path)?;
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
            about: options.about,
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
        let now = Instant::now();
        let mut guard = Guard {
            filter: Filter::new(&guarded, options.kinematics, safety::Guard::On, &measured.joints.positions),
            demands: vec![Demand::Hold; embodiment.joints.len()],
            lags: Lags::default(),
            stops: options.stops,
            link,
            shared: shared.clone(),
            hosts,
            host: None,
            heard: now,
            watchdog_since: Some(0),
            command: vec![0.0; embodiment.joints.len()],
            commanded: false,
            braking: false,
            waiting: None,
            beat: Beat { period, next: now },
            ticks: 0,
            failure: None,
            newest_moment,
            captured: None,
            measured,
            measuring: Measurement::default(),
            is_lost: false,
            is_fresh: false,
            silence,
            embodiment,
            acts: Acts::default(),
        };
        guard.publish();
        let thread = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let spawned = std::thread::Builder::new().name(name.into()).spawn(work);
            spawned.map_err(|source| BridgeError::Io { what: "start a thread for", path: path.into(), source })
        };
        let accepting = shared.clone();
        let guarding = thread("waza-link", Box::new(move || guard.run()))?;
        let server = Self { shared, path: path.into(), guarding: Some(guarding), _lock: lock };
        thread("waza-link-accept", Box::new(move || accept(&listener, &accepting, &sender)))?;
        Ok(server)
    }

    /// Who is in charge, and what the joints do.
    pub fn status(&self) -> Status {
        self.shared.status.lock().clone()
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

/// Takes the path for this server alone, and listens there.
fn listen(path: &Path) -> Result<(File, UnixListener), BridgeError> {
    let failed = |what| move |source| BridgeError::Io { what, path: path.into(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.exists() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed("make the folder of"))?;
    }
    let mode = std::fs::metadata(folder).map_err(failed("look at the folder of"))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(BridgeError::OpenFolder { path: folder.into() });
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    // It stays when the server goes: whoever removed it might remove that of the next.
    let lock = OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(beside);
    let lock = lock.map_err(failed("open the lock of"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(BridgeError::Taken { path: path.into() }),
        Err(TryLockError::Error(error)) => return Err(failed("lock")(error)),
    }
    if std::fs::symlink_metadata(path).is_ok_and(|about| about.file_type().is_socket()) {
        // Of a release that took no lock.
        if UnixStream::connect(path).is_ok() {
            return Err(BridgeError::Taken { path: path.into() });
        }
        // Left by a process that was killed.
        std::fs::remove_file(path).map_err(failed("replace the socket"))?;
    }
    Ok((lock, UnixListener::bind(path).map_err(failed("listen at"))?))
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
        if Arc::strong_count(&connections) > MOST_CONNECTIONS + usize::from(shared.shape.cameras) {
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
    let mut wire = Wire::new(stream, MOST_BYTES)?;
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
        Err(why) => return wire.send(PATIENCE, Kind::Refused, |message| message.extend(why.into_bytes())),
    };
    let welcomed = wire.send(PATIENCE, Kind::Welcome, |message| {
        shared.shape.put(message);
        message.extend(shared.about.as_bytes());
    });
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
    let mut asked = Instant::now();
    while !shared.closed.load(Ordering::Acquire) {
        let (kind, payload) = match wire.receive(PATIENCE) {
            Ok((kind, values)) => answer(shared, kind, values)?,
            Err(error) if error.kind() == ErrorKind::TimedOut && asked.elapsed() < IDLE => continue,
            Err(error) => return Err(error),
        };
        wire.send(PATIENCE, kind, |message| message.extend(payload))?;
        asked = Instant::now();
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
        let moments = shared.moments.lock();
        let frames = moments.iter().find(|(number, _)| *number == moment);
        frames.and_then(|(_, frames)| frames.get(usize::from(camera))).cloned()
    };
    let Some(frame) = frame else {
        return Ok((Kind::Failed, b"that frame is not kept any more".to_vec()));
    };
    let image = match frame.image() {
        Ok(image) => image,
        Err(lost) => return Ok((Kind::Failed, lost.why.into_bytes())),
    };
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
    let Status { ticks, watchdog_since, commanded, positions, interventions, stops } = shared.status.lock().clone();
    let mut message = ticks.to_le_bytes().to_vec();
    wire::put_option(&mut message, watchdog_since);
    wire::put_floats(&mut message, &commanded);
    wire::put_floats(&mut message, &positions);
    wire::put_counts(&mut message, &interventions);
    message.extend(stops.to_le_bytes());
    Ok((Kind::Status, message))
}

/// The thread that owns the link.
struct Guard {
    link: Box<dyn Link>,
    embodiment: Arc<Embodiment>,
    filter: Filter,
    demands: Vec<Demand>,
    measured: Measurement,
    /// What the link reads into.
    measuring: Measurement,
    /// Nothing could be measured last.
    is_lost: bool,
    lags: Lags,
    /// It was measured since the last command went out.
    is_fresh: bool,
    shared: Arc<Shared>,
    hosts: Receiver<Wire>,
    host: Option<Wire>,
    /// When the host commanded last.
    heard: Instant,
    watchdog_since: Option<u64>,
    /// The host's newest command.
    command: Vec<f32>,
    /// It has not gone out yet.
    commanded: bool,
    /// What hosts have counted of stops.
    stops: u64,
    /// The last command was none of a host's.
    braking: bool,
    /// What the host asked for after its command, to be answered when that has gone out.
    waiting: Option<Request>,
    beat: Beat,
    ticks: u64,
    /// Why the last command did not reach the robot, or nothing was measured for it.
    failure: Option<LinkError>,
    newest_moment: u64,
    /// What the host was told of the frames that were taken since the last command went out.
    captured: Option<Vec<u8>>,
    silence: Duration,
    acts: Acts,
}

/// When commands go out. Time is measured here, whatever a host makes of it: of any `n + 1` commands the last goes out no
/// sooner than `n` control periods after the first, less a quarter of one.
struct Beat {
    period: Duration,
    /// No command goes out before.
    next: Instant,
}

impl Beat {
    /// A command has gone out by `now`.
    fn passed(&mut self, now: Instant) {
        self.next = (self.next + self.period).max(now + self.period - self.period / EARLY);
    }
}

/// What the filter did.
#[derive(Default)]
struct Acts {
    /// The last tick in which each rule acted.
    last: [Option<u64>; Rule::ALL.len()],
    began: Counts,
    /// What the log has said of it, and when.
    said: Counts,
    said_at: Option<Instant>,
}

impl Acts {
    fn note(&mut self, rule: Rule, tick: u64) {
        let last = self.last[rule as usize].replace(tick);
        if last.is_none_or(|last| last + 1 < tick) {
            self.began[rule as usize] += 1;
        }
    }

    fn say(&mut self, tick: u64) {
        if self.began == self.said || self.said_at.is_some_and(|said| said.elapsed() < SAY_EVERY) {
            return;
        }
        let news = Rule::ALL.into_iter().zip(self.began.iter().zip(&self.said));
        let news = news.filter(|(_, (began, said))| began > said);
        let news: Vec<_> = news.map(|(rule, (began, said))| format!("{rule} {}", began - said)).collect();
        tracing::warn!(tick, "the link's own filter keeps its host within the limits: {}", news.join(", "));
        (self.said, self.said_at) = (self.began, Some(Instant::now()));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    Read,
    /// With the host's count of stops.
    Write(u64),
    Capture,
}

impl Guard {
    fn run(mut self) {
        // As the host's control loop, which waits for its answers.
        if let Err(error) = crate::priority::before_all() {
            tracing::warn!("the robot link has no real-time priority ({error}); it may be late on a busy machine");
        }
        while !self.shared.closed.load(Ordering::Acquire) {
            self.listen();
            self.tick();
        }
    }

    /// Does what the host asks for until the next command is due: nothing that it asks for delays that.
    fn listen(&mut self) {
        for _ in 0..MOST_REQUESTS {
            if self.host.is_none() {
                self.welcome();
            }
            let due = self.due();
            let left = due.saturating_duration_since(Instant::now());
            if self.commanded && left.is_zero() {
                return;
            }
            let Some(host) = self.host.as_mut().filter(|_| self.waiting.is_none()) else { return sleep_until(due) };
            match host.receive(left).and_then(|(kind, values)| request(kind, values, &mut self.command)) {
                Ok(Request::Write(stops)) => self.hear(stops),
                Ok(asked) if self.commanded => self.waiting = Some(asked),
                Ok(asked) => self.answer(asked),
                Err(error) if error.kind() == ErrorKind::TimedOut => return,
                Err(error) => self.lose(&error),
            }
        }
        sleep_until(self.due());
    }

    /// When the next command must go out. A host's goes out as soon as it may. One that is late is waited for, up to a period,
    /// before the joints brake without it.
    fn due(&self) -> Instant {
        let Beat { period, next } = self.beat;
        let awaited = self.watchdog_since.is_none() && !self.commanded && !self.braking;
        if awaited { next + period } else { next }
    }

    fn hear(&mut self, stops: u64) {
        self.stops = self.stops.max(stops);
        (self.heard, self.commanded) = (Instant::now(), true);
        if self.watchdog_since.take().is_some() {
            tracing::info!(tick = self.ticks, "a host is in charge");
        }
    }

    /// Sends the robot what the filter makes of the host's newest command, or of none.
    fn tick(&mut self) {
        if self.watchdog_since.is_none() && self.heard.elapsed() >= self.silence {
            self.take_over("the host has fallen silent");
        }
        if self.host.is_some() && self.heard.elapsed() >= self.silence.max(GIVEN_UP_AFTER) {
            self.lose(&"it commands nothing");
        }
        let tick = self.ticks;
        self.braking = !std::mem::take(&mut self.commanded);
        if self.braking && self.watchdog_since.is_none() {
            self.acts.note(Rule::CommandAge, tick);
        }
        // What the arm feels is felt in every tick, whether or not the host asks for it.
        if !self.is_fresh
            && let Err(error) = self.measure()
        {
            self.braking = true;
            self.failure.get_or_insert(error);
        }
        for (demand, &position) in self.demands.iter_mut().zip(&self.command) {
            *demand = if self.braking { Demand::Hold } else { Demand::To(position.into()) };
        }
        self.filter.step(&self.demands, |act| self.acts.note(act.rule, tick));
        if let Err(error) = self.link.write(self.filter.command()) {
            self.failure = Some(error);
        }
        self.beat.passed(Instant::now());
        self.ticks += 1;
        (self.is_fresh, self.captured) = (false, None);
        self.acts.say(tick);
        self.publish();
        if let Some(asked) = self.waiting.take() {
            self.answer(asked);
        }
    }

    fn take_over(&mut self, why: &str) {
        tracing::warn!(tick = self.ticks, "{why}; the watchdog brings the joints to rest and holds");
        self.watchdog_since = Some(self.ticks);
    }

    /// Takes a host that has connected, once the joints stand: it goes on from what is commanded, whatever is measured.
    fn welcome(&mut self) {
        if !self.filter.stands() {
            return;
        }
        let Ok(mut host) = self.hosts.try_recv() else { return };
        tracing::info!(tick = self.ticks, "a host has connected");
        (self.heard, self.failure) = (Instant::now(), None);
        let (commanded, stops) = (self.filter.command(), self.stops);
        let told = host.send(Duration::ZERO, Kind::Found, |message| {
            wire::put_floats(message, commanded);
            message.extend(stops.to_le_bytes());
        });
        self.host = Some(host);
        if let Err(error) = told {
            self.lose(&error);
        }
    }

    fn lose(&mut self, why: &dyn std::fmt::Display) {
        tracing::info!(tick = self.ticks, "the host has left: {why}");
        (self.host, self.waiting, self.commanded) = (None, None, false);
        self.shared.taken.store(false, Ordering::Release);
        if self.watchdog_since.is_none() {
            self.take_over("the host is gone");
        }
    }

    fn answer(&mut self, asked: Request) {
        let captured = match asked {
            Request::Write(_) => return,
            Request::Read => self.failure.take().map_or_else(|| self.measure(), Err).map(|()| None),
            Request::Capture => self.capture().map(Some),
        };
        let kind = match &captured {
            Ok(None) => Kind::Measured,
            Ok(Some(_)) => Kind::Captured,
            Err(_) => Kind::Failed,
        };
        let Self { host: Some(host), measured: Measurement { joints, samples }, acts, .. } = self else { return };
        // Whoever does not read what it asked for is not waited for.
        let sent = host.send(Duration::ZERO, kind, |message| match captured {
            Ok(None) => {
                for values in [&joints.positions, &joints.velocities, &joints.efforts].into_iter().chain(samples.iter())
                {
                    wire::put_floats(message, values);
                }
                wire::put_counts(message, &acts.began);
            }
            Ok(Some(captured)) => message.extend(captured),
            Err(LinkError(why)) => message.extend(why.into_bytes()),
        });
        if let Err(error) = sent {
            self.lose(&error);
        }
    }

    /// Reads the link, at most once between two commands.
    fn measure(&mut self) -> Result<(), LinkError> {
        if !self.is_fresh {
            // After an error the last measurement is still what it was.
            let was_lost = std::mem::replace(&mut self.is_lost, true);
            self.link.read_into(&mut self.measuring)?;
            link::check(&self.measuring, &self.embodiment)?;
            self.is_lost = false;
            std::mem::swap(&mut self.measured, &mut self.measuring);
            let positions = &self.measured.joints.positions;
            if was_lost {
                self.lags.resume(positions, &mut self.filter);
            }
            self.lags.note(positions, self.filter.command());
            self.filter.feel(&self.measured);
            self.is_fresh = true;
        }
        Ok(())
    }

    /// Takes frames, at most once between two commands.
    fn capture(&mut self) -> Result<Vec<u8>, LinkError> {
        if let Some(captured) = &self.captured {
            return Ok(captured.clone());
        }
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
        let mut moments = self.shared.moments.lock();
        moments.push_back((self.newest_moment, frames));
        if moments.len() > MOMENTS {
            moments.pop_front();
        }
        self.captured = Some(message.clone());
        Ok(message)
    }

    /// An observer who is just reading sees the next tick instead.
    fn publish(&mut self) {
        let Some(mut status) = self.shared.status.try_lock() else { return };
        status.ticks = self.ticks;
        status.watchdog_since = self.watchdog_since;
        status.commanded.clear();
        status.commanded.extend_from_slice(self.filter.command());
        status.positions.clear();
        status.positions.extend_from_slice(&self.measured.joints.positions);
        status.interventions = self.acts.began;
        status.stops = self.stops;
    }
}

/// What a host asks for; its command comes into `command`, which is as long as there are joints.
pub(super) fn request(kind: Kind, mut values: Values<'_>, command: &mut [f32]) -> io::Result<Request> {
    let request = match kind {
        Kind::Read => Request::Read,
        Kind::Write => {
            let stops = values.stops()?;
            // Also what is no number: the filter holds the joint, and counts it.
            values.floats(command)?;
            Request::Write(stops)
        }
        Kind::Capture => Request::Capture,
        _ => return Err(wire::broken("a host only reads, commands and takes frames")),
    };
    values.end()?;
    Ok(request)
}

fn sleep_until(due: Instant) {
    std::thread::sleep(due.saturating_duration_since(Instant::now()));
}
