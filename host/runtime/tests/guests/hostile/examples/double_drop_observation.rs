//! Drops an observation twice.

use hostile::{Request, Result, conduct, sensing};

async fn run(_: Request) -> Result {
    let handle = sensing::observe().await?.take_handle();
    unsafe { hostile::raw::drop_observation(handle) };
    unsafe { hostile::raw::drop_observation(handle) };
    Ok(String::new())
}

conduct!(run);
