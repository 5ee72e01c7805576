//! Asks an alarm that never rings whether it does, without end.

use hostile::{Request, Result, conduct, raw};

async fn run(_: Request) -> Result {
    let alarm = unsafe { raw::subscribe_instant(u64::MAX) };
    loop {
        unsafe { raw::pollable_ready(alarm) };
    }
}

conduct!(run);
