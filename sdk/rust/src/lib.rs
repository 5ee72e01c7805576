//! What a vendor writes a Waza skill against.
//!
//! A skill is one asynchronous function from a [`Request`] to an [`Outcome`]. The host owns the robot and the foundation
//! model; the skill sees through [`observe`], moves through a [`Lease`] and asks through [`model`]. Nothing else reaches
//! out of the sandbox: no files, no sockets, no environment.
//!
//! ```no_run
//! use waza_sdk::{Outcome, Request, Result, Rollout, RolloutOptions, acquire};
//!
//! waza_sdk::skill!(wave);
//!
//! async fn wave(request: Request) -> Result<Outcome> {
//!     let lease = acquire(&["arm"]).await?;
//!     Rollout::start(&lease, &RolloutOptions::new(&request.instruction, 5.0))?.finish().await?;
//!     lease.hold()?;
//!     Ok(Outcome::new("waved"))
//! }
//! ```
//!
//! A skill's crate is a `cdylib` built with `cargo build --release --target wasm32-wasip2`; a `skill.toml` beside its
//! manifest says what it needs and which permissions it asks for.
//!
//! | module | owns |
//! |---|---|
//! | [`task`] | what a skill is asked and what it answers |
//! | [`sensing`] | cameras, joints and sensor windows |
//! | [`motion`] | leases and rollouts |
//! | [`actions`] | action chunks |
//! | [`model`] | the host's foundation model: act, ask, locate, embed |
//! | [`clock`] | robot time |
//! | [`operator`] | progress and questions to the person in charge |
//! | [`durable`] | safe points, from which a run resumes |
//! | [`skills`] | calling other skills |
//! | [`error`] | what can go wrong, as an enum |
//! | [`bindings`] | the contract, generated; everything above is a thin layer over it |

// The generated export macro names this crate by its name, in this crate as in a vendor's.
extern crate self as waza_sdk;

pub mod bindings;
pub mod error;
pub mod motion;
pub mod sensing;
pub mod task;

pub use bindings::waza::skill::{actions, clock, durable, model, operator, skills};
/// For deriving what [`checkpoint`] takes, with `#[serde(crate = "waza_sdk::serde")]`.
pub use serde;
#[doc(hidden)]
pub use wit_bindgen;

pub use error::{Error, Result};
pub use motion::{Lease, Rollout, RolloutOptions, acquire};
pub use sensing::{Observation, observe};
pub use task::{Outcome, Request, checkpoint};

/// Makes an `async fn(Request) -> Result<Outcome>` the skill that this component exports. Once a crate.
#[macro_export]
macro_rules! skill {
    ($run:path) => {
        const _: () = {
            struct Skill;

            impl $crate::bindings::exports::waza::skill::task::Guest for Skill {
                async fn run(request: $crate::Request) -> $crate::Result<$crate::Outcome> {
                    $run(request).await
                }
            }

    $crate::bindings::export!(Skill with_types_in $crate::bindings);
        };
    };
}
