//! Uses a chunk that it never made.

use hostile::{Request, Result, conduct};

async fn run(_: Request) -> Result {
    Ok(unsafe { hostile::raw::rate_hz(7777) }.to_string())
}

conduct!(run);
