//! A controller. Calls itself without end in a tick.

wit_bindgen::generate!({ path: "../../../../../wit/v0.1.0", world: "controller" });

use exports::waza::skill::control::{Guest, Input};

struct Conduct;

impl Guest for Conduct {
    fn start(_: String, _: Option<Vec<u8>>) -> Result<(), String> {
        Ok(())
    }

    fn tick(_: Input) -> Vec<f32> {
        vec![deeper(0.0)]
    }

    fn state() -> Vec<u8> {
        Vec::new()
    }
}

fn deeper(depth: f32) -> f32 {
    let here = std::hint::black_box([depth; 32]);
    if here[3] < 0.0 { 0.0 } else { deeper(depth + 1.0) + here[5] }
}

export!(Conduct);
