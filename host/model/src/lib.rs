//! Waza's foundation model: a checkpoint in; chunks of actions, or words, out.
//!
//! This crate owns everything between what a robot sees and is told and what it should do or say next: it reads the folder
//! that LeRobot saves for SmolVLA, or transformers for SmolVLM2, checks it as a whole, derives static [`plan`]s from it, and
//! runs them on an [`executor`]: on the CPU ([`cpu`]) or, with the feature `gpu`, through wgpu. The numbers agree with the
//! reference implementations' to f32 tolerance; [`verify`] measures by how much.
//!
//! It refuses to know robots and WebAssembly: states and actions are plain numbers, in the units of the training data or,
//! where a [`Setup`] says how they relate, in rad; who may ask for them is somebody else's business.
//!
//! ```no_run
//! use waza_model::{Checkpoint, Device, Image, Noise, Policy, Query};
//!
//! let checkpoint = Checkpoint::open("checkpoints/tabletop".as_ref())?;
//! let mut policy = Policy::new(&checkpoint, Device::Auto)?;
//! let chunk = policy.act(&Query {
//!     instruction: "touch the red block".to_owned(),
//!     images: vec![("front".to_owned(), Image::new(96, 96, vec![0; 96 * 96 * 3])?)],
//!     state: vec![0.0; policy.about().state_size],
//!     sensors: Vec::new(),
//!     noise: Noise::Seed(7),
//! })?;
//! assert_eq!(chunk.rows.len(), policy.about().chunk_length);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What a checkpoint is
//!
//! Of a policy ([`Checkpoint`]): `config.json`, `model.safetensors` (f32, f16 or bf16; memory-mapped, and kept on the device
//! in the same format), `policy_preprocessor.json` and `policy_postprocessor.json` with their statistics; and the folder of
//! the VLM's `config.json` and `tokenizer.json` that they name. That folder is looked for inside the checkpoint, beside it,
//! as a path, and in the Hugging Face cache, in this order; if it holds the VLM's own weights, [`Checkpoint::vlm`] opens
//! them. Of a vision-language model ([`VlmCheckpoint`]), which answers in words: what transformers saves.
//!
//! An optional `waza.json` ([`Card`]) says what people call the model, which embodiment it drives, and in which units, how
//! fast and through which cameras; [`Setup`] can say so, too. What is said nowhere is assumed and told: see
//! [`About::warnings`]. One digest covers all of it but the card. Everything read is bounded and checked before it is used,
//! and what is not supported is refused by name: see [`CheckpointError`].
//!
//! # Video and sensors
//!
//! Two fields of a policy's `config.json`, which no stock checkpoint has, make it look back and feel. Their oracle is
//! `training/reference.py`.
//!
//! - `"video": {"frames": T, "every_n_layers": n}`: each camera gives up to T frames. In every n-th layer of the image
//!   encoder a patch also attends to the same place in earlier frames, with the layer's own projections; an earlier frame's
//!   patches carry a code of its age. The newest frame's tokens go on, so the prefix is as long as before.
//! - `"sensors": {"channels": C, "samples": S, "tokens": K}`: a window of S samples becomes K tokens beside the state's,
//!   through `model.sensor_proj`; its statistics are `observation.sensors` of the preprocessor.
//!
//! # The rooms
//!
//! | module | holds |
//! |---|---|
//! | `checkpoint`, [`setup`], `tensors`, [`architecture`] | files, what is said besides, the declared tensors, the dimensions that follow |
//! | [`plan`] | what forward passes do, as data; SmolVLA and SmolVLM2 are two builders |
//! | [`executor`], [`cpu`], `wgpu` | who runs them |
//! | `policy`, `vlm`, `image`, `noise` | everything around the networks |
//! | [`broker`] | the thread that owns a model, and the many that ask it |
//! | [`verify`], [`mod@bench`], `info`, `about` | how right, how fast, and what it is |

mod about;
pub mod architecture;
pub mod bench;
pub mod broker;
mod checkpoint;
pub mod cpu;
mod device;
mod error;
pub mod executor;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod image;
mod info;
mod model;
mod noise;
pub mod plan;
mod policy;
mod recent;
pub mod setup;
mod tensors;
pub mod verify;
mod vlm;
#[cfg(feature = "gpu")]
pub mod wgpu;

pub use about::{Ability, About};
pub use broker::{Answering, Broker, ModelHandle, Priority, Statistics, Ticket};
pub use checkpoint::{
    AnyCheckpoint, Card, Checkpoint, CheckpointError, InstructionError, Misshapen, TensorMismatch, TextStream,
    TokenEmbeddings, VlmCheckpoint, VlmTokenizer, WeightSource,
};
pub use device::{Device, UnknownDevice};
pub use error::ModelError;
pub use image::{Image, ImageError};
pub use info::{Info, PolicyInfo, TextInfo};
pub use model::Model;
pub use policy::{Actions, Cost, LARGEST_BATCH, Noise, Policy, Query, Sections, Work};
pub use setup::{RobotSide, Said, Setup, Unit, Units};
pub use vlm::{Answer, Decoding, Detection, Generation, MOST_IMAGES, Question, Sampling, Step, Vlm, boxes, locating};
