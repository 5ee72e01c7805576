//! Drops an observation while the model looks at it.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use hostile::{Request, Result, conduct, model, sensing};

async fn run(_: Request) -> Result {
    let seen = sensing::observe().await?;
    let handle = seen.handle();
    let mut asked = pin!(model::act("turn".into(), vec![&seen]));
    let begun = poll_fn(|context| Poll::Ready(asked.as_mut().poll(context).is_pending())).await;
    unsafe { hostile::raw::drop_observation(handle) };
    Ok(format!("begun: {begun}"))
}

conduct!(run);
