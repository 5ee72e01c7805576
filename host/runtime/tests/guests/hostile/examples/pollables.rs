//! Sets alarms without end.

use hostile::{Request, Result, conduct, raw};

async fn run(_: Request) -> Result {
    loop {
        unsafe { raw::subscribe_instant(u64::MAX) };
    }
}

conduct!(run);
