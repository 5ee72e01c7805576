//! Invokes itself three times at once, and so does each of those.

use hostile::{Request, Result, all, conduct, skills};

async fn run(_: Request) -> Result {
    let invoke = || skills::invoke("test/hostile".into(), String::new(), String::new());
    let ended = all((0..3).map(|_| invoke())).await;
    ended.map(|_| String::new())
}

conduct!(run);
