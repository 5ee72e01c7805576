//! Sets alarms without end.

use hostile::{Request, Result, conduct};

async fn run(_: Request) -> Result {
    loop {
        unsafe { subscribe(u64::MAX) };
    }
}

#[link(wasm_import_module = "wasi:clocks/monotonic-clock@0.2.6")]
unsafe extern "C" {
    #[link_name = "subscribe-instant"]
    fn subscribe(at: u64) -> u32;
}

conduct!(run);
