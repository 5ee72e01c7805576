//! Has the same megabyte copied back and forth without end.

use hostile::{ActionChunk, Request, Result, conduct};

async fn run(_: Request) -> Result {
    let chunk = ActionChunk::new(10.0, &[vec![0.0; 1 << 18]]);
    loop {
        std::hint::black_box(chunk.steps());
    }
}

conduct!(run);
