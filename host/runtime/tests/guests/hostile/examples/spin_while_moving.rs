//! Loops while the arm moves.

use hostile::{Request, Result, conduct, moving, spin};

async fn run(_: Request) -> Result {
    let _lease = moving().await?;
    spin()
}

conduct!(run);
