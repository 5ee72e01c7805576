//! Signals as a stop source. In a process of its own, because signals are the whole process's.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod fixture;

use std::time::Duration;

use fixture::{Bench, anywhere, eventually};
use rustix::process::{Signal, getpid, kill_process};
use waza_daemon::{Options, StopKind};

#[test]
fn sigusr1_stops_and_sigterm_stops_and_asks_to_leave() {
    let bench = Bench::with(Options { stops: vec![StopKind::Signal], ..anywhere() });
    assert_eq!(bench.daemon.arm(Duration::from_secs(60)), Vec::<String>::new());
    assert!(!bench.robot.is_stopped(), "the test of the way there stops nothing");

    kill_process(getpid(), Signal::USR1).unwrap();
    let stopped = eventually(|| bench.robot.stopped());
    assert!(bench.robot.reset(stopped));

    kill_process(getpid(), Signal::TERM).unwrap();
    bench.daemon.wait_for_leave();
    assert!(bench.robot.is_stopped());
    bench.daemon.end();
}
