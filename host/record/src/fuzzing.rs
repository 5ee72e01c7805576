//! What reads bytes and is nobody's interface, for the targets in `fuzz/`.

use crate::reader::Found;

/// Reads the content of a chunk, which in a file its checksum keeps from whoever changes bytes at random. The bytes of all
/// entries found.
pub fn chunk(content: &[u8]) -> usize {
    let mut found = Found::default();
    // What came before the damage counts.
    let _ = found.messages(content);
    found.entries.iter().map(|(_, entry)| entry.len()).sum()
}
