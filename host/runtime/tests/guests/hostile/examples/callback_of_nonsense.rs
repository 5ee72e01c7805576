//! Asks to be called back, and then answers what means nothing.

use hostile::{answers, callback};

answers!(callback::YIELD, u32::MAX);
