//! A host that is out to break its robot, and whoever counts what it achieved. It speaks bytes, not this crate's protocol.

#![allow(dead_code, reason = "each test crate uses some of it")]

use std::array;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use waza_robot::Embodiment;
use waza_robot::embodiment::Workspace;

const JOINTS: usize = 6;

/// What it did.
#[derive(Debug, Default, Clone, Copy)]
pub struct Sent {
    pub connections: u64,
    pub commands: u64,
    pub requests: u64,
    pub garbage: u64,
    /// The most commands in a second.
    pub fastest: u64,
}

/// Does its worst for so long.
pub fn attack(socket: PathBuf, seed: u64, lasts: Duration) -> Sent {
    let end = Instant::now() + lasts;
    let mut attacker = Attacker { random: ChaCha8Rng::seed_from_u64(seed), sent: Sent::default(), aim: [0.0; JOINTS] };
    while Instant::now() < end {
        // A connection that it breaks off, or that is cut off, is followed by the next.
        let _ = attacker.connection(&socket, end);
    }
    attacker.sent
}

struct Attacker {
    random: ChaCha8Rng,
    sent: Sent,
    aim: [f32; JOINTS],
}

pub fn hello(role: u8) -> Vec<u8> {
    message(1, &[b"WAZA".as_slice(), &[3, 0, role]].concat())
}

pub fn message(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() + 1) as u32;
    [&length.to_le_bytes(), [kind].as_slice(), payload].concat()
}

pub fn command(values: &[f32]) -> Vec<u8> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    // It counts no stops.
    message(6, &[0u64.to_le_bytes().as_slice(), &bytes].concat())
}

impl Attacker {
    fn connection(&mut self, socket: &Path, end: Instant) -> std::io::Result<()> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_write_timeout(Some(Duration::from_millis(200)))?;
        self.sent.connections += 1;
        let role = if self.random.random_bool(0.8) { 0 } else { self.random.random_range(0..4) };
        stream.write_all(&hello(role))?;
        // Some answers are read, so that not every connection is lost by that.
        let mut reading = stream.try_clone()?;
        let reader = self.random.random_bool(0.8).then(|| {
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while reading.read(&mut bytes).is_ok_and(|read| read > 0) {}
            })
        });
        let spells = self.random.random_range(1..12);
        let done = (0..spells).take_while(|_| Instant::now() < end).try_for_each(|_| self.spell(&mut stream, end));
        let _ = stream.shutdown(Shutdown::Both);
        reader.map(std::thread::JoinHandle::join);
        // Sometimes it leaves the robot to itself.
        if self.random.random_bool(0.2) {
            std::thread::sleep(Duration::from_millis(self.random.random_range(0..150)));
        }
        done
    }

    /// One way of being hostile, for up to 400 ms.
    fn spell(&mut self, stream: &mut UnixStream, end: Instant) -> std::io::Result<()> {
        let until = end.min(Instant::now() + Duration::from_millis(self.random.random_range(20..400)));
        // From as fast as it can to once a second.
        let pause = [None, None, Some(50), Some(1_000), Some(10_000), Some(35_000), Some(1_000_000)];
        let pause = pause[self.random.random_range(0..pause.len())].map(Duration::from_micros);
        let what = self.random.random_range(0..9);
        let drift: [f32; JOINTS] = array::from_fn(|_| self.random.random_range(-0.2..0.2));
        let (began, before) = (Instant::now(), self.sent.commands);
        while Instant::now() < until {
            let values: [f32; JOINTS] = match what {
                0 => array::from_fn(|_| self.random.random_range(-4.0..4.0)),
                1 => {
                    let wild = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 1e-40, -0.0, 0.3];
                    array::from_fn(|_| wild[self.random.random_range(0..wild.len())])
                }
                2 => {
                    let side = if self.random.random_bool(0.5) { 1.9 } else { -1.9 };
                    [side; JOINTS]
                }
                3 => {
                    self.aim = array::from_fn(|joint| self.aim[joint] + drift[joint]);
                    self.aim
                }
                // Down through the table, and over it to the other side.
                4 => [self.random.random_range(-1.9..1.9), 1.5, -0.3, 0.5, 0.0, 0.0],
                5 => [self.random.random_range(-1.9..1.9), -1.7, 1.69, 1.6, 0.0, 1.7],
                // Bits.
                6 => array::from_fn(|_| f32::from_bits(self.random.random())),
                7 => {
                    // Questions, as fast as they are taken.
                    stream.write_all(&message(if self.random.random_bool(0.7) { 4 } else { 7 }, &[]))?;
                    self.sent.requests += 1;
                    std::thread::sleep(pause.unwrap_or_default().min(Duration::from_millis(5)));
                    continue;
                }
                _ if self.random.random_bool(0.05) => {
                    let garbage: Vec<u8> = match self.random.random_range(0..4) {
                        0 => (0..self.random.random_range(1..3000)).map(|_| self.random.random()).collect(),
                        1 => u32::MAX.to_le_bytes().to_vec(),
                        2 => command(&[0.5; 5]),
                        // Half a command, and then another message.
                        _ => [&command(&[0.5; JOINTS])[..12], &message(4, &[])].concat(),
                    };
                    self.sent.garbage += 1;
                    return stream.write_all(&garbage);
                }
                _ => array::from_fn(|_| self.random.random_range(-1.0..1.0)),
            };
            stream.write_all(&command(&values))?;
            self.sent.commands += 1;
            if let Some(pause) = pause {
                std::thread::sleep(pause.min(until.saturating_duration_since(Instant::now())));
            }
        }
        let took = began.elapsed();
        if took > Duration::from_millis(20) {
            let rate = (self.sent.commands - before) as f64 / took.as_secs_f64();
            self.sent.fastest = self.sent.fastest.max(rate as u64);
        }
        Ok(())
    }
}

/// A command that reached the robot, and when.
pub type Reached = (Instant, Vec<f32>);

/// How often what reached a robot was beyond each of its limits, and how near it came. All limits are computed here from the
/// embodiment, with nothing of the filter's.
#[derive(Debug, Default)]
pub struct Verdict {
    pub beyond: BTreeMap<&'static str, u64>,
    /// The largest share of a limit that was used from tick to tick.
    pub velocity: f64,
    pub acceleration: f64,
    /// The same of the velocity, by the clock, over 100 ms and more.
    pub velocity_by_the_clock: f64,
    /// How deep the tool was outside the workspace and the arm in a forbidden box or in itself at most, metres; below 0: not.
    pub outside: f32,
    pub forbidden: f32,
    pub collision: f32,
    pub longest_pause: Duration,
}

/// Positions are rounded to `f32` on their way: two roundings make a speed, four an acceleration.
const ROUNDED_VELOCITY: f64 = 5e-5;
const ROUNDED_ACCELERATION: f64 = 1e-2;

/// What the filter lets a tool or a link be in the wrong by, metres, and a rounding.
const UNNOTICED_M: f32 = 1.1e-5;

pub fn judge(robot: &Embodiment, tool: impl Fn(&[f32]) -> [f32; 3], reached: &[Reached]) -> Verdict {
    let hz = f64::from(robot.control_hz);
    let period = Duration::from_secs_f64(1.0 / hz);
    let mut verdict = Verdict { outside: f32::MIN, forbidden: f32::MIN, collision: f32::MIN, ..Verdict::default() };
    let mut beyond = BTreeMap::from(
        [
            "shape",
            "not a number",
            "position",
            "velocity",
            "acceleration",
            "workspace",
            "forbidden",
            "collision",
            "time",
        ]
        .map(|limit| (limit, 0)),
    );
    let mut count = |limit: &'static str, is: bool| *beyond.entry(limit).or_default() += u64::from(is);
    for (_, command) in reached {
        count("shape", command.len() != robot.joints.len());
        count("not a number", command.iter().any(|value| !value.is_finite()));
        let position = |(joint, at): (&waza_robot::embodiment::Joint, &f32)| {
            let [low, high] = joint.position;
            !(low..=high).contains(at)
        };
        count("position", robot.joints.iter().zip(command).any(position));
        let at = tool(command);
        let Workspace { min, max } = robot.workspace;
        let outside = (0..3).map(|axis| (min[axis] - at[axis]).max(at[axis] - max[axis])).fold(f32::MIN, f32::max);
        verdict.outside = verdict.outside.max(outside);
        count("workspace", outside.is_nan() || outside > UNNOTICED_M);
        let [forbidden, collision] = depths(robot, command);
        (verdict.forbidden, verdict.collision) = (verdict.forbidden.max(forbidden), verdict.collision.max(collision));
        count("forbidden", forbidden > UNNOTICED_M);
        count("collision", collision > UNNOTICED_M);
    }
    for (index, joint) in robot.joints.iter().enumerate() {
        let at: Vec<f64> = reached.iter().map(|(_, command)| command[index].into()).collect();
        let speeds: Vec<f64> = at.windows(2).map(|pair| (pair[1] - pair[0]) * hz).collect();
        for speed in &speeds {
            verdict.velocity = verdict.velocity.max(speed.abs() / f64::from(joint.velocity));
            count("velocity", speed.abs() > f64::from(joint.velocity) + ROUNDED_VELOCITY);
        }
        for change in speeds.windows(2).map(|pair| (pair[1] - pair[0]) * hz) {
            verdict.acceleration = verdict.acceleration.max(change.abs() / f64::from(joint.acceleration));
            count("acceleration", change.abs() > f64::from(joint.acceleration) + ROUNDED_ACCELERATION);
        }
        let mut first = 0;
        for last in 0..reached.len() {
            while reached[last].0 - reached[first].0 >= Duration::from_millis(100) {
                let seconds = (reached[last].0 - reached[first].0).as_secs_f64();
                let speed = (at[last] - at[first]).abs() / seconds;
                verdict.velocity_by_the_clock = verdict.velocity_by_the_clock.max(speed / f64::from(joint.velocity));
                first += 1;
            }
        }
    }
    // Of any n + 1 commands the last comes n periods after the first, less a quarter of one.
    let mut latest = Duration::ZERO;
    for (tick, (at, _)) in reached.iter().enumerate() {
        let since = *at - reached[0].0;
        let due = latest + period * tick as u32;
        count("time", tick > 0 && since + period / 4 < due);
        latest = latest.max(since.saturating_sub(period * tick as u32));
    }
    let pauses = reached.windows(2).map(|pair| pair[1].0 - pair[0].0);
    verdict.longest_pause = pauses.max().unwrap_or_default();
    verdict.beyond = beyond;
    verdict
}

type Point = [f32; 3];

/// How deep capsules are in a forbidden box, and two that may not touch in each other: at points along them, so never deeper
/// than they are.
fn depths(robot: &Embodiment, posture: &[f32]) -> [f32; 2] {
    const POINTS: u8 = 24;
    let (mut turn, mut origin) = ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [0.0; 3]);
    let mut frames = BTreeMap::from([(None, (turn, origin))]);
    for (joint, angle) in robot.joints.iter().zip(posture) {
        let mount = joint.mount.unwrap();
        origin = moved(turn, origin, mount.origin);
        turn = turned(turn, mount.axis, mount.zero + angle);
        frames.insert(Some(joint.name.as_str()), (turn, origin));
    }
    let points: BTreeMap<&str, (f32, Vec<Point>)> = robot
        .capsules
        .iter()
        .map(|capsule| {
            let (turn, origin) = frames[&capsule.link.as_deref()];
            let along = |step: u8| {
                let share = f32::from(step) / f32::from(POINTS);
                let at = array::from_fn(|axis| capsule.from[axis] + share * (capsule.to[axis] - capsule.from[axis]));
                moved(turn, origin, at)
            };
            (capsule.name.as_str(), (capsule.radius, (0..=POINTS).map(along).collect()))
        })
        .collect();
    let (mut forbidden, mut collision) = (f32::MIN, f32::MIN);
    for (radius, along) in points.values() {
        for (Workspace { min, max }, at) in
            robot.forbidden.iter().flat_map(|place| along.iter().map(move |at| (place, at)))
        {
            let outside = (0..3).map(|axis| (min[axis] - at[axis]).max(at[axis] - max[axis]).max(0.0).powi(2));
            forbidden = forbidden.max(radius - outside.sum::<f32>().sqrt());
        }
    }
    for [a, b] in &robot.collisions {
        let ((a, ones), (b, others)) = (&points[a.as_str()], &points[b.as_str()]);
        for (one, other) in ones.iter().flat_map(|one| others.iter().map(move |other| (one, other))) {
            let apart = (0..3).map(|axis| (one[axis] - other[axis]).powi(2)).sum::<f32>().sqrt();
            collision = collision.max(a + b - apart);
        }
    }
    [forbidden, collision]
}

/// Rows of a matrix times a point, and the origin.
fn moved(turn: [Point; 3], origin: Point, point: Point) -> Point {
    array::from_fn(|row| origin[row] + (0..3).map(|axis| turn[row][axis] * point[axis]).sum::<f32>())
}

/// A rotation about a unit axis after another.
fn turned(turn: [Point; 3], [x, y, z]: Point, angle: f32) -> [Point; 3] {
    let (s, c) = angle.sin_cos();
    let t = 1.0 - c;
    let about = [
        [c + x * x * t, x * y * t - z * s, x * z * t + y * s],
        [y * x * t + z * s, c + y * y * t, y * z * t - x * s],
        [z * x * t - y * s, z * y * t + x * s, c + z * z * t],
    ];
    array::from_fn(|row| array::from_fn(|column| (0..3).map(|it| turn[row][it] * about[it][column]).sum()))
}
