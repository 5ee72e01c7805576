//! Asks the model as often as it can.

use hostile::{Request, Result, all, conduct, model, sensing};

async fn run(_: Request) -> Result {
    let seen = sensing::observe().await?;
    loop {
        all((0..8).map(|_| model::act("turn".into(), vec![&seen]))).await?;
    }
}

conduct!(run);
