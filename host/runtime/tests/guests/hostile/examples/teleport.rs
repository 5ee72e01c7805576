//! Commands the arm far to the one side and the other within a row, over and over; not as far as would be refused whole.

use hostile::{ActionChunk, Request, Result, arm, conduct, row};

async fn run(_: Request) -> Result {
    let lease = arm().await?;
    let rows: Vec<_> = (0..60).map(|at| row(if at % 2 == 0 { 0.9 } else { -0.9 })).collect();
    Ok(lease.play(ActionChunk::new(100.0, &rows)).await?.len().to_string())
}

conduct!(run);
