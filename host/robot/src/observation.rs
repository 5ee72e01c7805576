//! One moment of the robot, shared and immutable.

use std::sync::{Arc, LazyLock};

use crate::embodiment::{Camera, Embodiment};

/// Joint values of one tick, in the embodiment's order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Proprioception {
    /// rad.
    pub positions: Vec<f32>,
    /// rad/s.
    pub velocities: Vec<f32>,
    /// N m, as the actuators feel it.
    pub efforts: Vec<f32>,
}

/// Everything that a link measured in one control period.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Measurement {
    /// The joints.
    pub joints: Proprioception,
    /// One sample a sensor, in the embodiment's order; as many values as the sensor has channels.
    pub samples: Vec<Vec<f32>>,
}

/// A colour image, eight bits a channel, rows from the top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// `height * width * 3` bytes, shared by whoever looks at them.
    pub rgb: Arc<Vec<u8>>,
}

/// A frame whose pixels cannot be had any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the camera {camera} has lost a frame: {why}")]
pub struct Lost {
    /// Its name.
    pub camera: String,
    /// In words.
    pub why: String,
}

type Render = Box<dyn FnOnce() -> Result<Image, Lost> + Send>;

/// What one camera saw at one moment. Pixels that are drawn or fetched are so when somebody first looks at them, on that
/// thread and never in the control loop.
#[derive(Clone)]
pub struct Frame {
    image: Arc<LazyLock<Result<Image, Lost>, Render>>,
    number: Option<u64>,
}

impl Frame {
    /// A frame whose pixels are here.
    pub fn ready(image: Image) -> Self {
        Self::lazy(move || image)
    }

    /// A frame that is drawn when somebody looks at it.
    pub fn lazy(render: impl FnOnce() -> Image + Send + 'static) -> Self {
        Self::fetched(move || Ok(render()))
    }

    /// A frame whose pixels are fetched when somebody looks at it, and may be lost by then.
    pub fn fetched(fetch: impl FnOnce() -> Result<Image, Lost> + Send + 'static) -> Self {
        Self { image: Arc::new(LazyLock::new(Box::new(fetch))), number: None }
    }

    /// The camera's own number of this frame: a camera that keeps sending one number is frozen, and no clocks need to
    /// agree to find that out.
    pub fn numbered(self, number: u64) -> Self {
        Self { number: Some(number), ..self }
    }

    /// The camera's own number of it, if the link knows one.
    pub fn number(&self) -> Option<u64> {
        self.number
    }

    /// The pixels.
    ///
    /// # Errors
    /// [`Lost`] if they cannot be had; they never can be then.
    pub fn image(&self) -> Result<&Image, Lost> {
        LazyLock::force(&self.image).as_ref().map_err(Lost::clone)
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Frame")
    }
}

/// A sensor's newest samples, oldest first.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Window {
    /// Values a sample.
    pub channels: usize,
    /// When the first sample was taken, nanoseconds of robot time.
    pub first_ns: u64,
    /// Samples per second.
    pub rate_hz: f32,
    /// `samples * channels` values, sample by sample.
    pub values: Vec<f32>,
}

/// One moment of the robot: its joints, a frame of every camera, the newest window of every sensor.
///
/// Vectors follow the embodiment's order of joints, cameras and sensors.
#[derive(Debug, Clone)]
pub struct Observation {
    /// The control loop's tick.
    pub tick: u64,
    /// Nanoseconds of robot time: `tick / control_hz`.
    pub taken_ns: u64,
    /// The joints at that tick.
    pub joints: Proprioception,
    /// One a camera; a frame may be older than the joints by up to a camera period.
    pub frames: Vec<Frame>,
    /// How old each frame is at least, nanoseconds of robot time: since the control loop first saw its number. `None`
    /// where the link numbers no frames.
    pub frame_ages_ns: Vec<Option<u64>>,
    /// One a sensor.
    pub windows: Vec<Window>,
}

/// A camera whose newest frame is older than so many of its periods is frozen.
const FROZEN_PERIODS: f64 = 5.0;

impl Observation {
    /// Names of the cameras whose newest frame is older than five of their periods.
    pub fn frozen<'a>(&self, embodiment: &'a Embodiment) -> impl Iterator<Item = &'a str> {
        let cameras = embodiment.cameras.iter().zip(&self.frame_ages_ns);
        cameras.filter(|(camera, age)| is_frozen(camera, **age)).map(|(camera, _)| camera.name.as_str())
    }
}

/// Whether a camera whose newest frame is so old, nanoseconds of robot time, has frozen.
pub(crate) fn is_frozen(camera: &Camera, age_ns: Option<u64>) -> bool {
    age_ns.is_some_and(|age| age as f64 > FROZEN_PERIODS * 1e9 / f64::from(camera.rate_hz))
}
