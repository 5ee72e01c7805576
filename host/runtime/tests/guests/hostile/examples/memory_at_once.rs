//! Asks for all memory that there can be, over and over.

use hostile::{Request, Result, conduct};

async fn run(_: Request) -> Result {
    loop {
        std::hint::black_box(core::arch::wasm32::memory_grow(0, 60_000));
    }
}

conduct!(run);
