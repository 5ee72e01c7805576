//! A controller. Commands what is no number.

wit_bindgen::generate!({ path: "../../../../../wit/v0.1.0", world: "controller" });

use exports::waza::skill::control::{Guest, Input};

struct Conduct;

impl Guest for Conduct {
    fn start(_: String, _: Option<Vec<u8>>) -> Result<(), String> {
        Ok(())
    }

    fn tick(input: Input) -> Vec<f32> {
        vec![f32::NAN; input.positions.len()]
    }

    fn state() -> Vec<u8> {
        Vec::new()
    }
}

export!(Conduct);
