//! Engages controllers without end, and waits now and then so that they are gone.

use hostile::{Request, Result, arm, clock, conduct};

async fn run(_: Request) -> Result {
    let lease = arm().await?;
    loop {
        for _ in 0..8 {
            lease.engage("test/follower", &[0.0, -0.6, 0.8, 0.6, 0.0, 0.3])?;
        }
        clock::wait(clock::now() + 20_000_000).await?;
    }
}

conduct!(run);
