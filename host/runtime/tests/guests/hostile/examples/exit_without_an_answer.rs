//! Says that it is done, and has answered nothing.

use hostile::{answers, callback};

answers!(callback::EXIT, callback::EXIT);
