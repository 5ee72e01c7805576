//! What can go wrong between a request and its answer.

use std::time::Duration;

use crate::checkpoint::{CheckpointError, InstructionError};
use crate::executor::ExecutorError;
use crate::plan::PlanError;

/// A model that cannot be loaded or a request that it cannot serve. Each is one line with a way out.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The device.
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    /// A defect of this crate.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The instruction.
    #[error(transparent)]
    Instruction(#[from] InstructionError),
    /// An image of a camera that the model does not look at.
    #[error("camera `{camera}` is unknown to the model. It looks at {}", .known.join(", "))]
    Camera {
        /// The camera.
        camera: String,
        /// The cameras that it looks at.
        known: Vec<String>,
    },
    /// More frames of one camera than the model looks at.
    #[error("camera `{camera}` is given {found} times, the model looks at {most} of its frames at a time")]
    Frames {
        /// The camera.
        camera: String,
        /// Frames given.
        found: usize,
        /// Frames that it looks at.
        most: usize,
    },
    /// No image at all.
    #[error("no image was given. Give at least one of the cameras {}", .known.join(", "))]
    NoImage {
        /// The cameras that it looks at.
        known: Vec<String>,
    },
    /// A vector of the wrong length.
    #[error("the {what} has {found} numbers, the model takes {expected}. Match the embodiment to the model")]
    Length {
        /// State or noise.
        what: &'static str,
        /// Numbers given.
        found: usize,
        /// Numbers needed.
        expected: usize,
    },
    /// An infinite number or none, given or computed.
    #[error("the {what} holds a number that is not finite. {hint}")]
    NotFinite {
        /// State, noise or actions.
        what: &'static str,
        /// What to do about it.
        hint: &'static str,
    },
    /// The request ran together with others, and the device failed; one of them carries the cause.
    #[error("the device failed on the requests that ran together with this one. Ask again")]
    Batch,
    /// More requests wait than the broker keeps.
    #[error("the model is busy: {waiting} requests wait already. Ask again later")]
    Busy {
        /// How many.
        waiting: usize,
    },
    /// The request was not served before its deadline, and will not be.
    #[error("the model had no time for this within {} ms. Ask with a later deadline, or less often", .given.as_millis())]
    Late {
        /// From the request to its deadline.
        given: Duration,
    },
    /// The run, or its skill, has as many requests waiting as it may have.
    #[error("{most} requests of this skill wait for the model already, and more may not. Wait for their answers")]
    Quota {
        /// How many may wait.
        most: usize,
    },
    /// The model has no such ability.
    #[error("the model cannot {what}. {hint}")]
    Lacking {
        /// What was asked for.
        what: &'static str,
        /// What would be needed.
        hint: &'static str,
    },
    /// A prompt with all its images, and room for an answer, is longer than the model's context.
    #[error(
        "the prompt takes {tokens} tokens and the answer up to {answer}, the model reads {most} together. Ask a shorter \
         question about fewer images, or allow a shorter answer"
    )]
    Prompt {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens that the answer may have.
        answer: usize,
        /// Tokens that both may have together.
        most: usize,
    },
    /// A question about too many images.
    #[error("the question is about {found} images, at most {most} are looked at. Ask about fewer")]
    Images {
        /// Images given.
        found: usize,
        /// Images that are looked at.
        most: usize,
    },
    /// An answer that another one took the place of.
    #[error("another answer was begun, and the model makes one at a time. Ask again")]
    Superseded,
    /// A way of choosing words that makes no sense.
    #[error("an answer needs at least one token, a temperature above 0 and a `top_p` in (0, 1]")]
    Decoding,
    /// The system gave the broker no thread.
    #[error("the model got no thread of its own: {0}. End other programs")]
    Thread(std::io::Error),
    /// The model panicked over the request: a defect of this crate or of a driver. The model is opened again.
    #[error("the model failed unexpectedly: {cause}. It is loaded again; ask again, and report this if it repeats")]
    Panicked {
        /// What the panic said.
        cause: String,
    },
    /// The broker's thread has ended.
    #[error("the model has stopped. Restart the host; its log says why")]
    Stopped,
}

#[cfg(feature = "gpu")]
impl From<crate::wgpu::WeightsError> for ModelError {
    fn from(error: crate::wgpu::WeightsError) -> Self {
        match error {
            crate::wgpu::WeightsError::Checkpoint(error) => Self::Checkpoint(error),
            crate::wgpu::WeightsError::Device(error) => Self::Executor(error),
        }
    }
}
