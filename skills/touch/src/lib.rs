//! Touches the object that the instruction names: moves as the model says until the wrist feels contact.
//!
//! Parameters, both optional: `max_seconds`, and `contact_n`, the force at the wrist that counts as contact.

use waza_sdk::{Error, Outcome, Request, Result, Rollout, RolloutOptions, acquire};

waza_sdk::skill!(touch);

async fn touch(request: Request) -> Result<Outcome> {
    let max_seconds = request.parameter("max_seconds", 15.0)?;
    let contact_n = request.parameter("contact_n", 1.0)?;

    let lease = acquire(&["arm", "gripper"]).await?;
    let options = RolloutOptions::new(&request.instruction, max_seconds).observing(20.0);
    let mut rollout = Rollout::start(&lease, &options)?;
    while let Some(seen) = rollout.observed().await? {
        let force_n = seen.samples("wrist_wrench")?.peak_force();
        if force_n >= contact_n {
            lease.hold()?;
            return Outcome::new(format!("felt contact with {force_n:.1} N")).with("force_n", force_n);
        }
    }
    lease.hold()?;
    Err(Error::failed(format!("felt no contact of {contact_n} N within {max_seconds} s")))
}
