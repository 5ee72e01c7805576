//! Progress on stderr, where it does not disturb what a program reads; hidden when stderr is no terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

const BEAT: Duration = Duration::from_millis(100);

/// Work of unknown length.
pub fn spinner(doing: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(doing.to_owned());
    bar.enable_steady_tick(BEAT);
    bar
}

/// Work of a known number of steps.
pub fn bar(doing: &str, steps: u64) -> ProgressBar {
    let bar = ProgressBar::new(steps).with_prefix(doing.to_owned());
    if let Ok(style) = ProgressStyle::with_template("{prefix:<12} {bar:24} {pos}/{len} {elapsed:>5} {wide_msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(BEAT);
    bar
}
