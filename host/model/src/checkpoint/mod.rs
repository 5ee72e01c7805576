//! A checkpoint folder as LeRobot saves it.
mod error;
pub use error::CheckpointError;
