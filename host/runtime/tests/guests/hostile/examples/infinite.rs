//! Commands a position at infinity.

use hostile::{Request, Result, arm, conduct, row};

async fn run(_: Request) -> Result {
    let lease = arm().await?;
    lease.move_joints(row(f32::INFINITY), 0.5).await?;
    Ok(String::new())
}

conduct!(run);
