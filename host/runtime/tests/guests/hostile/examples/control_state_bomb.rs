//! A controller. Has 2 MiB of state.

wit_bindgen::generate!({ path: "../../../../../wit/v0.1.0", world: "controller" });

use exports::waza::skill::control::{Guest, Input};

struct Conduct;

impl Guest for Conduct {
    fn start(_: String, _: Option<Vec<u8>>) -> Result<(), String> {
        Ok(())
    }

    fn tick(input: Input) -> Vec<f32> {
        input.positions
    }

    fn state() -> Vec<u8> {
        vec![0; 2 << 20]
    }
}

export!(Conduct);
