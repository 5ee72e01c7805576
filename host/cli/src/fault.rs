//! How a command fails: one line on stderr with a cause, a place and a way out, and an exit code that says whose turn it is.

use std::fmt;
use std::process::ExitCode;

use waza_model::ModelError;
use waza_model::executor::ExecutorError;

use crate::lines::plain;

/// The user's input is at fault: exit code 2. Everything else exits with 1.
#[derive(Debug)]
pub struct BadInput(anyhow::Error);

impl fmt::Display for BadInput {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#}", self.0)
    }
}

impl std::error::Error for BadInput {}

/// Bad input that nothing else has described yet, from the parts of its line.
pub fn bad_input(cause: impl fmt::Display, place: impl fmt::Display, way_out: impl fmt::Display) -> anyhow::Error {
    anyhow::Error::new(BadInput(anyhow::anyhow!("{cause}: {place}: {way_out}")))
}

impl BadInput {
    /// An error that the user's input caused and that describes itself.
    pub fn caused_by(error: impl Into<anyhow::Error>) -> anyhow::Error {
        anyhow::Error::new(Self(error.into()))
    }
}

/// Marks errors that the user's input caused.
pub trait OrBadInput<T> {
    /// The error becomes [`BadInput`].
    fn or_bad_input(self) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> OrBadInput<T> for Result<T, E> {
    fn or_bad_input(self) -> anyhow::Result<T> {
        self.map_err(BadInput::caused_by)
    }
}

/// A model's error, marked as bad input unless the device or the model itself failed.
pub fn model_fault(error: ModelError) -> anyhow::Error {
    match error {
        ModelError::Checkpoint(_)
        | ModelError::Instruction(_)
        | ModelError::Camera { .. }
        | ModelError::Frames { .. }
        | ModelError::NoImage { .. }
        | ModelError::Length { .. }
        | ModelError::Lacking { .. }
        | ModelError::Prompt { .. }
        | ModelError::Images { .. }
        | ModelError::Decoding
        | ModelError::Executor(ExecutorError::Unavailable { .. }) => BadInput::caused_by(error),
        ModelError::Executor(_)
        | ModelError::Plan(_)
        | ModelError::NotFinite { .. }
        | ModelError::Batch
        | ModelError::Busy { .. }
        | ModelError::Late { .. }
        | ModelError::Panicked { .. }
        | ModelError::Quota { .. }
        | ModelError::Superseded
        | ModelError::Thread(_)
        | ModelError::Stopped => error.into(),
    }
}

/// What the shell is told.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(if error.chain().any(|cause| cause.is::<BadInput>()) { 2 } else { 1 })
}

/// The error on one line.
pub fn line(error: &anyhow::Error) -> String {
    let lines: Vec<_> = format!("{error:#}").lines().map(|line| line.trim().to_owned()).collect();
    // A skill's last words may be among them.
    plain(&lines.join(" ")).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn bad_input_stays_bad_input_under_added_context() {
        let error = Err::<(), _>(bad_input("no such file", "x.wasm", "build it first")).context("loading").unwrap_err();
        assert_eq!(exit_code(&error), ExitCode::from(2));
        assert_eq!(line(&error), "loading: no such file: x.wasm: build it first");
        assert_eq!(exit_code(&anyhow::anyhow!("the arm is on fire")), ExitCode::from(1));
    }

    #[test]
    fn an_error_of_several_lines_is_printed_on_one() {
        let parsed =
            "not = [toml".parse::<f32>().map_err(|error| anyhow::anyhow!("line 1\n  {error}\n")).or_bad_input();
        assert_eq!(line(&parsed.unwrap_err()), "line 1 invalid float literal");
    }
}
