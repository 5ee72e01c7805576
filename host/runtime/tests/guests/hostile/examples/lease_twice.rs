//! Takes the arm while it has it.

use hostile::{Request, Result, arm, conduct, moving};

async fn run(_: Request) -> Result {
    let _lease = moving().await?;
    arm().await?;
    Ok(String::new())
}

conduct!(run);
