//! Uses a handle that it was never given.

use hostile::{Request, Result, conduct};

async fn run(_: Request) -> Result {
    Ok(unsafe { hostile::raw::taken(7777) }.to_string())
}

conduct!(run);
