//! Asks for random bytes without end.

use hostile::{Request, Result, conduct};

async fn run(_: Request) -> Result {
    loop {
        random(60_000);
    }
}

fn random(bytes: u64) {
    let mut list = [0u32; 2];
    unsafe { get_random_bytes(bytes, &mut list) };
    // Freed as it was allocated.
    drop(unsafe { Vec::from_raw_parts(list[0] as *mut u8, 0, list[1] as usize) });
}

#[link(wasm_import_module = "wasi:random/random@0.2.6")]
unsafe extern "C" {
    #[link_name = "get-random-bytes"]
    fn get_random_bytes(bytes: u64, list: *mut [u32; 2]);
}

conduct!(run);
