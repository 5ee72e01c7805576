//! Begins to wait and to look, and withdraws both, without end.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use hostile::{Request, Result, clock, conduct, sensing};

async fn run(_: Request) -> Result {
    loop {
        begin(clock::wait(u64::MAX)).await?;
        begin(sensing::observe()).await?;
        wit_bindgen::yield_async().await;
    }
}

/// Polls it once, and drops it.
async fn begin<T>(call: impl Future<Output = Result<T>>) -> Result<()> {
    let mut call = pin!(call);
    poll_fn(|context| match call.as_mut().poll(context) {
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        _ => Poll::Ready(Ok(())),
    })
    .await
}

conduct!(run);
