//! Waits a nanosecond between long computations.

use hostile::{Request, Result, clock, conduct};

async fn run(_: Request) -> Result {
    loop {
        for it in 0..20_000_000 {
            std::hint::black_box(it);
        }
        clock::wait(clock::now() + 1).await?;
    }
}

conduct!(run);
