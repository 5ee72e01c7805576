//! Under lockstep a run repeats bit for bit, whatever the machine is doing.

use std::time::Duration;

use waza_robot::Pace;
use waza_runtime::HostOptions;

use crate::fixture::{ALL, Bench};

#[test]
fn a_rollout_repeats_bit_for_bit_however_long_the_model_thinks() {
    let run = |thinks| {
        let bench = Bench::thinking(Pace::Lockstep, HostOptions::default(), ALL, thinks);
        let data = bench.data("roll out: 3");
        bench.assert_the_arm_holds();
        let commands = bench.commands.lock().unwrap().clone();
        (data, commands)
    };
    let (data, commands) = run(Duration::ZERO);
    for thinks in [1, 7, 23] {
        let (again, also) = run(Duration::from_millis(thinks));
        assert_eq!(again, data);
        let same = commands.iter().zip(&also).take_while(|(a, b)| a == b).count();
        assert_eq!(same, commands.len().min(also.len()));
    }
}

#[test]
fn robot_time_stands_still_from_the_end_of_a_run_until_its_reply_is_dropped() {
    let bench = Bench::new();
    let reply = futures_executor::block_on(bench.start("roll out: 1"));
    let tick = bench.robot.tick();
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(bench.robot.tick(), tick);
    drop(reply);
    bench.assert_the_arm_holds();
}
