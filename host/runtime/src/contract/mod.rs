//! What wasmtime makes of the contract, version 0.1.0, one module a world.

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
            "waza:skill/sensing.observation": crate::imports::Observed,
            "waza:skill/actions.action-chunk": crate::imports::Chunk,
            "waza:skill/motion.lease": crate::leases::Lease,
        },
        trappable_error_type: { "waza:skill/types.error" => crate::imports::Fault },
        require_store_data_send: true,
    });
}

#[allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]
pub(crate) mod controller {
    wasmtime::component::bindgen!({ path: "../../wit/v0.1.0", world: "controller" });
}

pub(crate) use skill::waza::skill::{actions, clock, durable, model, motion, operator, sensing, skills, types};

/// The contract's error: why the host refused a call, or what a skill ended with.
pub use skill::waza::skill::types::Error as Refusal;

impl PartialEq for Refusal {
    fn eq(&self, other: &Self) -> bool {
        sentence(self) == sentence(other)
    }
}

/// A refusal in words, of which no two have the same.
pub(crate) fn sentence(refusal: &Refusal) -> String {
    let (case, why) = match refusal {
        Refusal::Denied(why) => ("denied", why),
        Refusal::Unavailable(why) => ("unavailable", why),
        Refusal::Invalid(why) => ("invalid", why),
        Refusal::Exhausted(why) => ("exhausted", why),
        Refusal::Preempted(why) => ("preempted", why),
        Refusal::Stopped => return "stopped".into(),
        Refusal::Failed(why) => ("failed", why),
    };
    format!("{case}: {why}")
}
