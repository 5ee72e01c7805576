//! Asks for more random bytes than there is memory.

use hostile::{Request, Result, conduct};

async fn run(_: Request) -> Result {
    unsafe { get_random_bytes(1 << 40, &mut [0; 2]) };
    Ok(String::new())
}

#[link(wasm_import_module = "wasi:random/random@0.2.6")]
unsafe extern "C" {
    #[link_name = "get-random-bytes"]
    fn get_random_bytes(bytes: u64, list: *mut [u32; 2]);
}

conduct!(run);
