//! Hoards observations.

use hostile::{Request, Result, conduct, sensing};

async fn run(_: Request) -> Result {
    loop {
        std::mem::forget(sensing::observe().await?);
    }
}

conduct!(run);
