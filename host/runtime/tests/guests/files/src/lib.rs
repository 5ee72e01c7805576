//! Wants to read a file.

wit_bindgen::generate!({ path: "../../../../../wit/v0.1.0", world: "skill" });

use exports::waza::skill::task::{Guest, Request};
use waza::skill::types::{Error, Outcome};

struct Files;

impl Guest for Files {
    async fn run(request: Request) -> Result<Outcome, Error> {
        let data = std::fs::read_to_string(request.instruction).map_err(|error| Error::Failed(error.to_string()))?;
        Ok(Outcome { summary: "read it".into(), data })
    }
}

export!(Files);
