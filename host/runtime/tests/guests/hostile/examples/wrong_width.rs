//! Commands more joints than there are.

use hostile::{ActionChunk, Request, Result, arm, conduct};

async fn run(_: Request) -> Result {
    let lease = arm().await?;
    lease.play(ActionChunk::new(10.0, &[vec![0.0; 7]])).await?;
    Ok(String::new())
}

conduct!(run);
