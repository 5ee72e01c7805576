//! Opens streams without end and reads none.

use hostile::{Request, Result, conduct, sensing};

async fn run(_: Request) -> Result {
    loop {
        std::mem::forget(sensing::watch(1.0)?);
    }
}

conduct!(run);
