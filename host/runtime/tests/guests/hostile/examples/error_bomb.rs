//! Ends with an error of 8 MiB.

use hostile::{Error, Request, Result, conduct};

async fn run(_: Request) -> Result {
    Err(Error::Failed("x".repeat(8 << 20)))
}

conduct!(run);
