//! Answers as if all were well, and loops when its answer is freed.

wit_bindgen::generate!({ path: "../../../../../wit/v0.1.0", world: "skill", async: ["-export:waza:skill/task@0.1.0#run"] });

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

use exports::waza::skill::task::{Guest, Request};
use waza::skill::types::{Error, Outcome};

struct Clinging;

static ANSWERED: AtomicBool = AtomicBool::new(false);

unsafe impl GlobalAlloc for Clinging {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        while ANSWERED.load(Ordering::Relaxed) {
            std::hint::black_box(());
        }
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static CLINGING: Clinging = Clinging;

struct Conduct;

impl Guest for Conduct {
    fn run(request: Request) -> Result<Outcome, Error> {
        drop(request);
        let outcome = Outcome { summary: "done".into(), data: "all is well".into() };
        ANSWERED.store(true, Ordering::Relaxed);
        Ok(outcome)
    }
}

export!(Conduct);
