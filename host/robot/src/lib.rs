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
//! | [`sim`] | the default link: a simulated tabletop arm with cameras and a wrist force/torque sensor |

pub mod embodiment;
pub mod link;
pub mod observation;
pub mod sim;

pub use embodiment::Embodiment;
pub use link::{Link, LinkError};
pub use observation::{Frame, Image, Observation, Proprioception};
