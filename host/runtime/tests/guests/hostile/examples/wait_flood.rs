//! Waits for the past without end.

use hostile::{Request, Result, clock, conduct};

async fn run(_: Request) -> Result {
    loop {
        clock::wait(0).await?;
    }
}

conduct!(run);
