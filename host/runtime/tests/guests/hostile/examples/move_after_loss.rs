//! Goes on moving without a look at what it is told.

use hostile::{Request, Result, arm, conduct, row};

async fn run(_: Request) -> Result {
    let lease = arm().await?;
    loop {
        for to in [0.4, -0.4] {
            if let Err(error) = lease.move_joints(row(to), 0.5).await {
                // Once more, as if nothing had been said.
                let again = lease.move_joints(row(1.5), 1.0).await;
                return if again.is_ok() { Ok("it still moves".into()) } else { Err(error) };
            }
        }
    }
}

conduct!(run);
