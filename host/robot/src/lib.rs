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
//! | module | owns |
//! |---|---|
//! | [`embodiment`] | the file that describes a robot: joints, parts, cameras, sensors, action space, fallback |
//! | [`tighten`] | limits of a site or a skill, intersected with a robot's |
//! | [`observation`] | one moment of the robot, shared and immutable |
//! | [`link`] | the trait between the control loop and something that moves |
//! | `bridge` | a link in a process of its own, which holds the robot when the host dies (Unix) |
//! | [`robot`] | the handle to a running control loop: observe, play, hold, stop |
//! | [`play`] | action chunks and planned moves, checked before they reach the loop |
//! | [`drive`] | driving joints tick by tick from outside the loop |
//! | [`safety`] | the rules of the safety filter, and what it reports |
//! | [`priority`] | who goes first when there are more threads than cores |
//! | [`stop`] | what may stop the robot, each to be seen alive before anything moves |
//! | [`clock`] | robot time and its pace |
//! | `control` | the control loop itself, on its own thread |
//! | `player` | the chunk player: rows become smooth demands, a newer chunk blends into the older |
//! | `driver` | what plays and drives have in common: what ends them, and who is told |
//! | `filter` | the safety filter: demands become commands within every limit |
//! | `feel` | for how long joints and sensors have felt too much |
//! | `shape` | how the demands on one joint are shaped: `track`, then averaged to keep its jerk |
//! | `track` | how one joint follows a target within its limits |
//! | `brake` | how a joint comes to rest when its acceleration comes and goes within its jerk |
//! | `limits` | what one joint can do in whole ticks |
//! | `body` | the robot's capsules: how deep they are in each other or in forbidden boxes |
//! | `history` | the newest samples of a sensor |
//! | `inbox` | the seam between handles and the loop |
//! | [`sim`] | the default link: a simulated tabletop arm with cameras and a wrist force/torque sensor |

#[cfg(test)]
mod allocation;
mod body;
mod brake;
#[cfg(unix)]
pub mod bridge;
pub mod clock;
mod control;
pub mod drive;
mod driver;
pub mod embodiment;
mod feel;
mod filter;
mod history;
mod inbox;
mod limits;
pub mod link;
pub mod observation;
pub mod play;
mod player;
pub mod priority;
pub mod robot;
pub mod safety;
mod shape;
pub mod sim;
pub mod stop;
pub mod tighten;
mod track;

pub use clock::Pace;
pub use drive::{Drive, DriveInput};
pub use embodiment::Embodiment;
pub use link::{Link, LinkError};
pub use observation::{Frame, Image, Observation, Proprioception};
pub use play::{Ended, Play, PlayError, PlayReport};
pub use robot::{Pending, Playing, Reply, Robot, RobotError, RobotOptions, Statistics, TimeHold};
pub use safety::{Guard, Intervention, Kinematics, Response, Rule};
pub use stop::{SourceState, StopFile, StopSource, Stopped};
pub use tighten::{Tightening, TighteningError, Within};
