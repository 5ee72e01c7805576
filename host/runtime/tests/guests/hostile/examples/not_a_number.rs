//! Commands what is no number.

use hostile::{ActionChunk, Request, Result, arm, conduct, row};

async fn run(_: Request) -> Result {
    let lease = arm().await?;
    lease.play(ActionChunk::new(10.0, &[row(0.1), row(f32::NAN)])).await?;
    Ok(String::new())
}

conduct!(run);
