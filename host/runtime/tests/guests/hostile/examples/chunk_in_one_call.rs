//! Hands over 8 MiB in one call.

use hostile::{ActionChunk, Request, Result, conduct};

async fn run(_: Request) -> Result {
    drop(ActionChunk::new(10.0, &[vec![0.0; 2 << 20]]));
    Ok(String::new())
}

conduct!(run);
