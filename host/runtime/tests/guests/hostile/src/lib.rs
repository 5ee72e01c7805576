//! What the hostile components share: the contract, and the little that makes a function a skill.
//!
//! Each file in `examples` does one harmful thing; `tests/runtime/hostile.rs` says what must come of it.

use std::pin::Pin;
use std::task::{Context, Poll};

wit_bindgen::generate!({
    path: "../../../../../wit/v0.1.0",
    world: "skill",
    default_bindings_module: "hostile",
    pub_export_macro: true,
});

pub use exports::waza::skill::task::{Guest, Request};
pub use waza::skill::actions::ActionChunk;
pub use waza::skill::motion::{Lease, RolloutOptions, acquire};
pub use waza::skill::types::{Error, Outcome};
pub use waza::skill::{clock, durable, model, motion, operator, sensing, skills};

pub type Result<T = String> = std::result::Result<T, Error>;

/// Makes an `async fn(Request) -> Result` the skill of this component.
#[macro_export]
macro_rules! conduct {
    ($run:path) => {
        struct Conduct;

        impl $crate::Guest for Conduct {
            async fn run(request: $crate::Request) -> $crate::Result<$crate::Outcome> {
                let data = $run(request).await?;
                Ok($crate::Outcome { summary: "done".into(), data })
            }
        }

        $crate::export!(Conduct with_types_in $crate);
    };
}

/// What a function of the canonical ABI answers that can be called back.
pub mod callback {
    pub const EXIT: u32 = 0;
    pub const YIELD: u32 = 1;

    pub const fn wait(set: u32) -> u32 {
        2 | set << 4
    }
}

/// Makes a component of what the skill's function answers to the canonical ABI at first, and whenever it is called back. What
/// the bindings export, which would answer as it should, has names that nobody looks for.
#[macro_export]
macro_rules! answers {
    ($first:expr, $later:expr) => {
        wit_bindgen::generate!({ path: "../../../../../wit/v0.1.0", world: "skill", export_prefix: "bound-" });

        use exports::waza::skill::task;

        struct Bound;

        impl task::Guest for Bound {
            async fn run(_: task::Request) -> Result<waza::skill::types::Outcome, waza::skill::types::Error> {
                unreachable!()
            }
        }

        export!(Bound);

        #[unsafe(export_name = "[async-lift]waza:skill/task@0.1.0#run")]
        extern "C" fn run(_: u32, _: u32, _: u32, _: u32, _: u32, _: u32, _: u32) -> u32 {
            $first
        }

        #[unsafe(export_name = "[callback][async-lift]waza:skill/task@0.1.0#run")]
        extern "C" fn called_back(_: u32, _: u32, _: u32) -> u32 {
            $later
        }
    };
}

pub fn spin() -> ! {
    loop {
        std::hint::black_box(());
    }
}

/// Every joint at rest but the first.
pub fn row(pan: f32) -> Vec<f32> {
    vec![pan, -0.6, 0.8, 0.6, 0.0, 0.3]
}

pub fn forward(max_seconds: f32) -> RolloutOptions {
    RolloutOptions { instruction: "turn".into(), max_seconds, observe_hz: 0.0, replan_rows: None }
}

pub async fn arm() -> Result<Lease> {
    acquire(vec!["arm".into()]).await
}

/// A lease of the arm under which it moves.
pub async fn moving() -> Result<Lease> {
    let lease = arm().await?;
    let events = lease.rollout(&forward(5.0))?;
    clock::wait(clock::now() + 300_000_000).await?;
    // Leaked, so that the rollout goes on.
    std::mem::forget(events);
    Ok(lease)
}

/// Waits for all of them at once; the first error ends it.
pub async fn all<T>(futures: impl IntoIterator<Item = impl Future<Output = Result<T>>>) -> Result<Vec<T>> {
    let mut waiting: Vec<Pin<Box<_>>> = futures.into_iter().map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(move |context: &mut Context<'_>| {
        let mut error = None;
        waiting.retain_mut(|future| match future.as_mut().poll(context) {
            Poll::Pending => true,
            Poll::Ready(ended) => {
                ended.map_or_else(|it| error = Some(it), |it| done.push(it));
                false
            }
        });
        match error {
            Some(error) => Poll::Ready(Err(error)),
            None if waiting.is_empty() => Poll::Ready(Ok(std::mem::take(&mut done))),
            None => Poll::Pending,
        }
    })
    .await
}

/// The contract's functions on handles that nobody gave out.
pub mod raw {
    #[link(wasm_import_module = "waza:skill/sensing@0.1.0")]
    unsafe extern "C" {
        #[link_name = "[method]observation.taken"]
        pub fn taken(observation: u32) -> u64;
        #[link_name = "[resource-drop]observation"]
        pub fn drop_observation(observation: u32);
    }

    #[link(wasm_import_module = "waza:skill/actions@0.1.0")]
    unsafe extern "C" {
        #[link_name = "[method]action-chunk.rate-hz"]
        pub fn rate_hz(chunk: u32) -> f32;
        #[link_name = "[resource-drop]action-chunk"]
        pub fn drop_chunk(chunk: u32);
    }

    #[link(wasm_import_module = "waza:skill/motion@0.1.0")]
    unsafe extern "C" {
        /// The answer is written to `answer`: six words are enough for it.
        #[link_name = "[method]lease.hold"]
        pub fn hold(lease: u32, answer: *mut [u32; 6]);
        #[link_name = "[resource-drop]lease"]
        pub fn drop_lease(lease: u32);
    }

    #[link(wasm_import_module = "wasi:io/poll@0.2.6")]
    unsafe extern "C" {
        #[link_name = "[resource-drop]pollable"]
        pub fn drop_pollable(pollable: u32);
        #[link_name = "[method]pollable.ready"]
        pub fn pollable_ready(pollable: u32) -> u32;
        #[link_name = "poll"]
        fn poll_list(pollables: *const u32, count: usize, answer: *mut [usize; 2]);
    }

    #[link(wasm_import_module = "wasi:clocks/monotonic-clock@0.2.6")]
    unsafe extern "C" {
        #[link_name = "subscribe-instant"]
        pub fn subscribe_instant(at: u64) -> u32;
    }

    /// Waits for one of them.
    pub fn poll(pollables: &[u32]) {
        let mut answer = [0; 2];
        // The list of those that are ready was allocated for this.
        unsafe {
            poll_list(pollables.as_ptr(), pollables.len(), &mut answer);
            drop(Vec::from_raw_parts(answer[0] as *mut u32, answer[1], answer[1]));
        }
    }

    #[link(wasm_import_module = "$root")]
    unsafe extern "C" {
        #[link_name = "[waitable-set-new]"]
        pub fn waitable_set_new() -> u32;
    }
}
