//! Gives a lease up twice while the arm moves.

use hostile::{Request, Result, conduct, moving};

async fn run(_: Request) -> Result {
    let handle = moving().await?.take_handle();
    unsafe { hostile::raw::drop_lease(handle) };
    unsafe { hostile::raw::drop_lease(handle) };
    Ok(String::new())
}

conduct!(run);
