//! Connections: how many, how large, how long.
//!
//! Two threads serve them. One takes every connection, waits for the head of its request and answers what must never wait:
//! the host stop, and how the robot is. Whatever else is asked for it hands to the other, which has so many places and no
//! more. Who takes all of those, and whoever says nothing, is in nobody's way who wants to stop the robot. Where the operator
//! wants it, a listener of its own and a third thread serve the stop, and nothing else.

mod connection;
mod door;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Response, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use self::connection::Connection;
#[cfg(fuzzing)]
pub(crate) use self::door::is_for;
use self::door::{Admitted, Door};
use crate::auth::{Token, auth};
use crate::fault::Fault;

/// How many callers there may be, how much they may send and how long everything may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Requests at once that are no matter of the stop. One more is told to come again.
    pub places: usize,
    /// Connections at once of which the head is not there yet, or which are a matter of the stop. One more takes the place
    /// of the oldest: who wants to stop the robot says so at once.
    pub waiting: usize,
    /// Of a request, bytes.
    pub head_bytes: usize,
    /// Of a request, bytes.
    pub body_bytes: usize,
    /// A request's head must be here within this.
    pub head_within: Duration,
    /// A request must be answered within this, its body included.
    pub answer_within: Duration,
    /// A caller must take something of what is sent within this.
    pub taken_within: Duration,
    /// A caller must have taken the whole answer within this, unless it is one of events.
    pub over_within: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            places: 64,
            waiting: 256,
            head_bytes: 16 << 10,
            body_bytes: 64 << 10,
            head_within: Duration::from_secs(10),
            answer_within: Duration::from_secs(5),
            taken_within: Duration::from_secs(10),
            over_within: Duration::from_secs(30),
        }
    }
}

/// What is served.
pub(crate) struct Routes {
    /// What never waits: its handlers neither.
    pub urgent: Router,
    /// Where that is.
    pub urgent_paths: &'static [&'static str],
    /// All that there is.
    pub all: Router,
}

/// Serves until it is dropped.
pub(crate) struct Server {
    pub address: SocketAddr,
    /// Where nothing is served but what is urgent.
    pub stop_address: Option<SocketAddr>,
    _doors: Vec<Thread>,
    _rooms: Thread,
}

impl Server {
    /// Serves on a listener, and what is urgent on another too, if there is one, from a thread that serves nothing else. `beside`
    /// is driven as well, on the thread that serves what may wait.
    pub fn start(
        listener: TcpListener,
        stop_listener: Option<TcpListener>,
        routes: Routes,
        token: Option<Token>,
        limits: Limits,
        beside: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let token = token.map(Arc::new);
        let checked = |router: Router| {
            router
                .layer(DefaultBodyLimit::max(limits.body_bytes))
                .layer(from_fn_with_state(limits.answer_within, in_time))
                .layer(from_fn_with_state(token.clone(), auth))
        };
        let (admit, admitted) = mpsc::channel(limits.places);
        let urgent = checked(routes.urgent);
        let mut doors = Vec::new();
        let mut stop_address = None;
        if let Some(listener) = stop_listener {
            listener.set_nonblocking(true)?;
            stop_address = Some(listener.local_addr()?);
            let door = Door::new(urgent.clone(), routes.urgent_paths, None, limits);
            doors.push(Thread::drive("waza-stop", door.accept(listener))?);
        }
        let door = Door::new(urgent, routes.urgent_paths, Some(admit), limits);
        let all = checked(routes.all);
        let rooms = Thread::drive("waza-http", async move {
            tokio::spawn(beside);
            serve_admitted(admitted, all, limits).await;
        })?;
        doors.push(Thread::drive("waza-http-stop", door.accept(listener))?);
        Ok(Self { address, stop_address, _doors: doors, _rooms: rooms })
    }
}

/// A thread that drives a future until this is dropped.
struct Thread {
    end: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Thread {
    /// How long what waits for the disk may take when the thread is to end.
    const END_WITHIN: Duration = Duration::from_secs(3);

    fn drive(name: &str, future: impl Future<Output = ()> + Send + 'static) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (end, ended) = oneshot::channel();
        let drive = move || {
            runtime.block_on(async {
                tokio::spawn(future);
                // Resolves when the handle is dropped, too.
                let _ = ended.await;
            });
            runtime.shutdown_timeout(Self::END_WITHIN);
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(drive)?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed already.
            let _ = thread.join();
        }
    }
}

/// Serves who has a place.
async fn serve_admitted(mut admitted: mpsc::Receiver<Admitted>, router: Router, limits: Limits) {
    while let Some(Admitted { stream, head, place }) = admitted.recv().await {
        let router = router.clone();
        tokio::spawn(async move {
            match tokio::net::TcpStream::from_std(stream) {
                Ok(stream) => serve(Connection::new(stream, head, limits.taken_within), router, limits).await,
                Err(error) => tracing::warn!("a connection is lost: {error}"),
            }
            drop(place);
        });
    }
}

/// Serves one request: who is idle keeps nobody out.
async fn serve(connection: Connection, router: Router, limits: Limits) {
    let service = TowerToHyperService::new(router);
    let follows_events = Arc::new(AtomicBool::new(false));
    let follows = follows_events.clone();
    let service = service_fn(move |request| {
        let (answer, follows) = (service.call(request), follows.clone());
        async move {
            let answer: Response<Body> = answer.await?;
            let kind = answer.headers().get(header::CONTENT_TYPE);
            follows.store(kind.is_some_and(|kind| kind == EVENTS), Ordering::Relaxed);
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let mut serve = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_within)
            .max_buf_size(limits.head_bytes)
            .keep_alive(false)
            .serve_connection(TokioIo::new(connection), service)
    );
    // Whoever breaks off needs no answer.
    if timeout(limits.over_within, serve.as_mut()).await.is_err() && follows_events.load(Ordering::Relaxed) {
        let _ = serve.await;
    }
}

/// The content of answers that last.
pub(crate) const EVENTS: &str = "text/event-stream";

async fn in_time(
    State(within): State<Duration>,
    request: Request,
    next: Next,
) -> Result<axum::response::Response, Fault> {
    timeout(within, next.run(request)).await.map_err(|_| {
        let cause = format!("the request was not whole, or not answered, within {within:?}");
        Fault::new(StatusCode::REQUEST_TIMEOUT, "timeout", cause, "send all of it at once, or ask again")
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::Instant;

    use axum::response::IntoResponse;
    use axum::routing::get;
    use futures_util::stream;

    use super::*;

    /// More than any system keeps for a reader.
    const LARGE: usize = 64 << 20;

    const PATIENT: Duration = Duration::from_secs(600);

    /// With one place, and times that nobody reaches in a test.
    fn limits() -> Limits {
        Limits { places: 1, head_within: PATIENT, taken_within: PATIENT, over_within: PATIENT, ..Limits::default() }
    }

    fn server(limits: Limits) -> Server {
        let events = async || {
            let each = stream::unfold(0, async |number| {
                tokio::time::sleep(Duration::from_millis(10)).await;
                (number < 30).then(|| (Ok::<_, std::convert::Infallible>(format!("data: {number}\n\n")), number + 1))
            });
            ([(header::CONTENT_TYPE, EVENTS)], Body::from_stream(each)).into_response()
        };
        let urgent = || Router::new().route("/urgent", get(async || "at once"));
        let all = urgent().route("/small", get(async || "small"));
        let all = all.route("/large", get(async || vec![0; LARGE])).route("/events", get(events));
        let routes = Routes { urgent: urgent(), urgent_paths: &["/urgent"], all };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Server::start(listener, None, routes, None, limits, std::future::pending()).unwrap()
    }

    fn call(server: &Server, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", server.address).unwrap();
        stream
    }

    fn answer(mut stream: TcpStream) -> String {
        let mut text = String::new();
        // Who is cut off may be told so by the system.
        let _ = stream.read_to_string(&mut text);
        text
    }

    /// Asks until there is a place, far longer than it may take, for a machine under load.
    #[track_caller]
    fn assert_gets_a_place(server: &Server) {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(60) {
            if answer(call(server, "/small")).ends_with("small") {
                return;
            }
        }
        panic!("nobody gets a place");
    }

    #[test]
    fn who_finds_no_place_is_told_so_at_once_and_what_is_urgent_needs_none() {
        let server = server(limits());
        let _holds = call(&server, "/large");
        while !answer(call(&server, "/small")).contains("busy") {}
        assert!(answer(call(&server, "/urgent")).ends_with("at once"));
    }

    #[test]
    fn who_takes_nothing_of_an_answer_loses_the_place() {
        let server = server(Limits { taken_within: Duration::from_millis(100), ..limits() });
        let _takes_nothing = call(&server, "/large");
        assert_gets_a_place(&server);
    }

    #[test]
    fn who_takes_an_answer_too_slowly_loses_the_place() {
        let server = server(Limits { over_within: Duration::from_millis(100), ..limits() });
        let _takes_its_time = call(&server, "/large");
        assert_gets_a_place(&server);
    }

    #[test]
    fn events_are_followed_for_longer_than_an_answer_may_last() {
        let server = server(Limits { over_within: Duration::from_millis(50), ..limits() });
        let events = answer(call(&server, "/events"));
        assert_eq!(events.matches("data: ").count(), 30, "{events}");
    }

    #[test]
    fn of_callers_who_say_nothing_the_oldest_gives_way() {
        let server = server(Limits { waiting: 2, ..limits() });
        let [mut first, second] = [(); 2].map(|()| TcpStream::connect(server.address).unwrap());
        assert!(answer(call(&server, "/urgent")).ends_with("at once"));
        first.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        assert_eq!(first.read(&mut [0]).unwrap(), 0);
        second.set_nonblocking(true).unwrap();
        assert_eq!((&second).read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_head_that_does_not_end_is_not_waited_for_beyond_its_bytes() {
        let server = server(limits());
        let mut endless = TcpStream::connect(server.address).unwrap();
        endless.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        while endless.write_all(&[b'x'; 4096]).is_ok() {}
        assert_eq!(endless.read(&mut [0]).unwrap_or(0), 0);
    }
}
