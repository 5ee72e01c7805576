//! Plays a chunk whose second row is due in a billion years.

use hostile::{ActionChunk, Request, Result, arm, conduct, row};

async fn run(_: Request) -> Result {
    let lease = arm().await?;
    lease.play(ActionChunk::new(f32::MIN_POSITIVE, &[row(0.1), row(0.2)])).await?;
    Ok(String::new())
}

conduct!(run);
