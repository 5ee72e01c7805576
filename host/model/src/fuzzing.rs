//! What reads bytes and is nobody's interface, for the targets in `fuzz/`.

use std::ops::Range;

use crate::checkpoint::{Checkpoint, Header, InstructionError};

/// Where the tensors of a safetensors file lie in it.
///
/// # Errors
/// What is wrong with the file.
pub fn places(file: &[u8]) -> Result<Vec<Range<usize>>, String> {
    Ok(Header::parse(file)?.tensors.into_values().map(|tensor| tensor.bytes).collect())
}

/// The tokens of an instruction.
///
/// # Errors
/// As [`Policy::act`](crate::Policy::act) has it.
pub fn tokens(checkpoint: &Checkpoint, instruction: &str) -> Result<Vec<u32>, InstructionError> {
    checkpoint.tokenizer().encode(instruction)
}
