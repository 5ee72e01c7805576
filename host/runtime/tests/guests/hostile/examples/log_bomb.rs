//! Writes without end, as far as it is concerned.

use hostile::{Request, Result, conduct};

async fn run(_: Request) -> Result {
    for line in 0..5000 {
        println!("line {line} of much nonsense");
    }
    Ok(String::new())
}

conduct!(run);
