//! What Waza knows about robots: the embodiment file, the link to something that moves, the control loop between them,
//! and the safety filter in it.
//!
//! This crate owns actuation. It knows no foundation model and no WebAssembly: whoever holds a lease hands it action
//! chunks, and it hands back observations.
//!
//! ```
//! use std::sync::Arc;
//! use waza_robot::sim::{SceneSpec, Simulator, arm};
//! use waza_robot::{Embodiment, Guard, Pace, Play, Robot, RobotOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> { futures_executor::block_on(async {
//! let embodiment = Arc::new(Embodiment::so101());
//! let link = Simulator::new(embodiment.clone(), &SceneSpec::tabletop(), 7);
//! let options = RobotOptions { pace: Pace::Lockstep, kinematics: Box::new(arm::tool_position), guard: Guard::On };
//! let robot = Robot::start(embodiment.clone(), Box::new(link), options)?;
//!
//! let here = robot.commanded();
//! let mut there = here.clone();
//! there[embodiment.joint_index("shoulder_pan").unwrap()] = 0.5;
//! let turn = Play::joints_to(&embodiment, embodiment.part_joints("arm").unwrap(), &here, &there, 0.5)?;
//! let report = robot.play(turn).await.value?;
//! assert!(report.interventions.is_empty());
//!
//! let seen = robot.observe().await.value?;
//! assert!((seen.joints.positions[0] - 0.5).abs() < 0.05);
//! # Ok(()) }) }
//! ```
//!
//! The rooms from the top; each imports only rooms below it.
//!
//! | room | owns |
//! |---|---|
//! | [`robot`] | the handle to a running control loop: observe, play, hold, stop |
//! | [`control`] | the control loop on its own thread, what it is asked, and who drives which joint |
//! | [`sim`] | the default link: a simulated tabletop arm with cameras and a wrist force/torque sensor |
//! | [`link`] | the trait between the control loop and something that moves; a link in a process of its own |
//! | [`safety`] | the safety filter: its rules, what it reports, and how demands become commands within every limit |
//! | `trajectory` | how one joint moves in whole ticks: within its limits, to a target, to rest |
//! | [`observation`] | one moment of the robot, shared and immutable |
//! | [`embodiment`] | the file that describes a robot, limits that are narrower than it, and its shape |
//! | [`error`] | what goes wrong with a robot, and what is wrong with what was asked of it |
//! | `rule` | the names of the safety filter's rules |
//! | [`clock`] | robot time and its pace |
//! | [`priority`] | who goes first when there are more threads than cores |

pub mod clock;
pub mod control;
pub mod embodiment;
pub mod error;
pub mod link;
pub mod observation;
pub mod priority;
pub mod robot;
mod rule;
pub mod safety;
pub mod sim;
mod trajectory;

pub use clock::Pace;
pub use control::external_drive::{Drive, DriveInput};
pub use control::play::{Ended, Play, PlayReport};
pub use control::stop::{SourceState, StopFile, StopSource, Stopped};
pub use embodiment::{Embodiment, Tightening, TighteningError, Within};
pub use error::{LinkError, PlayError, RobotError};
pub use link::Link;
#[cfg(unix)]
pub use link::bridge;
pub use observation::{Frame, Image, Lost, Observation, Proprioception};
pub use robot::{Fence, Pending, Playing, Reply, Robot, RobotOptions, Statistics, TimeHold};
pub use safety::{Guard, Intervention, Kinematics, Response, Rule};
