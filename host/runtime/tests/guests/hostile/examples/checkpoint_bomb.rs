//! Leaves a checkpoint of more than it may, which the host refuses, and then of far more.

use hostile::{Error, Request, Result, conduct, durable};

async fn run(_: Request) -> Result {
    let Err(Error::Invalid(_)) = durable::checkpoint(vec![0; (1 << 20) + 1]).await else {
        return Ok("it was taken".into());
    };
    durable::checkpoint(vec![0; 8 << 20]).await?;
    Ok("it was taken".into())
}

conduct!(run);
