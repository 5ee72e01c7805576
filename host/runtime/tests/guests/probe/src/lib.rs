//! Calls one import as often as it is asked.

wit_bindgen::generate!({ path: "../../../../../wit/v0.1.0", world: "skill" });

use exports::waza::skill::task::{Guest, Request};
use waza::skill::clock;
use waza::skill::types::{Error, Outcome};

struct Probe;

impl Guest for Probe {
    async fn run(request: Request) -> Result<Outcome, Error> {
        let calls: u32 = request.parameters.parse().map_err(|_| Error::Invalid("calls is no number".into()))?;
        match request.instruction.as_str() {
            "sync" => {
                for _ in 0..calls {
                    std::hint::black_box(clock::now());
                }
            }
            "async" => {
                for _ in 0..calls {
                    clock::wait(0).await?;
                }
            }
            other => return Err(Error::Invalid(format!("there is no import {other}"))),
        }
        Ok(Outcome { summary: format!("{calls} calls"), data: String::new() })
    }
}

export!(Probe);
