//! The content of a chunk of a run's record.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use waza_fuzz::begin_with;

/// A channel, and a message of it.
static REAL: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let text = |text: &str| [(text.len() as u32).to_le_bytes().as_slice(), text.as_bytes()].concat();
    let channel = [vec![1, 0, 1, 0], text("/waza/entries"), text("json"), vec![0; 4]].concat();
    let message = [&[1, 0][..], &[0; 20], b"{\"call\":0}"].concat();
    let page = |opcode: u8, body: Vec<u8>| [vec![opcode], (body.len() as u64).to_le_bytes().to_vec(), body].concat();
    [page(4, channel), page(5, message)].concat()
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    begin_with(&[&*REAL], data, size, max_size, seed)
});

fuzz_target!(|content: &[u8]| {
    let bytes = waza_record::fuzzing::chunk(content);
    assert!(bytes <= content.len());
    assert!(content != *REAL || bytes == 10);
});
