//! Takes the arm and gives it up in motion, over and over.

use hostile::{Request, Result, arm, conduct, forward};

async fn run(_: Request) -> Result {
    for _ in 0..200 {
        let lease = arm().await?;
        std::mem::forget(lease.rollout(&forward(5.0)));
    }
    Ok(String::new())
}

conduct!(run);
