//! Sends bits to whoever watches the load: busy for a one, idle for a zero.

use hostile::{Request, Result, clock, conduct};

async fn run(_: Request) -> Result {
    let mut sent = 0;
    for bit in 0..16 {
        let start = std::time::SystemTime::now();
        while bit % 2 == 0 && start.elapsed().is_ok_and(|it| it.as_micros() < 500) {
            sent += 1;
        }
        clock::wait(clock::now() + 10_000_000).await?;
    }
    Ok(sent.to_string())
}

conduct!(run);
