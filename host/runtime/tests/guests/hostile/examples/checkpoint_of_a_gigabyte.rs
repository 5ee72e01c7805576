//! Says that a gigabyte of state lies where there is none.

use hostile::{Request, Result, conduct};

#[link(wasm_import_module = "waza:skill/durable@0.1.0")]
unsafe extern "C" {
    #[link_name = "[async-lower]checkpoint"]
    fn checkpoint(state: u32, bytes: u32, answer: *mut [u32; 6]) -> u32;
}

async fn run(_: Request) -> Result {
    let mut answer = [0; 6];
    unsafe { checkpoint(16, 1 << 30, &mut answer) };
    Ok("it was taken".into())
}

conduct!(run);
