//! Crashes in an initialiser.

use hostile::{Request, Result, conduct};

#[used]
#[unsafe(link_section = ".init_array")]
static INITIALISER: extern "C" fn() = crashes;

extern "C" fn crashes() {
    std::process::abort()
}

async fn run(_: Request) -> Result {
    Ok(String::new())
}

conduct!(run);
