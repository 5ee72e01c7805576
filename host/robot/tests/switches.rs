//! Ten minutes of holders who take joints from each other, with whatever they play: no sample beyond a limit.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod follower;

use std::collections::BTreeSet;
use std::sync::Arc;

use follower::{Bench, wait};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use waza_robot::embodiment::JointTightening;
use waza_robot::embodiment::Workspace;
use waza_robot::{Embodiment, Pace, Play, Tightening, Within};

const TICKS: u64 = 60_000;

/// Rounding of positions to `f32`, in a speed, in an acceleration and in a jerk at 100 Hz.
const ROUNDING: [f64; 3] = [5e-5, 1e-2, 2.0];

/// What one holder may be kept to.
fn careful(random: &mut ChaCha8Rng, robot: &Arc<Embodiment>) -> Option<Arc<Within>> {
    let joint = |joint: &waza_robot::embodiment::Joint| JointTightening {
        name: joint.name.clone(),
        position: random.random_bool(0.5).then(|| [random.random_range(-1.5..0.0), random.random_range(0.2..1.5)]),
        velocity: Some(random.random_range(0.1..3.0)),
        acceleration: Some(random.random_range(0.5..20.0)),
        jerk: random.random_bool(0.3).then(|| random.random_range(80.0..600.0)),
        ..JointTightening::default()
    };
    let joints = robot.joints.iter().map(joint).collect();
    let workspace = random.random_bool(0.3).then(|| Workspace { min: [0.0, -0.2, 0.01], max: [0.4, 0.3, 0.4] });
    robot.within(&Tightening { joints, workspace, ..Tightening::default() }, "a holder").ok()
}

/// Rows as a model, a planner and a madman would send them.
fn anything(random: &mut ChaCha8Rng, robot: &Arc<Embodiment>, here: &[f32], tick: u64) -> Play {
    let parts: [&[usize]; 4] = [&[0, 1, 2, 3, 4], &[5], &[0, 1, 2, 3, 4, 5], &[3, 4]];
    let joints = BTreeSet::from_iter(parts[random.random_range(0..parts.len())].iter().copied());
    let within = if random.random_bool(0.4) { careful(random, robot) } else { None };
    let mut at = here.to_vec();
    let step = [0.02, 0.1, 0.3][random.random_range(0..3)];
    if random.random_bool(0.1) {
        at.iter_mut().for_each(|position| *position = random.random_range(-3.5..3.5));
    }
    let rows = random.random_range(1..20);
    let row = |_| {
        at.iter_mut().for_each(|position| *position += random.random_range(-step..=step));
        at.clone()
    };
    let rows = (0..rows).map(row).collect();
    let since_tick = random.random_bool(0.5).then(|| tick.saturating_sub(random.random_range(0..40)));
    let rate_hz = [10.0, 10.0, 30.0, 100.0][random.random_range(0..4)];
    Play { joints, rate_hz, rows, since_tick, within }
}

#[test]
fn in_ten_minutes_of_switches_between_chunks_holders_and_limits_no_sample_is_beyond_a_limit() {
    let mut robot = Embodiment { discontinuity_rad: Some(1.0), ..Embodiment::so101() };
    robot.joints.iter_mut().for_each(|joint| joint.jerk = Some(25.0 * joint.acceleration));
    let bench = Bench::of(robot, Pace::Lockstep, waza_robot::sim::arm::tool_position);
    let robot = bench.robot.embodiment().clone();
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let mut hold = bench.robot.hold_time();
    let (mut plays, mut stops) = (0, 0);
    while bench.robot.tick() < TICKS {
        let tick = bench.robot.tick();
        match random.random_range(0..20) {
            0 => bench.robot.hold(&BTreeSet::from([random.random_range(0..6), random.random_range(0..6)])),
            1 => {
                bench.robot.stop();
                stops += 1;
            }
            // A planned move of a holder that looks where it is first.
            2..5 => {
                let (from, mut target) = (bench.robot.commanded(), bench.robot.commanded());
                target.iter_mut().for_each(|position| *position = random.random_range(-0.1..1.5));
                let joints = BTreeSet::from_iter(0..6);
                drop(bench.robot.play(Play::joints_to(&robot, joints, &from, &target, 1.0).unwrap()));
            }
            _ => drop(bench.robot.play(anything(&mut random, &robot, &bench.robot.commanded(), tick))),
        }
        plays += 1;
        let reaching = bench.robot.reach(tick + random.random_range(1..60));
        drop(hold);
        hold = wait(reaching).hold;
        if let Some(stopped) = bench.robot.stopped() {
            assert!(bench.robot.reset(stopped));
        }
    }
    assert!(plays > 1500 && stops > 50, "{plays} plays, {stops} stops");
    let (mut furthest, mut braking) = (0.0_f64, 0);
    for (index, joint) in robot.joints.iter().enumerate() {
        let commands = bench.joint(index);
        assert!(commands.len() as u64 >= TICKS);
        let speeds: Vec<f64> =
            commands.windows(2).map(|pair| 100.0 * (f64::from(pair[1]) - f64::from(pair[0]))).collect();
        let fast = speeds.iter().filter(|speed| speed.abs() > f64::from(joint.velocity) + ROUNDING[0]).count();
        let acceleration = f64::from(joint.acceleration);
        let changes: Vec<f64> = speeds.windows(2).map(|pair| 100.0 * (pair[1] - pair[0])).collect();
        let hard = changes.iter().filter(|change| change.abs() > acceleration + ROUNDING[1]).count();
        // Braking has the whole acceleration at once, and ends as it begins; so does a stand.
        let brakes = |tick: usize| {
            speeds[tick + 1] == 0.0
                || changes[tick] * speeds[tick] < 0.0 && changes[tick].abs() >= acceleration - ROUNDING[1]
        };
        let most = f64::from(joint.jerk.unwrap()) + ROUNDING[2];
        let abrupt: Vec<_> =
            (1..changes.len()).filter(|&tick| 100.0 * (changes[tick] - changes[tick - 1]).abs() > most).collect();
        braking += abrupt.len();
        // A braking that begins as late as it can begins with a part of a tick.
        let excused = |tick: usize| (tick - 1..=tick + 1).any(|near| near < changes.len() && brakes(near));
        let jerky = abrupt.iter().filter(|&&tick| !excused(tick)).count();
        let [low, high] = joint.position;
        let out = commands.iter().filter(|position| !(low..=high).contains(position)).count();
        let wrong = [fast, hard, jerky, out];
        assert_eq!(wrong, [0; 4], "samples of {} too fast, too hard, too abrupt, out of range", joint.name);
        furthest += speeds.iter().map(|speed| speed.abs() / 100.0).sum::<f64>();
    }
    assert!(furthest > 300.0, "the joints went {furthest} rad in all");
    assert!(braking < 6 * TICKS as usize / 20, "{braking} samples brake");
    assert_eq!(bench.joint(0).len(), bench.robot.tick() as usize);
}
