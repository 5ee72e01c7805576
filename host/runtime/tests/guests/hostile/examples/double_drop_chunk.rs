//! Drops a chunk twice.

use hostile::{ActionChunk, Request, Result, conduct};

async fn run(_: Request) -> Result {
    let handle = ActionChunk::new(10.0, &[]).take_handle();
    unsafe { hostile::raw::drop_chunk(handle) };
    unsafe { hostile::raw::drop_chunk(handle) };
    Ok(String::new())
}

conduct!(run);
