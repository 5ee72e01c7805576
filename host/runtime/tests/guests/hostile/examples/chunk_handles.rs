//! Hoards empty chunks.

use hostile::{ActionChunk, Request, Result, conduct};

async fn run(_: Request) -> Result {
    loop {
        std::mem::forget(ActionChunk::new(10.0, &[]));
    }
}

conduct!(run);
