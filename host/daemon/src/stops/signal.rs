//! Signals: SIGUSR1 stops, SIGUSR2 shows that it would, SIGINT and SIGTERM end the process in order.

use std::io;

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use signal_hook::low_level::raise;
use waza_robot::StopSource;

/// Waits for signals on a thread of its own, for as long as the process lives. Without a source SIGUSR1 and SIGUSR2 stay what
/// they were.
pub(crate) fn watch(source: Option<StopSource>, leave: impl Fn() + Send + 'static) -> io::Result<()> {
    let mut caught = vec![SIGINT, SIGTERM];
    if source.is_some() {
        caught.extend([SIGUSR1, SIGUSR2]);
    }
    let mut signals = Signals::new(caught)?;
    let is_source = source.is_some();
    let follow = move || {
        for signal in signals.forever() {
            match (signal, &source) {
                (SIGUSR1, Some(source)) => source.stop(),
                (SIGUSR2, Some(source)) => source.alive(),
                _ => leave(),
            }
        }
    };
    std::thread::Builder::new().name("waza-signals".into()).spawn(follow)?;
    // The handler is there: this goes the whole way from the system to that thread.
    if is_source { raise(SIGUSR2) } else { Ok(()) }
}
