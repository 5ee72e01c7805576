//! Uses an observation as if it were a lease.

use hostile::{Request, Result, conduct, sensing};

async fn run(_: Request) -> Result {
    let handle = sensing::observe().await?.take_handle();
    unsafe { hostile::raw::hold(handle, &mut [0; 6]) };
    Ok(String::new())
}

conduct!(run);
