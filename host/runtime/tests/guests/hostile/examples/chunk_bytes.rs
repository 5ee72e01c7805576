//! Hoards chunks of a megabyte: a few handles, much memory of the host.

use hostile::{ActionChunk, Request, Result, conduct};

async fn run(_: Request) -> Result {
    let rows = vec![vec![0.0; 128]; 2048];
    loop {
        std::mem::forget(ActionChunk::new(10.0, &rows));
    }
}

conduct!(run);
