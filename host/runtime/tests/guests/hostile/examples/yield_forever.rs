//! Yields without end, and never waits.

use hostile::{Request, Result, conduct};

async fn run(_: Request) -> Result {
    loop {
        wit_bindgen::yield_async().await;
    }
}

conduct!(run);
