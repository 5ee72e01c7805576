//! A controller. Answers a tick with 400000 positions.

wit_bindgen::generate!({ path: "../../../../../wit/v0.1.0", world: "controller" });

use exports::waza::skill::control::{Guest, Input};

struct Conduct;

impl Guest for Conduct {
    fn start(_: String, _: Option<Vec<u8>>) -> Result<(), String> {
        Ok(())
    }

    fn tick(_: Input) -> Vec<f32> {
        vec![0.0; 400_000]
    }

    fn state() -> Vec<u8> {
        Vec::new()
    }
}

export!(Conduct);
