//! Tries every small number as a lease while another skill may hold one.

use hostile::{Request, Result, conduct};

async fn run(_: Request) -> Result {
    for lease in 1..100 {
        unsafe { hostile::raw::hold(lease, &mut [0; 6]) };
    }
    Ok(String::new())
}

conduct!(run);
