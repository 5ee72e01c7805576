//! Starts rollouts without end, and reads none of what they tell.

use hostile::{Request, Result, arm, conduct, forward};

async fn run(_: Request) -> Result {
    let lease = arm().await?;
    loop {
        std::mem::forget(lease.rollout(&forward(60.0))?);
    }
}

conduct!(run);
