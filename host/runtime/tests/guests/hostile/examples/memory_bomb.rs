//! Allocates without end.

use hostile::{Request, Result, conduct};

async fn run(_: Request) -> Result {
    let mut eaten = Vec::new();
    loop {
        eaten.push(std::hint::black_box(vec![1u8; 1 << 20]));
    }
}

conduct!(run);
