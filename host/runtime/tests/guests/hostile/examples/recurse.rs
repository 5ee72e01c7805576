//! Calls itself without end.

use hostile::{Request, Result, conduct};

fn deeper(depth: u64) -> u64 {
    let here = std::hint::black_box([depth; 16]);
    if here[3] == u64::MAX { 0 } else { deeper(depth + 1) + here[3] }
}

async fn run(_: Request) -> Result {
    Ok(deeper(0).to_string())
}

conduct!(run);
