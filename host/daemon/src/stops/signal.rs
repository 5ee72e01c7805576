//! Signals: SIGUSR1 stops, SIGUSR2 shows that it would, SIGINT and SIGTERM end the process in order, and a second of these two
//! ends it at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use signal_hook::low_level::raise;
use waza_robot::StopSource;

/// Added to a signal's number, this is the exit code of who was ended by it, as shells have it.
const ENDED_BY: i32 = 128;

/// Waits for signals on a thread of its own, for as long as the process lives. Without a source SIGUSR1 and SIGUSR2 stay what
/// they were.
pub(crate) fn watch(source: Option<StopSource>, leave: impl Fn() + Send + 'static) -> io::Result<()> {
    let leaving = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first one finds the flag unset. The second ends the process in the handler itself, whatever hangs.
        flag::register_conditional_shutdown(signal, ENDED_BY + signal, leaving.clone())?;
        flag::register(signal, leaving.clone())?;
    }
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
