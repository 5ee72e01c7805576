//! Invokes itself without end.

use hostile::{Request, Result, conduct, skills};

async fn run(_: Request) -> Result {
    Ok(skills::invoke("test/hostile".into(), String::new(), String::new()).await?.data)
}

conduct!(run);
