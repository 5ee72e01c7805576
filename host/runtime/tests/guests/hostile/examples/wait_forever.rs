//! Waits for the end of time.

use hostile::{Request, Result, clock, conduct};

async fn run(_: Request) -> Result {
    clock::wait(u64::MAX).await?;
    Ok(String::new())
}

conduct!(run);
