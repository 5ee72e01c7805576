//! Starts a motion whenever the last has begun.

use hostile::{Request, Result, all, arm, conduct, row};

async fn run(_: Request) -> Result {
    let lease = arm().await?;
    let ways = (0..20).map(|at| row(if at % 2 == 0 { 0.5 } else { -0.5 }));
    all(ways.map(|to| lease.move_joints(to, 1.0))).await?;
    Ok(String::new())
}

conduct!(run);
