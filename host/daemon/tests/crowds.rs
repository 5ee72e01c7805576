//! Callers who take every place that there is, over real connections: whoever wants to stop the robot needs none of theirs.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod fixture;

use std::collections::{BTreeSet, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fixture::Bench;
use serde_json::{Value, json};
use waza_daemon::{Options, StopKind};
use waza_robot::{Play, Playing};

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

/// Callers who come again when they are let go, until this is dropped.
struct Siege {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Siege {
    fn of(thread: impl Fn(&AtomicBool) + Clone + Send + 'static, threads: usize) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let spawn = |_| {
            let (thread, over) = (thread.clone(), over.clone());
            std::thread::spawn(move || thread(&over))
        };
        Self { threads: (0..threads).map(spawn).collect(), over }
    }

    /// So many, of whom each says this and takes nothing; all of them have called when this returns.
    fn lasting(bench: &Bench, callers: usize, say: impl Fn(usize) -> String + Clone + Send + 'static) -> Self {
        let address = bench.daemon.address();
        let call = move |number| {
            let mut stream = TcpStream::connect(address).unwrap();
            // Who is too many may be turned away at once.
            let _ = stream.write_all(say(number).as_bytes());
            stream.set_nonblocking(true).unwrap();
            (stream, Instant::now())
        };
        let called = Arc::new(AtomicUsize::new(0));
        let counted = called.clone();
        let siege = Self::of(
            move |over| {
                let mut streams: Vec<_> = (0..callers).map(&call).collect();
                counted.store(callers, Ordering::Release);
                while !over.load(Ordering::Acquire) {
                    for (number, caller) in streams.iter_mut().enumerate() {
                        if is_let_go(&caller.0) || caller.1.elapsed() > LET_GO_WITHIN {
                            *caller = call(number);
                        }
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            },
            1,
        );
        fixture::eventually(|| (called.load(Ordering::Acquire) == callers).then_some(()));
        siege
    }
}

/// Longer than anybody keeps a place by taking nothing.
const LET_GO_WITHIN: Duration = Duration::from_secs(11);

/// Whether a caller has no place, looking at what has come without taking it.
fn is_let_go(stream: &TcpStream) -> bool {
    let mut status = [0; 12];
    match stream.peek(&mut status) {
        Ok(0) => true,
        Ok(_) => &status[9..] != b"200",
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

impl Drop for Siege {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        self.threads.drain(..).for_each(|thread| assert!(thread.join().is_ok() || std::thread::panicking()));
    }
}

/// Stops of a moving robot that each attack is measured by.
const STOPS: &str = "WAZA_TEST_STOPS";

/// Stops the moving robot again and again, and prints how long after the caller began to call the robot was commanded to brake;
/// how often the caller had to try at most.
#[track_caller]
fn assert_brakes(bench: &Bench, attack: &str) -> u32 {
    let stops = std::env::var(STOPS).map_or(3, |stops| stops.parse().unwrap());
    let commands = bench.link.commands();
    let (mut took, mut most_tries) = (Vec::new(), 0);
    for round in 0..stops {
        let (_playing, steady) = moving(bench, round);
        let began = Instant::now();
        most_tries = most_tries.max((1..).find(|_| is_stopped_at_once(bench.daemon.address())).unwrap());
        took.push(fixture::eventually(|| {
            let commands = commands.lock().unwrap();
            let mut after = commands.windows(2).filter(|pair| pair[1].0 >= began);
            after.find(|pair| step(pair) < steady - 6e-4).map(|pair| pair[1].0 - began)
        }));
        assert!(bench.robot.reset(bench.robot.stopped().unwrap()), "{attack}");
    }
    took.sort();
    let [median, longest] = [took.len() / 2, took.len() - 1].map(|at| took[at]);
    println!("{attack}: {stops} stops, median {median:?}, longest {longest:?}, at most {most_tries} tries");
    most_tries
}

/// How far a command is from the one before, rad.
fn step(pair: &[(Instant, f32)]) -> f32 {
    (pair[1].1 - pair[0].1).abs()
}

/// Lets the robot move, to one side or the other, and says how far it goes in a tick once its speed is steady: every command
/// that goes much less far brakes. On a busy machine that may be over before it is seen: then it moves once more.
fn moving(bench: &Bench, round: usize) -> (Playing, f32) {
    let try_once = |side: f32| {
        let here = bench.robot.commanded();
        let mut there = here.clone();
        there[0] = side;
        let play = Play::joints_to(bench.robot.embodiment(), BTreeSet::from([0]), &here, &there, 0.5).unwrap();
        let (playing, began) = (bench.robot.play(play), Instant::now());
        while began.elapsed() < Duration::from_secs(5) {
            let commands = bench.link.commands().lock().unwrap();
            let last = &commands[commands.len().saturating_sub(3)..];
            let steps: Vec<_> = last.windows(2).map(step).collect();
            if steps.len() == 2 && steps[0] > 0.008 && (steps[0] - steps[1]).abs() < 1e-5 {
                return Some((playing, steps[1]));
            }
            drop(commands);
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    };
    let sides = [1.5, -1.5].into_iter().cycle().skip(round % 2).take(20);
    sides.map(try_once).find_map(|moving| moving).unwrap()
}

/// Whether one try to stop the robot gets through.
fn is_stopped_at_once(address: SocketAddr) -> bool {
    let ask = format!(
        "POST /v1/stop HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}"
    );
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut status = [0; 12];
    stream.write_all(ask.as_bytes()).and_then(|()| stream.read_exact(&mut status)).is_ok() && status.ends_with(b"200")
}

fn armed() -> Bench {
    let bench = Bench::new();
    assert_eq!(bench.daemon.arm(Duration::from_secs(60)), Vec::<String>::new());
    bench
}

#[test]
fn a_moving_robot_brakes_when_it_is_stopped_over_http_whoever_else_calls_and_does_not_leave() {
    let bench = armed();
    assert_eq!(assert_brakes(&bench, "nobody else"), 1);
    let run = bench.start("answer at length: 2000000");
    bench.ended(run);
    let request = |path: String| head(&bench, &path);
    let large = request(format!("GET /v1/runs/{run}")) + "\r\n";
    let half = request("POST /v1/runs".into()) + "content-type: application/json\r\ncontent-length: 9\r\n\r\n{";
    let begun = request("POST /v1/stop".into());
    for (attack, callers, says) in [
        ("64 who do not read", PLACES, large),
        ("200 with half a body", 200, half),
        ("200 who say nothing", 200, String::new()),
        ("200 who begin to ask for a stop", 200, begun),
    ] {
        let siege = Siege::lasting(&bench, callers, move |_| says.clone());
        assert_eq!(assert_brakes(&bench, attack), 1, "{attack}");
        drop(siege);
    }
}

/// Two who connect as fast as they can.
fn flood(bench: &Bench) -> Siege {
    let address = bench.daemon.address();
    let connect = move |over: &AtomicBool| {
        let mut streams = VecDeque::new();
        while !over.load(Ordering::Acquire) {
            streams.extend(TcpStream::connect(address));
            if streams.len() > 200 {
                streams.pop_front();
            }
        }
    };
    Siege::of(connect, 2)
}

#[test]
fn the_address_of_the_stop_alone_serves_nothing_else_and_whoever_calls_elsewhere_is_not_in_its_way() {
    let listen_stop = Some(([127, 0, 0, 1], 0).into());
    let bench = Bench::with(Options { stops: vec![StopKind::Http], listen_stop, ..fixture::anywhere() });
    let address = bench.daemon.stop_address().unwrap();
    let look = |path| fixture::ask(address, "GET", path, &[], "");
    assert_eq!((look("/v1/status").0, look("/v1/runs").0, look("/metrics").0), (200, 404, 404));
    let siege = flood(&bench);
    for round in 0..20 {
        assert!(is_stopped_at_once(address), "round {round}");
        assert!(bench.robot.reset(bench.robot.stopped().unwrap()), "round {round}");
    }
    drop(siege);
}

#[test]
fn a_moving_robot_brakes_when_it_is_stopped_over_http_while_others_connect_without_end() {
    let bench = armed();
    // More than are waited for: the oldest give way, and come again.
    let begun = head(&bench, "POST /v1/stop");
    let siege = Siege::lasting(&bench, 300, move |_| begun.clone());
    assert_brakes(&bench, "300 who begin to ask for a stop");
    drop(siege);
    let siege = flood(&bench);
    // They may push others out: who wants to stop the robot may have to try again.
    assert_brakes(&bench, "2 who connect as fast as they can");
    drop(siege);
}

#[test]
fn a_moving_robot_brakes_when_it_is_stopped_over_http_while_runs_answer_at_length_and_are_listed() {
    let bench = armed();
    let address = bench.daemon.address();
    let json = [("content-type", "application/json")];
    let ask = json!({ "skill": "test/conduct", "instruction": "answer at length: 2000000" }).to_string();
    let begun = Arc::new(AtomicUsize::new(0));
    let counted = begun.clone();
    // Each waits for the run that it has begun, in a list; there are as many as can be in flight.
    let siege = Siege::of(
        move |over| {
            while !over.load(Ordering::Acquire) {
                let started = fixture::ask(address, "POST", "/v1/runs", &json, &ask).0 == 201;
                counted.fetch_add(usize::from(started), Ordering::AcqRel);
                let (status, runs) = fixture::ask_text(address, "GET", "/v1/runs", &[], "");
                assert!(status != 200 || runs.len() < 1 << 20, "a list of {} bytes", runs.len());
            }
        },
        PLACES,
    );
    fixture::eventually(|| (begun.load(Ordering::Acquire) >= PLACES).then_some(()));
    assert_eq!(assert_brakes(&bench, "64 runs of 2 MB, and their lists"), 1);
    drop(siege);
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
