//! Moves every joint a fixed step towards its goal at every tick. The parameters ask it to misbehave.

wit_bindgen::generate!({ path: "../../../../../wit/v0.1.0", world: "controller" });

use std::cell::{Cell, RefCell};

use exports::waza::skill::control::{Guest, Input};

/// rad a tick
const STEP: f32 = 0.01;

thread_local! {
    static TICKS: Cell<u64> = const { Cell::new(0) };
    static CONDUCT: RefCell<String> = const { RefCell::new(String::new()) };
}

struct Follower;

impl Guest for Follower {
    fn start(parameters: String, state: Option<Vec<u8>>) -> Result<(), String> {
        if parameters == "refuse" {
            return Err("it does not want to".into());
        }
        CONDUCT.set(parameters);
        let ticks = state.map(|state| state.try_into().map_err(|_| "the state has not 8 bytes")).transpose()?;
        TICKS.set(ticks.map_or(0, u64::from_le_bytes));
        Ok(())
    }

    fn tick(input: Input) -> Vec<f32> {
        TICKS.set(TICKS.get() + 1);
        match CONDUCT.with_borrow(String::clone).as_str() {
            "spin" => loop {
                std::hint::black_box(());
            },
            "panic" => panic!("on purpose"),
            "short" => vec![0.0],
            "nan" => vec![f32::NAN; input.positions.len()],
            _ => {
                let towards = |(at, goal): (&f32, &f32)| at + (goal - at).clamp(-STEP, STEP);
                input.positions.iter().zip(&input.goal).map(towards).collect()
            }
        }
    }

    fn state() -> Vec<u8> {
        TICKS.get().to_le_bytes().to_vec()
    }
}

export!(Follower);
