//! Looks thousands of times at once.

use hostile::{Request, Result, all, conduct, sensing};

async fn run(_: Request) -> Result {
    all((0..5000).map(|_| sensing::observe())).await?;
    Ok(String::new())
}

conduct!(run);
