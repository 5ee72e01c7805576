//! Makes streams of its own without end, with nobody at the other side.

use hostile::{Request, Result, conduct, sensing};

async fn run(_: Request) -> Result {
    loop {
        std::mem::forget(hostile::wit_stream::new::<sensing::Observation>());
    }
}

conduct!(run);
