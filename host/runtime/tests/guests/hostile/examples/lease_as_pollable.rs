//! Drops a lease as if it were a pollable.

use hostile::{Request, Result, conduct, moving};

async fn run(_: Request) -> Result {
    let handle = moving().await?.take_handle();
    unsafe { hostile::raw::drop_pollable(handle) };
    Ok(String::new())
}

conduct!(run);
