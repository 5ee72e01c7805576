//! Makes sets to wait on without end, which the host never hears of.

use hostile::{Request, Result, conduct};

async fn run(_: Request) -> Result {
    loop {
        unsafe { hostile::raw::waitable_set_new() };
    }
}

conduct!(run);
