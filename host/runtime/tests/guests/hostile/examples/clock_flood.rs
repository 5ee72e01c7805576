//! Asks for the time without end.

use hostile::{Request, Result, clock, conduct};

async fn run(_: Request) -> Result {
    loop {
        std::hint::black_box(clock::now());
    }
}

conduct!(run);
