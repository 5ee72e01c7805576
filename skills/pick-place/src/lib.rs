//! Puts the object that the instruction names where it says: moves as the model says until the arm has come home after
//! it closed and opened its gripper.
//!
//! Parameters, all optional: `max_seconds`; `closed_rad`, `open_rad`, `release_rad`, `empty_rad`, `home_rad` and
//! `home_looks`, the thresholds of [`Thresholds`].

mod phase;

use phase::{Phase, Posture, Thresholds};
use waza_sdk::serde::{Deserialize, Serialize};
use waza_sdk::{Error, Observation, Outcome, Request, Result, Rollout, RolloutOptions, acquire, checkpoint, operator};

waza_sdk::skill!(pick_place);

/// What a checkpoint says: another version goes on from here.
#[derive(Serialize, Deserialize)]
#[serde(crate = "waza_sdk::serde")]
struct Progress {
    phase: Phase,
    home: Posture,
}

async fn pick_place(request: Request) -> Result<Outcome> {
    let max_seconds = request.parameter("max_seconds", 30.0)?;
    let thresholds = Thresholds {
        closed_rad: request.parameter("closed_rad", 0.45)?,
        open_rad: request.parameter("open_rad", 0.65)?,
        release_rad: request.parameter("release_rad", 0.2)?,
        empty_rad: request.parameter("empty_rad", 0.03)?,
        home_rad: request.parameter("home_rad", 0.15)?,
        home_looks: request.parameter("home_looks", 8)?,
    };

    let resumed = request.resumed::<Progress>()?;
    let lease = acquire(&["arm", "gripper"]).await?;
    let Progress { mut phase, home } = match resumed {
        Some(progress) => progress,
        None => Progress { phase: Phase::Reaching, home: posture(&waza_sdk::observe().await?)? },
    };
    let mut rollout = Rollout::start(&lease, &RolloutOptions::new(&request.instruction, max_seconds))?;
    while let Some(seen) = rollout.observed().await? {
        let before = phase.note();
        phase = phase.after(&posture(&seen)?, &home, &thresholds);
        if phase.note() != before {
            operator::progress(phase.progress(), phase.note());
            match checkpoint(&Progress { phase, home: home.clone() }).await {
                // A disk that is full takes the way back, which is no reason to let go of the block.
                Err(Error::Failed(why)) => eprintln!("{why}"),
                kept => kept?,
            }
        }
        if phase == Phase::Home {
            lease.hold()?;
            return Ok(Outcome::new("let go and came home"));
        }
    }
    lease.hold()?;
    Err(Error::failed(format!("was still {} after {max_seconds} s", phase.note())))
}

fn posture(seen: &Observation) -> Result<Posture> {
    let (gripper, arm): (Vec<_>, Vec<_>) = seen.joints().into_iter().partition(|joint| joint.name == "gripper");
    let gripper = gripper.first().ok_or_else(|| Error::Unavailable("the robot has no joint gripper".into()))?.position;
    Ok(Posture { arm: arm.iter().map(|joint| joint.position).collect(), gripper })
}
