//! Writes one line that never ends.

use std::io::Write;

use hostile::{Request, Result, conduct};

async fn run(_: Request) -> Result {
    for _ in 0..100 {
        let _ = std::io::stderr().write_all(&[b'x'; 4096]);
    }
    Ok(String::new())
}

conduct!(run);
