//! Waits for a set that it never made.

use hostile::{answers, callback};

answers!(callback::wait(999), callback::EXIT);
