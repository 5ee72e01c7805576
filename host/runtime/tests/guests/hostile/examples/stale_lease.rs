//! Uses a lease that it gave up.

use hostile::{Request, Result, conduct, moving};

async fn run(_: Request) -> Result {
    let handle = moving().await?.take_handle();
    unsafe { hostile::raw::drop_lease(handle) };
    unsafe { hostile::raw::hold(handle, &mut [0; 6]) };
    Ok(String::new())
}

conduct!(run);
