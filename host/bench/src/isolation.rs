//! `waza-bench isolation`: what hostile skills cost the control loop.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};
use waza_robot::observation::Measurement;
use waza_robot::sim::arm;
use waza_robot::{Embodiment, Frame, Guard, Image, Link, LinkError, Pace, Play, Proprioception, Robot, RobotOptions};
use waza_runtime::{Budgets, Host, HostOptions, TaskRequest};
use waza_toolchain::Build;

use crate::stage::{Stage, build_guests, doing, guests};
use crate::statistics::percentile;

/// Of the control loop that is measured.
const CONTROL_HZ: f32 = 500.0;

/// One of each kind of harm: computing, calling, growing, asking the model.
const HOSTILE: [&str; 8] = [
    "spin",
    "yield_forever",
    "clock_flood",
    "wait_flood",
    "random_flood",
    "chunk_traffic",
    "memory_bomb",
    "model_flood",
];

/// What hangs while the robot is stopped: none of these lets go of its core.
const HUNG: &str = "spin";

/// Where the arm is at first, rad.
const REST: [f32; 6] = [-1.5, -0.6, 0.8, 0.6, 0.0, 0.3];

#[derive(Debug, Args)]
pub struct Isolation {
    /// How long the control loop is watched, without and with hostile skills, s each.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// How often the robot is stopped.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    stops: u32,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Isolation {
    pub fn run(self) -> Result<()> {
        build_guests(Build::Examples("hostile"))?;
        let Stage { model, .. } = Stage::open()?;
        let embodiment = Arc::new(Embodiment { control_hz: CONTROL_HZ, ..Embodiment::so101() });
        let ticks = Ticks::with_room_for((2 * self.seconds + 10 + 4 * self.stops) as usize * CONTROL_HZ as usize);
        let link = Box::new(Stamped { ticks: ticks.clone(), positions: REST.to_vec() });
        let options = RobotOptions { pace: Pace::RealTime, kinematics: Box::new(arm::tool_position), guard: Guard::On };
        let robot = Robot::start(embodiment, link, options).context("starting the robot")?;
        // They shall last: what ends them is measured nowhere here.
        let (cpu_burst, cpu_time) = (Duration::MAX, Duration::MAX);
        let budgets = Budgets { cpu_burst, cpu_time, ..Budgets::default() };
        let host = Host::new(robot.clone(), model, HostOptions { budgets, ..HostOptions::default() })?;

        let watch = |what: &str| {
            doing(what);
            let from = ticks.count();
            std::thread::sleep(Duration::from_secs(self.seconds.into()));
            Lateness::of(&ticks.since(from))
        };
        let alone = watch("the control loop alone");
        let harm = Harm::begin(&host, &HOSTILE)?;
        let beside = watch("the control loop beside hostile skills");
        let restarts = harm.end();
        let harm = Harm::begin(&host, &[HUNG; HOSTILE.len()])?;
        let stopped = (0..self.stops).map(|_| stop(&robot, &ticks)).collect::<Result<Vec<_>>>();
        harm.end();
        let stopped = stopped?;
        let latest_ticks = stopped.iter().map(|stop| stop.ticks).max().unwrap_or_default();
        let latest_ms = stopped.iter().map(|stop| stop.after.as_secs_f64() * 1e3).fold(0.0, f64::max);

        if self.json {
            let measured = json!({
                "control_hz": CONTROL_HZ,
                "hostile": HOSTILE,
                "hostile_starts": restarts,
                "alone": alone.json(),
                "beside_hostile": beside.json(),
                "stops": self.stops,
                "latest_stop_ticks": latest_ticks,
                "latest_stop_ms": latest_ms,
            });
            println!("{measured}");
            return Ok(());
        }
        println!("lateness of commands at {CONTROL_HZ} Hz, µs     p50     p99   p99.9     max   missed ticks");
        for (what, lateness) in [("no skill", alone), ("8 hostile skills", beside)] {
            let Lateness { p50, p99, p999, max, missed } = lateness;
            println!("{what:<36}{p50:>8.0}{p99:>8.0}{p999:>8.0}{max:>8.0}{missed:>15}");
        }
        println!(
            "host stop, every skill hung, {} times: the first stopping command at most {latest_ticks} ticks and \
             {latest_ms:.2} ms after the trigger",
            self.stops
        );
        Ok(())
    }
}

/// When each command was written, and where to the arm's first joint.
#[derive(Clone)]
struct Ticks(Arc<Written>);

struct Written {
    /// Locked by the control loop in every tick, and by others only for a look between two measurements.
    stamps: Mutex<Vec<(Instant, f32)>>,
    count: AtomicUsize,
}

impl Ticks {
    /// Nothing is allocated while the loop runs.
    fn with_room_for(ticks: usize) -> Self {
        Self(Arc::new(Written { stamps: Mutex::new(Vec::with_capacity(ticks)), count: AtomicUsize::new(0) }))
    }

    fn add(&self, pan: f32) {
        let mut stamps = self.0.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        if stamps.len() < stamps.capacity() {
            stamps.push((Instant::now(), pan));
        }
        self.0.count.store(stamps.len(), Ordering::Release);
    }

    fn count(&self) -> usize {
        self.0.count.load(Ordering::Acquire)
    }

    fn since(&self, tick: usize) -> Vec<(Instant, f32)> {
        self.0.stamps.lock().unwrap_or_else(PoisonError::into_inner)[tick..].to_vec()
    }

    fn wait_for(&self, tick: usize) {
        while self.count() < tick {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A robot whose joints are where they were commanded.
struct Stamped {
    ticks: Ticks,
    positions: Vec<f32>,
}

impl Link for Stamped {
    fn read_into(&mut self, into: &mut Measurement) -> Result<(), LinkError> {
        let still = vec![0.0; self.positions.len()];
        let joints =
            Proprioception { velocities: still.clone(), efforts: still.clone(), positions: self.positions.clone() };
        *into = Measurement { joints, samples: vec![still] };
        Ok(())
    }

    fn write(&mut self, positions: &[f32]) -> Result<(), LinkError> {
        self.positions.copy_from_slice(positions);
        self.ticks.add(positions[0]);
        Ok(())
    }

    fn capture(&mut self) -> Result<Vec<Frame>, LinkError> {
        let grey = || Frame::ready(Image { width: 128, height: 128, rgb: vec![127; 128 * 128 * 3].into() });
        Ok(vec![grey(), grey()])
    }
}

/// How late commands were, µs after the earliest that any was in its period.
struct Lateness {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
    missed: u64,
}

impl Lateness {
    fn of(stamps: &[(Instant, f32)]) -> Self {
        let period = Duration::from_secs_f32(1.0 / CONTROL_HZ).as_secs_f64() * 1e6;
        let mut late = Vec::with_capacity(stamps.len());
        let mut missed: i64 = 0;
        let start = stamps.first().map_or_else(Instant::now, |(at, _)| *at);
        let mut deadline = 0.0;
        for (at, _) in stamps {
            let mut after = at.duration_since(start).as_secs_f64() * 1e6 - deadline;
            // The tick before began in time and only ended late: its successor had a deadline of its own after all.
            if after < -0.5 * period {
                deadline -= period;
                after += period;
                missed -= 1;
            }
            late.push(after);
            // Deadlines that passed without a command are no command's; the loop keeps its beat.
            let passed = (after / period).floor().max(0.0);
            missed += passed as i64;
            deadline += period * (passed + 1.0);
        }
        // The first command need not have been in time.
        let earliest = late.iter().copied().fold(f64::INFINITY, f64::min);
        late.iter_mut().for_each(|it| *it -= earliest);
        let at = |p| percentile(&late, p).unwrap_or(f64::NAN);
        Self { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: at(1.0), missed: missed.max(0) as u64 }
    }

    fn json(&self) -> Value {
        json!({
            "p50_us": self.p50, "p99_us": self.p99, "p99_9_us": self.p999, "max_us": self.max,
            "missed_ticks": self.missed,
        })
    }
}

/// Hostile skills, each started anew whenever it has ended.
struct Harm {
    over: Arc<AtomicBool>,
    starts: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<()>>,
    _packages: tempfile::TempDir,
}

impl Harm {
    fn begin(host: &Host, hostile: &[&str]) -> Result<Self> {
        let packages = tempfile::tempdir().context("making a temporary folder")?;
        let (over, starts) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut threads = Vec::new();
        for (number, name) in hostile.iter().enumerate() {
            let manifest = format!(
                "id = \"hostile/number-{number}\"\nversion = \"0.1.0\"\nwit = \"0.1.0\"\ncomponent = \"guest.wasm\"\n\
                 permissions = [\"sensing\", \"model\", \"motion:body\", \"operator\", \"durable\"]\n"
            );
            let folder = packages.path().join(number.to_string());
            std::fs::create_dir(&folder).context("making a package")?;
            std::fs::write(folder.join("skill.toml"), manifest).context("writing a manifest")?;
            std::fs::copy(waza_toolchain::example(&guests(), name), folder.join("guest.wasm"))
                .context("copying a guest")?;
            let skill = host.load(&folder)?;
            let (host, over, starts) = (host.clone(), over.clone(), starts.clone());
            threads.push(std::thread::spawn(move || {
                while !over.load(Ordering::Acquire) {
                    starts.fetch_add(1, Ordering::Relaxed);
                    host.pardon(&skill);
                    let mut running = host.run(skill.as_str(), TaskRequest::default(), |_| ());
                    // Looked at from time to time, so that dropping it ends it.
                    while !over.load(Ordering::Acquire) && !has_ended(&mut running) {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
            }));
        }
        // Until all of them are at it.
        std::thread::sleep(Duration::from_millis(500));
        Ok(Self { over, starts, threads, _packages: packages })
    }

    /// How often they were started.
    fn end(self) -> usize {
        self.over.store(true, Ordering::Release);
        for thread in self.threads {
            // One that panicked started nothing any more.
            let _ = thread.join();
        }
        self.starts.load(Ordering::Relaxed)
    }
}

fn has_ended(running: &mut waza_runtime::Running) -> bool {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    std::pin::Pin::new(running).poll(&mut context).is_ready()
}

/// From the trigger of the host stop to the first command that slows the arm down.
struct Stop {
    /// Commands that went out meanwhile; one may have been on its way.
    ticks: usize,
    after: Duration,
}

/// Stops the arm while it moves.
fn stop(robot: &Robot, ticks: &Ticks) -> Result<Stop> {
    let embodiment = robot.embodiment();
    let from = robot.commanded();
    let mut to = from.clone();
    to[0] = if from[0] < 0.0 { 1.5 } else { -1.5 };
    let joints = embodiment.part_joints("arm").unwrap_or_default();
    let moving = robot.play(Play::joints_to(embodiment, joints, &from, &to, 0.3)?);
    // Long before half of the way, so that it would not slow down by itself.
    let begun = ticks.count();
    ticks.wait_for(begun + (0.5 * CONTROL_HZ) as usize);
    let (before, triggered) = (ticks.count(), Instant::now());
    robot.stop();
    drop(moving);
    ticks.wait_for(before + CONTROL_HZ as usize);
    let written = ticks.since(before - 2);
    let speeds: Vec<f32> = written.windows(2).map(|pair| (pair[1].1 - pair[0].1).abs()).collect();
    ensure!(speeds[0] > 0.0, "the arm did not move when it was to be stopped");
    let slower = speeds.windows(2).position(|pair| pair[1] < 0.999 * pair[0]);
    let acknowledged = robot.stopped().context("the host stop did not latch")?;
    robot.reset(acknowledged);
    let ticks = slower.context("the arm did not slow down within a second")?;
    Ok(Stop { ticks, after: written[ticks + 2].0.saturating_duration_since(triggered) })
}
