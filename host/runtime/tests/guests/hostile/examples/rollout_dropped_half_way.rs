//! Looks away in the middle of a rollout and keeps the lease to its end.

use hostile::{Request, Result, arm, clock, conduct, forward};

async fn run(_: Request) -> Result {
    let lease = arm().await?;
    let mut events = lease.rollout(&forward(60.0))?;
    events.next().await;
    drop(events);
    clock::wait(clock::now() + 500_000_000).await?;
    Ok(String::new())
}

conduct!(run);
