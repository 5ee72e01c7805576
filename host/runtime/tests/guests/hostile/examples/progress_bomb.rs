//! Reports progress without end, as far as it is concerned.

use hostile::{Request, Result, conduct, operator};

async fn run(_: Request) -> Result {
    for _ in 0..5000 {
        operator::progress(f32::NAN, &"on and on ".repeat(20));
    }
    Ok(String::new())
}

conduct!(run);
