//! Uses an observation that it dropped.

use hostile::{Request, Result, conduct, sensing};

async fn run(_: Request) -> Result {
    let seen = sensing::observe().await?;
    let handle = seen.take_handle();
    unsafe { hostile::raw::drop_observation(handle) };
    Ok(unsafe { hostile::raw::taken(handle) }.to_string())
}

conduct!(run);
