//! Counts its steps in checkpoints and goes on from them. What a version does besides stands in [`CONDUCT`], which tests write
//! over in the component: so versions differ in nothing else.

wit_bindgen::generate!({ path: "../../../../../wit/v0.1.0", world: "skill" });

use exports::waza::skill::task::{Guest, Request};
use waza::skill::actions::ActionChunk;
use waza::skill::motion::{Lease, RolloutOptions, acquire};
use waza::skill::types::{Error, Outcome};
use waza::skill::{clock, durable};

/// Padded with spaces.
static CONDUCT: [u8; 24] = *b"conduct=steady          ";

const STEP_NS: u64 = 100_000_000;

struct Relay;

impl Guest for Relay {
    async fn run(request: Request) -> Result<Outcome, Error> {
        // Read as it stands in the binary, not as the compiler knows it.
        let conduct = unsafe { std::ptr::read_volatile(&raw const CONDUCT) };
        let conduct = String::from_utf8_lossy(&conduct[8..]).trim().to_owned();
        let steps: u8 = request.parameters.parse().map_err(|_| Error::Invalid("steps is no number".into()))?;
        let resumed = request.resume.as_ref().map(|state| state[0]);
        if let Some(step) = resumed {
            match conduct.as_str() {
                "refuse" => return Err(Error::Invalid(format!("a state of {step} means nothing"))),
                "panic" => panic!("on purpose"),
                "spin" => loop {
                    std::hint::black_box(());
                },
                "wait" => {
                    clock::wait(clock::now() + 3_000_000_000).await?;
                    return done(&conduct, step, step);
                }
                _ => {}
            }
        }
        let lease = match request.instruction.as_str() {
            "count" => None,
            _ => Some(acquire(vec!["arm".into()]).await?),
        };
        let _events = match (request.instruction.as_str(), &lease) {
            ("roll out", Some(lease)) => Some(lease.rollout(&forward())?),
            _ => None,
        };
        let first = resumed.unwrap_or(0);
        for step in first..steps {
            if step > first && resumed.is_some() {
                match conduct.as_str() {
                    "panic later" => panic!("on purpose, later"),
                    "fail later" => return Err(Error::Failed("the block is gone".into())),
                    _ => {}
                }
            }
            if let (Some(lease), "jump", true) = (&lease, conduct.as_str(), resumed.is_some()) {
                jump(lease).await?;
            }
            clock::wait(clock::now() + STEP_NS).await?;
            if conduct != "never" {
                durable::checkpoint(vec![step + 1]).await?;
            }
        }
        done(&conduct, first, steps)
    }
}

/// Asks for more than the arm can do.
async fn jump(lease: &Lease) -> Result<(), Error> {
    let far = |pan: f32| vec![pan, -0.6, 0.8, 0.6, 0.0, 0.3];
    lease.play(ActionChunk::new(20.0, &[far(1.0), far(-1.0), far(0.0)])).await?;
    Ok(())
}

fn forward() -> RolloutOptions {
    RolloutOptions { instruction: "turn".into(), max_seconds: 60.0, observe_hz: 0.0, replan_rows: None }
}

/// Which version ended, and where it had begun.
fn done(conduct: &str, first: u8, steps: u8) -> Result<Outcome, Error> {
    Ok(Outcome { summary: "done".into(), data: format!("{conduct} from {first} to {steps}") })
}

export!(Relay);
