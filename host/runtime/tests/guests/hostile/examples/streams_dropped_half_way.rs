//! Opens a stream, reads a little of it and drops it, without end.

use hostile::{Request, Result, conduct, sensing};

async fn run(_: Request) -> Result {
    loop {
        let mut seen = sensing::watch(100.0)?;
        seen.next().await;
    }
}

conduct!(run);
