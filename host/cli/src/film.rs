//! Films an episode: what the robot's cameras saw, side by side, over a bar with words.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use parking_lot::Mutex;
use waza_robot::observation::Measurement;
use waza_robot::sim::{Simulator, Snapshot, render};
use waza_robot::{Frame, Image, Link, LinkError};

use crate::caption::{LINE, canvas, paste, write};
use crate::video::Video;

/// Pictures a second.
const RATE_HZ: f32 = 20.0;
/// Sides of a camera's picture, pixels: the cameras' own are too small for people.
const SIDE: u32 = 320;
const BAR: u32 = 48;
const MARGIN: u32 = (BAR - 2 * LINE) / 3;
/// How long the end of an episode stays on the screen, pictures.
const STILL: usize = 20;

const INK: [u8; 3] = [235, 235, 235];
const PAPER: [u8; 3] = [24, 26, 30];
const GOOD: [u8; 3] = [90, 210, 120];
const BAD: [u8; 3] = [235, 100, 90];

/// What was filmed so far. Clones share it.
#[derive(Clone, Default)]
pub struct Reel(Arc<Mutex<Vec<Snapshot>>>);

/// A simulator that is filmed by the way: the film costs no robot time and changes nothing.
pub struct Filmed {
    simulator: Simulator,
    reel: Reel,
    /// Ticks from one picture to the next.
    every: u64,
    tick: u64,
}

impl Filmed {
    /// Films into `reel` from the first tick on.
    pub fn new(simulator: Simulator, control_hz: f32, reel: Reel) -> Self {
        let every = (control_hz / RATE_HZ).round().max(1.0) as u64;
        Self { simulator, reel, every, tick: 0 }
    }
}

impl Link for Filmed {
    fn read_into(&mut self, into: &mut Measurement) -> Result<(), LinkError> {
        self.simulator.read_into(into)
    }

    fn write(&mut self, positions: &[f32]) -> Result<(), LinkError> {
        if self.tick.is_multiple_of(self.every) {
            self.reel.0.lock().push(self.simulator.snapshot());
        }
        self.tick += 1;
        self.simulator.write(positions)
    }

    fn capture(&mut self) -> Result<Vec<Frame>, LinkError> {
        self.simulator.capture()
    }

    fn is_simulated(&self) -> bool {
        self.simulator.is_simulated()
    }
}

/// The words under an episode's pictures.
pub struct Title {
    /// What the skill was told.
    pub instruction: String,
    /// The skill and the seed.
    pub take: String,
    /// How it ended.
    pub ending: String,
    /// Whether that is good.
    pub success: bool,
}

/// Episodes that may wait to be drawn.
const WAITING: usize = 2;

/// A film that is drawn and encoded on a thread of its own, while the next episode is played.
pub struct Film {
    episodes: SyncSender<(Reel, Title)>,
    thread: JoinHandle<Result<Video>>,
}

impl Film {
    /// An empty one.
    pub fn begin() -> Result<Self> {
        let mut film = Video::new(2 * SIDE, SIDE + BAR, RATE_HZ.into())?;
        let (episodes, taken) = sync_channel::<(Reel, Title)>(WAITING);
        let draw = move || {
            for (reel, title) in taken {
                add(&mut film, &reel, &title)?;
            }
            Ok(film)
        };
        let thread = std::thread::Builder::new().name("waza-film".into()).spawn(draw).context("starting a thread")?;
        Ok(Self { episodes, thread })
    }

    /// Adds an episode that has ended; waits while others wait to be drawn.
    pub fn add(&self, reel: Reel, title: Title) {
        // A thread that failed takes no more; it says why at the end.
        let _ = self.episodes.send((reel, title));
    }

    /// Waits until everything is drawn.
    pub fn end(self) -> Result<Video> {
        drop(self.episodes);
        self.thread.join().map_err(|_| anyhow!("the thread that draws the film panicked"))?
    }
}

fn add(film: &mut Video, reel: &Reel, title: &Title) -> Result<()> {
    let snapshots = std::mem::take(&mut *reel.0.lock());
    let Some((last, before)) = snapshots.split_last() else { return Ok(()) };
    for (index, snapshot) in before.iter().enumerate() {
        let clock = format!("{:.1} s", index as f32 / RATE_HZ);
        film.push(&compose(snapshot, title, &clock, INK))?;
    }
    let picture = compose(last, title, &title.ending, if title.success { GOOD } else { BAD });
    (0..STILL).try_for_each(|_| film.push(&picture))
}

fn compose(snapshot: &Snapshot, title: &Title, right: &str, colour: [u8; 3]) -> Image {
    let mut picture = canvas(2 * SIDE, SIDE + BAR, PAPER);
    let draw = |camera: render::Camera| render::draw(snapshot, &camera, SIDE, SIDE);
    let (front, wrist) = std::thread::scope(|scope| {
        let wrist = scope.spawn(|| draw(render::Camera::wrist(snapshot)));
        (draw(render::Camera::front()), wrist.join())
    });
    let wrist = wrist.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    paste(&mut picture, &front, [0, 0]);
    paste(&mut picture, &wrist, [SIDE, 0]);
    let second = SIDE + 2 * MARGIN + LINE;
    write(&mut picture, &title.instruction, [MARGIN, SIDE + MARGIN], INK);
    write(&mut picture, &title.take, [MARGIN, second], INK);
    let width = right.chars().count() as u32 * LINE;
    write(&mut picture, right, [(2 * SIDE).saturating_sub(width + MARGIN), second], colour);
    picture
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use waza_robot::Embodiment;
    use waza_robot::sim::{SceneSpec, arm};

    fn filmed(seconds: u32) -> (Filmed, Reel) {
        let embodiment = Arc::new(Embodiment::so101());
        let reel = Reel::default();
        let simulator = Simulator::new(embodiment.clone(), &SceneSpec::tabletop(), 1);
        let mut link = Filmed::new(simulator, embodiment.control_hz, reel.clone());
        for _ in 0..seconds * 100 {
            link.write(&arm::HOME).unwrap();
        }
        (link, reel)
    }

    #[test]
    fn a_film_plays_as_long_as_the_episode_and_its_still_end() {
        let (_, reel) = filmed(2);
        let film = Film::begin().unwrap();
        let [instruction, take, ending] = ["touch the red block", "touch, seed 1", "success"].map(String::from);
        film.add(reel, Title { instruction, take, ending, success: true });
        let film = film.end().unwrap();
        let spoken = Duration::from_secs_f32((2.0 * RATE_HZ - 1.0) / RATE_HZ + STILL as f32 / RATE_HZ);
        assert_eq!(film.duration().as_millis(), spoken.as_millis());
    }

    #[test]
    fn filming_does_not_change_the_physics() {
        let (link, _) = filmed(1);
        let embodiment = Arc::new(Embodiment::so101());
        let mut plain = Simulator::new(embodiment, &SceneSpec::tabletop(), 1);
        (0..100).for_each(|_| plain.write(&arm::HOME).unwrap());
        assert_eq!(format!("{:?}", link.simulator.snapshot()), format!("{:?}", plain.snapshot()));
    }
}
