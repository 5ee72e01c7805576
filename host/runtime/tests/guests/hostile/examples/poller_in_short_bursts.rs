//! Asks alarms that never ring whether they do, and waits for a moment before its time is up: as long as a run may last.

use hostile::{Request, Result, clock, conduct, raw};

async fn run(_: Request) -> Result {
    let alarms: Vec<u32> = (0..16).map(|_| unsafe { raw::subscribe_instant(u64::MAX) }).collect();
    loop {
        for _ in 0..1000 {
            for alarm in &alarms {
                unsafe { raw::pollable_ready(*alarm) };
            }
        }
        clock::wait(clock::now() + 1).await?;
    }
}

conduct!(run);
