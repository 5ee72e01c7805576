//! Invokes another skill that invokes this one.

use hostile::{Request, Result, conduct, skills};

async fn run(_: Request) -> Result {
    let back = "invoke: test/hostile, again".into();
    Ok(skills::invoke("test/conduct".into(), back, String::new()).await?.data)
}

conduct!(run);
