//! Tells the model a novel of 8 MiB.

use hostile::{Request, Result, conduct, model, sensing};

async fn run(_: Request) -> Result {
    let seen = sensing::observe().await?;
    model::act("turn ".repeat(8 << 18), vec![&seen]).await?;
    Ok(String::new())
}

conduct!(run);
