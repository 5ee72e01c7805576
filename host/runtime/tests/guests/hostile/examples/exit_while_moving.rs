//! Exits while the arm moves.

use hostile::{Request, Result, conduct, moving};

async fn run(_: Request) -> Result {
    let _lease = moving().await?;
    std::process::exit(0)
}

conduct!(run);
