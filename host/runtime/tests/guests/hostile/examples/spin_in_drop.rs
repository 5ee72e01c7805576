//! Loops while what it holds is dropped, with the answer ready.

use hostile::{Request, Result, conduct, moving, spin};

struct Clinging;

impl Drop for Clinging {
    fn drop(&mut self) {
        spin()
    }
}

async fn run(_: Request) -> Result {
    let _lease = moving().await?;
    let _clinging = Clinging;
    Ok(String::new())
}

conduct!(run);
