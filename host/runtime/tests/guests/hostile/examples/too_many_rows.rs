//! Plays more rows than a chunk has.

use hostile::{ActionChunk, Request, Result, arm, conduct, row};

async fn run(_: Request) -> Result {
    let lease = arm().await?;
    lease.play(ActionChunk::new(10.0, &vec![row(0.1); 4097])).await?;
    Ok(String::new())
}

conduct!(run);
