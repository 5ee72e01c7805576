//! Returns 8 MiB.

use hostile::{Request, Result, conduct};

async fn run(_: Request) -> Result {
    Ok("x".repeat(8 << 20))
}

conduct!(run);
