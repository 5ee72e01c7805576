//! Invokes another skill and looks away while that works, without end.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use hostile::{Request, Result, clock, conduct, skills};

async fn run(_: Request) -> Result {
    loop {
        let mut invoked = pin!(skills::invoke("test/conduct".into(), "progress".into(), String::new()));
        let mut waited = pin!(clock::wait(clock::now() + 200_000_000));
        let ended = poll_fn(|context| match invoked.as_mut().poll(context) {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            Poll::Pending => waited.as_mut().poll(context).map(|_| None),
        })
        .await;
        ended.transpose()?;
    }
}

conduct!(run);
