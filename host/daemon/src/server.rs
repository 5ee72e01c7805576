//! Connections: how many, how large, how long. One thread serves them all; what they ask for takes no time.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::{Router, middleware::from_fn};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{Semaphore, oneshot};

use crate::auth::{Token, auth};
use crate::fault::Fault;

/// Connections at once. Further ones wait until one ends, which takes no longer than the times below; only those that follow
/// events last, and they are fewer.
const MOST_CONNECTIONS: usize = 64;

const MOST_BODY_BYTES: usize = 64 * 1024;

/// A request's head must be here within this.
const HEAD_WITHIN: Duration = Duration::from_secs(2);

/// A request must be answered within this, its body included.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Serves until it is dropped.
pub(crate) struct Server {
    pub address: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    /// Serves on a listener, on a thread of its own, on which `beside` is driven as well.
    pub fn start(
        listener: TcpListener,
        router: Router,
        token: Option<Token>,
        beside: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (end, ended) = oneshot::channel();
        let router = router
            .layer(DefaultBodyLimit::max(MOST_BODY_BYTES))
            .layer(from_fn(in_time))
            .layer(middleware::from_fn_with_state(token.map(Arc::new), auth));
        let serve = move || {
            runtime.block_on(async {
                tokio::spawn(accept(listener, router));
                tokio::spawn(beside);
                // Resolves when the server is dropped, too.
                let _ = ended.await;
            });
        };
        let thread = std::thread::Builder::new().name("waza-http".into()).spawn(serve)?;
        Ok(Self { address, end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed already.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, router: Router) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("the HTTP API cannot be served: {error}"),
    };
    let connections = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    // The semaphore is never closed.
    while let Ok(permit) = connections.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // The system is short of something; asking again at once would only burn its time.
                tracing::warn!("a connection could not be taken: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        let serve = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            // One request a connection: who is idle keeps nobody out.
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            // Who breaks off has what they wanted.
            let _ = serve.await;
            drop(permit);
        });
    }
}

async fn in_time(request: Request, next: Next) -> Result<Response, Fault> {
    tokio::time::timeout(ANSWER_WITHIN, next.run(request)).await.map_err(|_| {
        let cause = format!("the request was not whole within {ANSWER_WITHIN:?}");
        Fault::new(StatusCode::REQUEST_TIMEOUT, "timeout", cause, "send it faster")
    })
}
