//! Leaves a checkpoint, and loops when it is resumed from it.

use hostile::{Request, Result, conduct, durable, spin};

async fn run(request: Request) -> Result {
    if request.resume.is_some() {
        spin()
    }
    durable::checkpoint(vec![1]).await?;
    Ok(String::new())
}

conduct!(run);
