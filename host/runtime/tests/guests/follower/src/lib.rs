//! Moves every joint a fixed step towards its goal at every tick. The parameters ask it to misbehave, or a goal with a value
//! more than the robot has joints: what that asks of the next version travels in the state.

wit_bindgen::generate!({ path: "../../../../../wit/v0.1.0", world: "controller" });

use std::cell::{Cell, RefCell};

use exports::waza::skill::control::{Guest, Input};

/// rad a tick
const STEP: f32 = 0.01;

/// A version that is to fail later does so in this tick after it has taken over.
const LATER: u64 = 5;

thread_local! {
    static TICKS: Cell<u64> = const { Cell::new(0) };
    static CONDUCT: RefCell<String> = const { RefCell::new(String::new()) };
    /// What the version before was asked to ask of this one, and the tick in which this one took over.
    static INHERITED: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
    /// What is asked of the next.
    static BEQUEST: Cell<u64> = const { Cell::new(0) };
}

struct Follower;

impl Guest for Follower {
    fn start(parameters: String, state: Option<Vec<u8>>) -> Result<(), String> {
        if parameters == "refuse" {
            return Err("it does not want to".into());
        }
        CONDUCT.set(parameters);
        let state = state.map(|state| state.try_into().map_err(|_| "the state has not 8 bytes")).transpose()?;
        let state = state.map_or(0, u64::from_le_bytes);
        let (asked, ticks) = (state >> 32, state & u64::from(u32::MAX));
        TICKS.set(ticks);
        INHERITED.set((asked, ticks));
        match asked {
            1 => return Err("it cannot read that state".into()),
            2 => panic!("on purpose"),
            3 => spin(),
            _ => {}
        }
        Ok(())
    }

    fn tick(input: Input) -> Vec<f32> {
        TICKS.set(TICKS.get() + 1);
        let asked = input.goal.get(input.positions.len()).map_or(0, |asked| *asked as u64);
        BEQUEST.set(asked);
        let conduct = CONDUCT.with_borrow(String::clone);
        let (inherited, since) = INHERITED.get();
        let conduct = match (asked, inherited) {
            (11, _) => "spin",
            (12, _) => "panic",
            (13, _) => "short",
            (14, _) => "nan",
            (_, 4) if TICKS.get() == since + LATER => "spin",
            (_, 5) if TICKS.get() == since + LATER => "panic",
            _ => conduct.as_str(),
        };
        match conduct {
            "spin" => spin(),
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
        (BEQUEST.get() << 32 | TICKS.get()).to_le_bytes().to_vec()
    }
}

fn spin() -> ! {
    loop {
        std::hint::black_box(());
    }
}

export!(Follower);
