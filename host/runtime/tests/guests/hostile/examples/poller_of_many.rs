//! Waits without end for one of many alarms, of which one always rings and the others never do.

use hostile::{Request, Result, conduct, raw};

async fn run(_: Request) -> Result {
    let mut alarms: Vec<u32> = (0..30).map(|_| unsafe { raw::subscribe_instant(u64::MAX) }).collect();
    alarms.push(unsafe { raw::subscribe_instant(0) });
    loop {
        raw::poll(&alarms);
    }
}

conduct!(run);
