//! Puts the object that the instruction names where it says: moves as the model says until the arm has come home after
//! it closed and opened its gripper. An arm that the host stops because it presses on something goes back the way it came,
//! and the model tries again.
//!
//! Parameters, all optional: `max_seconds`; `retreats`, how often it may go back; `closed_rad`, `open_rad`, `release_rad`,
//! `empty_rad`, `home_rad` and `home_looks`, the thresholds of [`Thresholds`].

mod phase;

use phase::{Phase, Posture, Thresholds};
use waza_sdk::actions::ActionChunk;
use waza_sdk::motion::Intervention;
use waza_sdk::serde::{Deserialize, Serialize};
use waza_sdk::{
    Error, Lease, Observation, Outcome, Request, Result, Rollout, RolloutOptions, acquire, checkpoint, clock, observe,
    operator,
};

waza_sdk::skill!(pick_place);

/// The joint that opens and closes the hand.
const GRIPPER: &str = "gripper";

/// Looks that an arm goes back: one and a half seconds at ten looks a second.
const LOOKS_BACK: usize = 15;

/// Looks a second that it goes back by: half as fast as it came.
const BACK_HZ: f32 = 5.0;

/// How long an arm that was stopped brakes, ns. While it still presses on, whatever it is told would be stopped as well.
const BRAKING_NS: u64 = 300_000_000;

/// A hand that holds something is told to close so much further than it can, rad.
const SQUEEZE_RAD: f32 = 0.1;

/// What a checkpoint says: another version goes on from here.
#[derive(Serialize, Deserialize)]
#[serde(crate = "waza_sdk::serde")]
struct Progress {
    phase: Phase,
    home: Posture,
}

async fn pick_place(request: Request) -> Result<Outcome> {
    let max_seconds = request.parameter("max_seconds", 30.0)?;
    let mut retreats = request.parameter("retreats", 3u32)?;
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
    let mut progress = match resumed {
        Some(progress) => progress,
        None => Progress { phase: Phase::Reaching, home: posture(&observe().await?)? },
    };
    let end = clock::now().saturating_add((f64::from(max_seconds) * 1e9) as u64);
    let (mut left, mut way) = (max_seconds, Vec::new());
    loop {
        let mut rollout = Rollout::start(&lease, &RolloutOptions::new(&request.instruction, left))?;
        match progress.follow(&mut rollout, &thresholds, &mut way).await {
            Err(Error::Failed(why)) if retreats > 0 && presses(rollout.interventions()) => {
                eprintln!("goes back while {}: {why}", progress.phase.note());
                retreats -= 1;
                progress.retreat(&lease, &mut way).await?;
            }
            ended => ended?,
        }
        if progress.phase == Phase::Home {
            lease.hold()?;
            return Ok(Outcome::new("let go and came home"));
        }
        left = end.saturating_sub(clock::now()) as f32 / 1e9;
        if left <= 0.0 {
            lease.hold()?;
            return Err(Error::failed(format!("was still {} after {max_seconds} s", progress.phase.note())));
        }
    }
}

/// Whether the safety filter stopped the robot because of what it felt.
fn presses(interventions: &[Intervention]) -> bool {
    interventions.iter().any(|it| ["force", "effort"].contains(&it.rule.as_str()))
}

impl Progress {
    /// Watches what the model does, until the arm has come home or the time is up. Adds what it sees to the way.
    async fn follow(&mut self, rollout: &mut Rollout, thresholds: &Thresholds, way: &mut Vec<Vec<f32>>) -> Result<()> {
        while self.phase != Phase::Home
            && let Some(seen) = rollout.observed().await?
        {
            way.push(seen.joints().iter().map(|joint| joint.position).collect());
            let before = self.phase.note();
            self.phase = self.phase.after(&posture(&seen)?, &self.home, thresholds);
            if self.phase.note() != before {
                operator::progress(self.phase.progress(), self.phase.note());
                match checkpoint(self).await {
                    // A disk that is full takes the way back, which is no reason to let go of the block.
                    Err(Error::Failed(why)) => eprintln!("{why}"),
                    kept => kept?,
                }
            }
        }
        Ok(())
    }

    /// Leads the arm back the way it came, slowly and with the hand as it is.
    async fn retreat(&mut self, lease: &Lease, way: &mut Vec<Vec<f32>>) -> Result<()> {
        clock::wait(clock::now() + BRAKING_NS).await?;
        let joints = observe().await?.joints();
        let squeeze = if matches!(self.phase, Phase::Carrying { .. }) { SQUEEZE_RAD } else { 0.0 };
        let mut rows = way.split_off(way.len().saturating_sub(LOOKS_BACK));
        rows.reverse();
        for (index, joint) in joints.iter().enumerate().filter(|(_, joint)| joint.name == GRIPPER) {
            rows.iter_mut().for_each(|row| row[index] = joint.position - squeeze);
        }
        if !rows.is_empty() {
            lease.play(ActionChunk::new(BACK_HZ, &rows)).await?;
        }
        self.phase = self.phase.pressed();
        Ok(())
    }
}

fn posture(seen: &Observation) -> Result<Posture> {
    let (gripper, arm): (Vec<_>, Vec<_>) = seen.joints().into_iter().partition(|joint| joint.name == GRIPPER);
    let gripper = gripper.first().ok_or_else(|| Error::Unavailable("the robot has no joint gripper".into()))?.position;
    Ok(Posture { arm: arm.iter().map(|joint| joint.position).collect(), gripper })
}
