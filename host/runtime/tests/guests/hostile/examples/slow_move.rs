//! Asks for a move so slow that it is planned in tens of thousands of rows.

use hostile::{Request, Result, arm, conduct, row};

async fn run(_: Request) -> Result {
    let lease = arm().await?;
    lease.move_joints(row(1.0), 0.002).await?;
    Ok(String::new())
}

conduct!(run);
