//! A line of a run's record.

#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use waza_fuzz::begin_with;
use waza_runtime::record::fuzzing::entry;

/// One of each kind, and the values that are made of most parts.
const REAL: [&str; 20] = [
    r#"{"call":0,"name":"lease.play","arguments":["lease 2","chunk 3"]}"#,
    r#"{"call":18446744073709551615,"name":"clock.wait","arguments":[7]}"#,
    r#"{"answer":1,"waited":true,"value":{"ok":"observation 7"}}"#,
    r#"{"answer":1,"waited":true,"value":{"refused":{"denied":"no \"camera\" \\ here\n"}}}"#,
    r#"{"answer":1,"waited":false,"value":{"refused":{"stopped":null}}}"#,
    r#"{"answer":1,"waited":false,"value":{"fatal":"a budget \u0009"}}"#,
    r#"{"answer":2,"waited":false,"value":{"ok":[{"name":"pan","position":0.1,"velocity":-0.0,"effort":"0x7f800000"}]}}"#,
    r#"{"answer":2,"waited":false,"value":{"ok":{"channels":2,"first":5,"rate_hz":100.0,"values":[1.0,1e-5,3.4028235e38]}}}"#,
    r#"{"answer":2,"waited":false,"value":{"ok":{"width":1,"height":1,"rgb":"00ff07"}}}"#,
    r#"{"answer":2,"waited":false,"value":{"ok":{"name":"m","version":"1","abilities":["act","video"],"chunk_length":16,"rate_hz":10.0}}}"#,
    r#"{"answer":2,"waited":false,"value":{"ok":{"seconds":1764000000,"nanoseconds":9}}}"#,
    r#"{"answer":2,"waited":false,"value":{"ok":[[0.5,"0x7fc00000"],[]]}}"#,
    r#"{"stream":3,"waited":false,"what":"ready"}"#,
    r#"{"stream":3,"waited":true,"item":{"ok":{"intervened":{"at":1,"rule":"velocity","detail":""}}}}"#,
    r#"{"stream":3,"waited":true,"item":{"ok":{"done":{"refused":{"preempted":"gone"}}}}}"#,
    r#"{"stream":3,"waited":false,"what":"closed"}"#,
    r#"{"alarm":4,"waited":true}"#,
    r#"{"log":"it says \u001b[1m"}"#,
    r#"{"returned":{"ok":{"summary":"done","data":"{}"}}}"#,
    r#"{"stopped":"by the operator"}"#,
];

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    begin_with(&REAL, data, size, max_size, seed)
});

fuzz_target!(|line: &[u8]| {
    assert!(entry(line) || !REAL.iter().any(|real| real.as_bytes() == line));
});
