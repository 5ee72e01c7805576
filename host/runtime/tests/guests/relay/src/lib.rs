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

/// A step, unless the parameters say `STEPS at MILLISECONDS`.
const STEP_MS: u64 = 100;

struct Relay;

impl Guest for Relay {
    async fn run(request: Request) -> Result<Outcome, Error> {
        // Read as it stands in the binary, not as the compiler knows it.
        let conduct = unsafe { std::ptr::read_volatile(&raw const CONDUCT) };
        let conduct = String::from_utf8_lossy(&conduct[8..]).trim().to_owned();
        let (steps, step_ms) = parameters(&request.parameters).ok_or(Error::Invalid("steps is no number".into()))?;
        let resumed = match request.resume {
            Some(state) => {
                let state = state.try_into().map_err(|_| Error::Invalid("the state has not 4 bytes".into()))?;
                Some(u32::from_le_bytes(state))
            }
            None => None,
        };
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
        let (what, with) = request.instruction.split_once(": ").unwrap_or((&request.instruction, "turn"));
        let lease = match what {
            "count" => None,
            _ => Some(acquire(vec!["arm".into()]).await?),
        };
        let _events = match (what, &lease) {
            ("roll out", Some(lease)) => Some(lease.rollout(&forward(with))?),
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
            clock::wait(clock::now() + step_ms * 1_000_000).await?;
            if conduct != "never" {
                match durable::checkpoint((step + 1).to_le_bytes().to_vec()).await {
                    Err(Error::Failed(why)) => println!("{why}"),
                    kept => kept?,
                }
            }
        }
        done(&conduct, first, steps)
    }
}

/// Asks for more than the arm can do, for one and a half seconds.
async fn jump(lease: &Lease) -> Result<(), Error> {
    let far = |pan: f32| vec![pan, -0.6, 0.8, 0.6, 0.0, 0.3];
    let rows: Vec<_> = [1.0, -1.0].into_iter().cycle().take(30).chain([0.0]).map(far).collect();
    lease.play(ActionChunk::new(20.0, &rows)).await?;
    Ok(())
}

fn parameters(text: &str) -> Option<(u32, u64)> {
    let (steps, step_ms) = text.split_once(" at ").unwrap_or((text, ""));
    Some((steps.parse().ok()?, if step_ms.is_empty() { STEP_MS } else { step_ms.parse().ok()? }))
}

fn forward(instruction: &str) -> RolloutOptions {
    RolloutOptions { instruction: instruction.into(), max_seconds: 600.0, observe_hz: 0.0, replan_rows: None }
}

/// Which version ended, and where it had begun.
fn done(conduct: &str, first: u32, steps: u32) -> Result<Outcome, Error> {
    Ok(Outcome { summary: "done".into(), data: format!("{conduct} from {first} to {steps}") })
}

export!(Relay);
