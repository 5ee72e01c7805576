//! Uses a chunk that it handed to the player.

use hostile::{ActionChunk, Request, Result, arm, conduct, row};

async fn run(_: Request) -> Result {
    let lease = arm().await?;
    let chunk = ActionChunk::new(10.0, &[row(0.05), row(0.1)]);
    let handle = chunk.handle();
    lease.play(chunk).await?;
    Ok(unsafe { hostile::raw::rate_hz(handle) }.to_string())
}

conduct!(run);
