//! What a caller says over HTTP: heads and bodies.

#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use waza_daemon::fuzzing::request;
use waza_fuzz::begin_with;

const REAL: [&str; 5] = [
    "POST /v1/stop HTTP/1.1\r\nhost: 127.0.0.1:7373\r\n\r\n",
    "[::1]:7373",
    r#"{"skill":"waza/touch","instruction":"touch the red block","parameters":"{}","seed":7,"priority":0}"#,
    r#"{"skill":"waza/touch"}"#,
    r#"{"stop":1}"#,
];

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    begin_with(&REAL, data, size, max_size, seed)
});

fuzz_target!(|bytes: &[u8]| {
    let read = request(bytes);
    assert_eq!(read, request(bytes), "it is read in two ways");
});
