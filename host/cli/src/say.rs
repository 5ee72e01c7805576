//! What commands print for people and programs.

use std::fmt;
use std::io::{self, ErrorKind, Write};

use anyhow::{Context, Result};

/// Prints a line to stdout, as `println!` does, and fails instead of panicking.
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::say::print(format_args!("{}\n", format_args!($($argument)*)))
    };
}

/// Prints to stdout. A reader that has left, as `head` does, has what it wanted: that is no failure of the work.
///
/// # Errors
/// stdout takes nothing, for another reason.
pub fn print(text: fmt::Arguments<'_>) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("writing to standard output"),
        _ => Ok(()),
    }
}
