//! Waits for thousands of things at once.

use hostile::{Request, Result, all, clock, conduct};

async fn run(_: Request) -> Result {
    all((0..5000).map(|_| clock::wait(u64::MAX))).await?;
    Ok(String::new())
}

conduct!(run);
