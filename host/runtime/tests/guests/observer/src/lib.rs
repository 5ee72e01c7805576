//! Idles, or sees so many times a second, for so many seconds, and says how often it saw.

wit_bindgen::generate!({ path: "../../../../../wit/v0.1.0", world: "skill" });

use exports::waza::skill::task::{Guest, Request};
use waza::skill::types::{Error, Outcome};
use waza::skill::{clock, sensing};

struct Observer;

impl Guest for Observer {
    async fn run(request: Request) -> Result<Outcome, Error> {
        let seconds: u64 = request.parameters.parse().map_err(|_| Error::Invalid("seconds is no number".into()))?;
        let until = clock::now() + seconds * 1_000_000_000;
        let mut seen = 0;
        match request.instruction.as_str() {
            "idle" => {
                eprintln!("waiting");
                clock::wait(until).await?;
            }
            "see" => {
                let mut observations = sensing::watch(10.0)?;
                while observations.next().await.is_some_and(|it| it.taken() < until) {
                    seen += 1;
                }
            }
            other => return Err(Error::Invalid(format!("it does not know how to {other}"))),
        }
        Ok(Outcome { summary: request.instruction, data: seen.to_string() })
    }
}

export!(Observer);
