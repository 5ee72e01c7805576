//! Callers who take every place that there is, over real connections: whoever wants to stop the robot needs none of theirs.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod fixture;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use fixture::Bench;
use serde_json::Value;

/// As many as are served at once.
const PLACES: usize = 64;

/// Who calls, has said this much and takes nothing.
fn crowd(bench: &Bench, callers: usize, say: impl Fn(usize) -> String) -> Vec<TcpStream> {
    let caller = |number| {
        let mut stream = TcpStream::connect(bench.daemon.address()).unwrap();
        // Who is too many may be turned away at once.
        let _ = stream.write_all(say(number).as_bytes());
        stream
    };
    (0..callers).map(caller).collect()
}

fn head(bench: &Bench, request: &str) -> String {
    format!("{request} HTTP/1.1\r\nhost: {}\r\n", bench.daemon.address())
}

/// What has come back of a caller, without waiting for more; `None` while the connection is open and silent.
fn heard(stream: &mut TcpStream) -> Option<String> {
    stream.set_nonblocking(true).unwrap();
    let mut text = [0; 64];
    match stream.read(&mut text) {
        Ok(read) => Some(String::from_utf8_lossy(&text[..read]).into()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(_) => Some(String::new()),
    }
}

/// The robot says how it is and stops.
#[track_caller]
fn assert_stops(bench: &Bench) {
    let (status, shown) = bench.get("/v1/status");
    assert_eq!((status, &shown["stopped"]), (200, &Value::Null), "{shown}");
    assert!(!bench.robot.is_stopped());
    assert_eq!(bench.post("/v1/stop", Value::Null).0, 200);
    assert!(bench.robot.is_stopped());
}

#[test]
fn callers_who_ask_for_much_and_read_nothing_keep_nobody_from_stopping() {
    let bench = Bench::new();
    let run = bench.start("answer at length: 2000000");
    bench.ended(run);
    // Enough for a list that does not fit into what the system keeps for a reader.
    let long = "at length ".repeat(6_000);
    (0..200).for_each(|number| drop(bench.ended(bench.start(&format!("{number} {long}")))));
    let _crowd = crowd(&bench, 2 * PLACES, |number| {
        let path = if number % 2 == 0 { "/v1/runs".into() } else { format!("/v1/runs/{run}") };
        head(&bench, &format!("GET {path}")) + "\r\n"
    });
    assert_stops(&bench);
}

#[test]
fn callers_who_send_half_a_body_keep_nobody_from_stopping() {
    let bench = Bench::new();
    let mut crowd = crowd(&bench, 200, |_| {
        head(&bench, "POST /v1/runs") + "content-type: application/json\r\ncontent-length: 9\r\n\r\n{"
    });
    assert_stops(&bench);
    let let_go = crowd.iter_mut().filter_map(heard).filter(|answer| answer.contains("408")).count();
    assert_eq!(let_go, 0, "before any of those who have a place was let go");
}

#[test]
fn callers_who_say_nothing_keep_nobody_from_stopping() {
    let bench = Bench::new();
    let mut crowd = crowd(&bench, 200, |_| String::new());
    assert_stops(&bench);
    assert_eq!(crowd.iter_mut().filter_map(heard).count(), 0, "before any of them was let go");
}

#[test]
fn callers_who_begin_to_ask_for_a_stop_keep_nobody_from_stopping() {
    let bench = Bench::new();
    let begun = |number| head(&bench, if number % 2 == 0 { "POST /v1/stop" } else { "GET /v1/status" });
    // More than are waited for: the oldest give way.
    let mut crowd = crowd(&bench, 400, begun);
    assert_stops(&bench);
    assert_eq!(crowd[200..].iter_mut().filter_map(heard).count(), 0, "before any of the others was let go");
}
