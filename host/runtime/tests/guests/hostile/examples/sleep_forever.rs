//! Blocks in WASI for the end of time.

use hostile::{Request, Result, conduct};

async fn run(_: Request) -> Result {
    std::thread::sleep(std::time::Duration::MAX);
    Ok(String::new())
}

conduct!(run);
