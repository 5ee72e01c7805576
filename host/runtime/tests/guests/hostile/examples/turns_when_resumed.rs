//! Behaves until it is resumed, then crashes with the arm in motion.

use hostile::{Request, Result, arm, conduct, durable, moving, row};

async fn run(request: Request) -> Result {
    let lease = arm().await?;
    lease.move_joints(row(0.1), 0.5).await?;
    durable::checkpoint(vec![1]).await?;
    if request.resume.is_some() {
        drop(lease);
        let _lease = moving().await?;
        std::process::abort()
    }
    Ok(String::new())
}

conduct!(run);
