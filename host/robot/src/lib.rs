//! What Waza knows about robots: the embodiment file, the link to something that moves, the control loop between them,
//! and the safety filter in it.
//!
//! This crate owns actuation. It knows no foundation model and no WebAssembly: whoever holds a lease hands it action
//! chunks, and it hands back observations.
//!
//! | module | owns |
//! |---|---|
//! | [`embodiment`] | the file that describes a robot: joints, parts, cameras, sensors, action space, fallback |
//! | [`observation`] | one moment of the robot, shared and immutable |
//! | [`link`] | the trait between the control loop and something that moves |
//! | [`robot`] | the handle to a running control loop: observe, play, hold, stop |
//! | [`play`] | action chunks and planned moves, checked before they reach the loop |
//! | [`safety`] | the rules of the safety filter, and what it reports |
//! | [`clock`] | robot time and its pace |
//! | `control` | the control loop itself, on its own thread |
//! | `player` | the chunk player: rows become smooth demands, a newer chunk blends into the older |
//! | `filter` | the safety filter: demands become commands within every limit |
//! | `limits` | what one joint can do in whole ticks |
//! | `history` | the newest samples of a sensor |
//! | `inbox` | the seam between handles and the loop |
//! | [`sim`] | the default link: a simulated tabletop arm with cameras and a wrist force/torque sensor |

pub mod clock;
mod control;
pub mod embodiment;
mod filter;
mod history;
mod inbox;
mod limits;
pub mod link;
pub mod observation;
pub mod play;
mod player;
pub mod robot;
pub mod safety;
pub mod sim;

pub use clock::Pace;
pub use embodiment::Embodiment;
pub use link::{Link, LinkError};
pub use observation::{Frame, Image, Observation, Proprioception};
pub use play::{Ended, Play, PlayError, PlayReport};
pub use robot::{Pending, Playing, Reply, Robot, RobotError, RobotOptions, Statistics, TimeHold};
pub use safety::{Intervention, Kinematics, Response, Rule};
