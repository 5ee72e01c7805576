//! Loops in an initialiser, before anything was asked of it.

use hostile::{Request, Result, conduct, spin};

#[used]
#[unsafe(link_section = ".init_array")]
static INITIALISER: extern "C" fn() = loops;

extern "C" fn loops() {
    spin()
}

async fn run(_: Request) -> Result {
    Ok(String::new())
}

conduct!(run);
