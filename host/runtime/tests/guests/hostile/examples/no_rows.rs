//! Plays a chunk without rows.

use hostile::{ActionChunk, Request, Result, arm, conduct};

async fn run(_: Request) -> Result {
    let lease = arm().await?;
    lease.play(ActionChunk::new(10.0, &[])).await?;
    Ok(String::new())
}

conduct!(run);
