//! What wasmtime makes of the contract, version 0.1.0, one module a world.

mod handles;
mod outcome;
mod refusal;

#[allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]
pub(crate) mod skill {
    wasmtime::component::bindgen!({
        path: "../../wit/v0.1.0",
        world: "skill",
        imports: {
            "waza:skill/sensing.watch": store | trappable,
            "waza:skill/motion.[method]lease.rollout": store | trappable,
            default: trappable,
        },
        with: {
            "waza:skill/sensing.observation": crate::contract::Observed,
            "waza:skill/actions.action-chunk": crate::contract::Chunk,
            "waza:skill/motion.lease": crate::leases::Lease,
        },
        trappable_error_type: { "waza:skill/types.error" => crate::contract::Fault },
        require_store_data_send: true,
    });
}

#[allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]
pub(crate) mod controller {
    wasmtime::component::bindgen!({ path: "../../wit/v0.1.0", world: "controller" });
}

pub use handles::{Chunk, Observed};
pub(crate) use handles::{Held, bytes_of};
pub use outcome::Outcome;
pub use refusal::Refusal;
pub(crate) use refusal::{Fault, sentence};
pub(crate) use skill::waza::skill::{actions, clock, durable, model, motion, operator, sensing, skills, types};
