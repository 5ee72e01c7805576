//! What reads bytes and is nobody's interface, for the targets in `fuzz/`.

use crate::api::{id, parsed};
use crate::auth::is_address;
use crate::runs::request as task;
use crate::server::is_for;
use crate::wire::{OfSkill, Reset, StartRun};

/// Reads bytes as a request's head, and as the body of every request that has one, and goes on with what they say as far as
/// that goes without a host. What of it they are.
pub fn request(bytes: &[u8]) -> [bool; 5] {
    [
        is_for(bytes, &["/v1/stop"]),
        str::from_utf8(bytes).is_ok_and(is_address),
        parsed::<StartRun>(bytes).is_ok_and(|ask| task(&ask).instruction == ask.instruction),
        parsed::<OfSkill>(bytes).and_then(id).is_ok(),
        parsed::<Reset>(bytes).is_ok(),
    ]
}
