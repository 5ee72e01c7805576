//! Takes every connection, waits for the head of its request, and tells what may not wait from the rest.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::connection::Connection;
use super::{Limits, serve};
use crate::fault::Fault;

/// How long is waited after the system refused a connection: asking again at once would only burn its time.
const REFUSED_FOR: Duration = Duration::from_millis(20);

/// A connection that has a place for as long as it lasts.
pub(super) struct Admitted {
    pub stream: std::net::TcpStream,
    /// What has been read of it: the head at least.
    pub head: Vec<u8>,
    pub place: OwnedSemaphorePermit,
}

pub(super) struct Door {
    urgent: Router,
    urgent_paths: &'static [&'static str],
    /// Answers whoever finds no place.
    full: Router,
    places: Arc<Semaphore>,
    /// To whoever serves the rest; `None`: nothing else is served here.
    admit: Option<mpsc::Sender<Admitted>>,
    limits: Limits,
}

impl Door {
    pub fn new(
        urgent: Router,
        urgent_paths: &'static [&'static str],
        admit: Option<mpsc::Sender<Admitted>>,
        limits: Limits,
    ) -> Self {
        let places = limits.places;
        let full = Router::new().fallback(async move || {
            let cause = format!("{places} requests are being answered");
            Fault::new(StatusCode::SERVICE_UNAVAILABLE, "busy", cause, "ask again; a stop is always answered")
        });
        Self { urgent, urgent_paths, full, places: Arc::new(Semaphore::new(places)), admit, limits }
    }

    pub async fn accept(self, listener: TcpListener) {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!("the HTTP API cannot be served: {error}"),
        };
        let (door, waiting) = (Arc::new(self), Arc::new(Waiting::default()));
        for number in 0.. {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("a connection could not be taken: {error}");
                    // The system may be short of what the oldest one holds.
                    waiting.leave_at_most(door.limits.waiting / 2);
                    sleep(REFUSED_FOR).await;
                    continue;
                }
            };
            waiting.leave_at_most(door.limits.waiting.saturating_sub(1));
            let (door, seat) = (door.clone(), Seat { number, waiting: waiting.clone() });
            let task = tokio::spawn(async move {
                door.receive(stream).await;
                drop(seat);
            });
            // It has not begun: this thread drives it.
            waiting.0.lock().insert(number, task.abort_handle());
        }
    }

    async fn receive(&self, stream: TcpStream) {
        let limits = self.limits;
        let Ok(Some(head)) = timeout(limits.head_within, head(&stream, limits.head_bytes)).await else { return };
        let here = |router: &Router, stream, head| {
            serve(Connection::new(stream, head, limits.taken_within), router.clone(), limits)
        };
        let Some(admit) = self.admit.as_ref().filter(|_| !is_for(&head, self.urgent_paths)) else {
            return here(&self.urgent, stream, head).await;
        };
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            return here(&self.full, stream, head).await;
        };
        match stream.into_std() {
            // There are as many places as can be admitted, and whoever serves them ends with this thread.
            Ok(stream) => drop(admit.try_send(Admitted { stream, head, place })),
            Err(error) => tracing::warn!("a connection is lost: {error}"),
        }
    }
}

/// Connections that this thread has in its hands, the oldest first.
#[derive(Default)]
struct Waiting(Mutex<BTreeMap<u64, AbortHandle>>);

impl Waiting {
    /// Breaks the oldest ones off.
    fn leave_at_most(&self, most: usize) {
        while let Some(oldest) = self.beyond(most) {
            oldest.abort();
        }
    }

    fn beyond(&self, most: usize) -> Option<AbortHandle> {
        let mut waiting = self.0.lock();
        if waiting.len() > most { waiting.pop_first().map(|(_, oldest)| oldest) } else { None }
    }
}

/// Among those that wait, until this is dropped.
struct Seat {
    number: u64,
    waiting: Arc<Waiting>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.waiting.0.lock().remove(&self.number);
    }
}

/// What a connection says up to the end of a request's head at least. `None` if that does not come, or is too long.
async fn head(stream: &TcpStream, most_bytes: usize) -> Option<Vec<u8>> {
    let (mut head, mut part) = (Vec::new(), [0; 4096]);
    while head.len() < most_bytes {
        stream.readable().await.ok()?;
        let read = match stream.try_read(&mut part) {
            Ok(0) => return None,
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return None,
        };
        // The end may lie across both parts.
        let from = head.len().saturating_sub(3);
        head.extend_from_slice(&part[..read]);
        if ends(&head[from..]) {
            return Some(head);
        }
    }
    None
}

/// Whether the empty line after a head is among these bytes.
fn ends(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|two| two == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}

/// Whether a request is for one of these paths.
pub(crate) fn is_for(head: &[u8], paths: &[&str]) -> bool {
    let mut words = head.trim_ascii_start().split(|byte| byte.is_ascii_whitespace());
    let Some(target) = words.nth(1) else { return false };
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    paths.iter().any(|known| known.as_bytes() == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_for_the_path_of_its_first_line() {
        let paths = ["/v1/stop", "/v1/status"];
        for head in ["POST /v1/stop HTTP/1.1\r\n\r\n", "\r\nGET /v1/status?now HTTP/1.1\r\n", "DELETE /v1/stop"] {
            assert!(is_for(head.as_bytes(), &paths), "{head:?}");
        }
        for head in ["", "POST", "GET  /v1/stop", "GET /v1/stopped HTTP/1.1", "GET /v1/runs HTTP/1.1\r\nx: /v1/stop"] {
            assert!(!is_for(head.as_bytes(), &paths), "{head:?}");
        }
    }

    #[test]
    fn a_head_ends_with_an_empty_line() {
        assert!(ends(b"host: x\r\n\r\n{}") && ends(b"host: x\n\n") && ends(b"\n\r\n"));
        assert!(!ends(b"GET / HTTP/1.1\r\nhost: x\r\n") && !ends(b"\n\r") && !ends(b""));
    }
}
