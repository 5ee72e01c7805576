//! Loops.

use hostile::{Request, Result, conduct, spin};

async fn run(_: Request) -> Result {
    spin()
}

conduct!(run);
