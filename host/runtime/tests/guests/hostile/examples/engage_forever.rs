//! Engages a controller without end, and never waits.

use hostile::{Request, Result, arm, conduct};

async fn run(_: Request) -> Result {
    let lease = arm().await?;
    loop {
        lease.engage("test/follower", &[])?;
    }
}

conduct!(run);
