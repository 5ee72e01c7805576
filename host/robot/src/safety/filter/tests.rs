use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::control::play::Play;
use crate::embodiment::{JointTightening, Tightening};
use crate::trajectory::limits::Limits;

const TICK: f64 = 0.01;
const REST: [f32; 6] = [0.0, -0.6, 0.8, 0.6, 0.0, 0.3];

/// Two links of 0.16 m and a hand of 0.1 m on a turning foot.
fn tool(q: &[f32]) -> [f32; 3] {
    let (shoulder, elbow, wrist) = (0.8 - q[1], 0.8 - q[1] - q[2], 0.8 - q[1] - q[2] - q[3]);
    let reach = 0.16 * shoulder.cos() + 0.16 * elbow.cos() + 0.1 * wrist.cos();
    let height = 0.12 + 0.16 * shoulder.sin() + 0.16 * elbow.sin() + 0.1 * wrist.sin();
    [reach * q[0].cos(), reach * q[0].sin(), height]
}

fn filter(positions: &[f32]) -> (Embodiment, Filter) {
    let robot = Embodiment::so101();
    let filter = Filter::new(&robot, Box::new(tool), Guard::On, positions);
    (robot, filter)
}

fn free_filter(positions: &[f32]) -> Filter {
    let robot = Embodiment { collisions: vec![], ..Embodiment::so101() };
    Filter::new(&robot, Box::new(|_: &[f32]| [0.2, 0.0, 0.2]), Guard::On, positions)
}

fn to(positions: &[f32]) -> Vec<Demand> {
    positions.iter().map(|&position| Demand::To(position.into())).collect()
}

fn step(filter: &mut Filter, demands: &[Demand]) -> Vec<Act> {
    let mut acts = Vec::new();
    filter.step(demands, |act| acts.push(act));
    acts
}

fn outside(box_: &Workspace, tool: [f32; 3]) -> f32 {
    (0..3).map(|axis| (box_.min[axis] - tool[axis]).max(tool[axis] - box_.max[axis])).fold(0.0, f32::max)
}

/// What a broken model, a broken skill or an attacker might send to one joint.
fn hostile() -> impl Strategy<Value = Demand> {
    prop_oneof![
        1 => Just(Demand::Hold),
        1 => prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(f64::MIN), Just(1e300)].prop_map(Demand::To),
        4 => (-4.0..4.0).prop_map(Demand::To),
    ]
}

/// A demand for every joint that stays for some ticks while each joint drifts on.
fn hostile_spell() -> impl Strategy<Value = (Vec<Demand>, Vec<f64>, usize)> {
    (prop::collection::vec(hostile(), 6), prop::collection::vec(-0.05..0.05, 6), 1_usize..40)
}

/// What a skill might ask to be kept to; some of it leaves nothing, and is refused.
fn any_tightening() -> impl Strategy<Value = Tightening> {
    let jerk = prop::option::of(4.0_f32..40.0);
    let joint = (prop::option::of([-2.0_f32..0.5, -0.5_f32..2.0]), 0.05_f32..3.0, 0.5_f32..20.0, jerk);
    let place = (prop::array::uniform3(-0.4_f32..0.2), prop::array::uniform3(0.05_f32..0.5))
        .prop_map(|(min, max)| Workspace { min, max });
    let block = (prop::array::uniform3(-0.4_f32..0.4), 0.02_f32..0.2)
        .prop_map(|(min, side)| Workspace { min, max: min.map(|low| low + side) });
    (prop::collection::vec(joint, 6), prop::option::of(place), prop::collection::vec(block, 0..2)).prop_map(
        |(joints, workspace, forbidden)| {
            let names = Embodiment::so101().joints.into_iter().map(|joint| joint.name);
            let joint =
                |(name, (position, velocity, acceleration, jerk)): (_, (_, _, f32, Option<f32>))| JointTightening {
                    name,
                    position,
                    velocity: Some(velocity),
                    acceleration: Some(acceleration),
                    jerk: jerk.map(|share| share * acceleration),
                    ..JointTightening::default()
                };
            let joints = names.zip(joints).map(joint).collect();
            Tightening { joints, workspace, forbidden, ..Tightening::default() }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn commands_keep_every_limit_whatever_is_demanded(
        spells in prop::collection::vec(hostile_spell(), 1..25), jerk in prop::option::of(4.0_f32..60.0)
    ) {
        let place = Workspace { min: [0.2, 0.05, 0.0], max: [0.3, 0.2, 0.15] };
        let mut robot = Embodiment { forbidden: vec![place], ..Embodiment::so101() };
        // What brakes before a place does not wait for it.
        robot.joints.iter_mut().for_each(|joint| joint.jerk = jerk.map(|share| share * joint.acceleration));
        let mut filter = Filter::new(&robot, Box::new(tool), Guard::On, &REST);
        let mut body = Body::new(&robot);
        let (mut last, mut speeds) = (REST.to_vec(), vec![0.0; 6]);
        for (demands, drift, ticks) in spells {
            for tick in 0..ticks {
                let demands: Vec<_> = demands.iter().zip(&drift).map(|(demand, drift)| match demand {
                    Demand::To(position) => Demand::To(position + drift * tick as f64),
                    Demand::Hold => Demand::Hold,
                }).collect();
                step(&mut filter, &demands);
                let command = filter.command();
                for (index, joint) in robot.joints.iter().enumerate() {
                    let (name, [low, high]) = (&joint.name, joint.position);
                    prop_assert!((low..=high).contains(&command[index]), "{name} is at {}", command[index]);
                    let speed = f64::from(command[index] - last[index]) / TICK;
                    let change: f64 = (speed - speeds[index]) / TICK;
                    // Two and four roundings of a position to f32, half of 2.4e-7 rad each.
                    prop_assert!(speed.abs() <= f64::from(joint.velocity) + 5e-5, "{name} at {speed} rad/s");
                    prop_assert!(change.abs() <= f64::from(joint.acceleration) + 1e-2, "{name} at {change} rad/s²");
                    speeds[index] = speed;
                }
                let beyond = outside(&robot.workspace, tool(command));
                prop_assert!(beyond <= 1.1e-5, "the tool is {beyond} m outside");
                let depths = body.depths(command, [].iter());
                prop_assert!(depths.iter().all(|depth| *depth <= 1.1e-5), "in a forbidden box, in itself: {depths:?} m");
                last.copy_from_slice(command);
            }
        }
    }

    #[test]
    fn stricter_limits_that_come_and_go_never_cost_the_robots_own_and_are_kept_from_a_stand(
        spells in prop::collection::vec((hostile_spell(), prop::collection::vec(any_tightening(), 2)), 1..12),
        jerk in prop::option::of(4.0_f32..60.0),
    ) {
        let place = Workspace { min: [0.2, 0.05, 0.0], max: [0.3, 0.2, 0.15] };
        let mut robot = Embodiment { forbidden: vec![place], ..Embodiment::so101() };
        robot.joints.iter_mut().for_each(|joint| joint.jerk = jerk.map(|share| share * joint.acceleration));
        let robot = Arc::new(robot);
        let mut filter = Filter::new(&robot, Box::new(tool), Guard::On, &REST);
        let mut body = Body::new(&robot);
        let (mut last, mut speeds, mut changes) = (REST.to_vec(), vec![0.0; 6], vec![0.0; 6]);
        for ((demands, drift, ticks), tightenings) in spells {
            let within: Vec<_> = tightenings.iter().filter_map(|by| robot.within(by, "a skill").ok()).collect();
            let drivers = || [[0, 1, 2].as_slice(), &[3, 4, 5]].into_iter().zip(&within);
            filter.keep_within(drivers());
            let stood = speeds.iter().chain(&changes).all(|it| *it == 0.0);
            for tick in 0..ticks {
                let demands: Vec<_> = demands.iter().zip(&drift).map(|(demand, drift)| match demand {
                    Demand::To(position) => Demand::To(position + drift * tick as f64),
                    Demand::Hold => Demand::Hold,
                }).collect();
                step(&mut filter, &demands);
                let command = filter.command();
                for (index, joint) in robot.joints.iter().enumerate() {
                    let driver = drivers().find(|(joints, _)| joints.contains(&index));
                    let theirs = driver.map_or(joint, |(_, within)| &within.embodiment().joints[index]);
                    let (name, [low, high]) = (&joint.name, joint.position);
                    prop_assert!((low..=high).contains(&command[index]), "{name} is at {}", command[index]);
                    let speed = f64::from(command[index] - last[index]) / TICK;
                    let change: f64 = (speed - speeds[index]) / TICK;
                    prop_assert!(speed.abs() <= f64::from(joint.velocity) + 5e-5, "{name} at {speed} rad/s");
                    prop_assert!(change.abs() <= f64::from(joint.acceleration) + 1e-2, "{name} at {change} rad/s²");
                    if stood {
                        prop_assert!(speed.abs() <= f64::from(theirs.velocity) + 5e-5, "{name} at {speed} rad/s");
                    }
                    let [low, high] = theirs.position;
                    let (was, is) = (last[index], command[index]);
                    if stood && (low..=high).contains(&was) {
                        prop_assert!((low..=high).contains(&is), "{name} went from {was} to {is} rad");
                    } else if stood {
                        prop_assert!((is - was) * (was - high.min(was.max(low))) <= 0.0, "{name} went further out");
                    }
                    (speeds[index], changes[index]) = (speed, change);
                }
                let beyond = outside(&robot.workspace, tool(command));
                prop_assert!(beyond <= 1.1e-5, "the tool is {beyond} m outside");
                let depths = body.depths(command, [].iter());
                prop_assert!(depths.iter().all(|depth| *depth <= 1.1e-5), "in a forbidden box, in itself: {depths:?} m");
                last.copy_from_slice(command);
            }
        }
    }

    #[test]
    fn a_jerk_is_kept_whatever_is_demanded_and_whoever_drives_but_where_something_holds_or_a_position_ends(
        share in 4.0_f32..60.0,
        spells in prop::collection::vec((hostile_spell(), prop::collection::vec(any_tightening(), 2)), 1..12),
    ) {
        let mut robot = Embodiment { collisions: vec![], ..Embodiment::so101() };
        robot.joints.iter_mut().for_each(|joint| joint.jerk = Some(share * joint.acceleration));
        let robot = Arc::new(robot);
        let mut filter = Filter::new(&robot, Box::new(|_: &[f32]| [0.2, 0.0, 0.2]), Guard::On, &REST);
        let limits: Vec<_> = robot.joints.iter().map(|joint| joint.limits(robot.control_hz)).collect();
        let mut last: Vec<_> = (0..6).map(|joint| (filter.state(joint), false)).collect();
        for ((demands, drift, ticks), tightenings) in spells {
            let tightenings = tightenings.into_iter().map(|by| Tightening { workspace: None, forbidden: vec![], ..by });
            let within: Vec<_> = tightenings.filter_map(|by| robot.within(&by, "a skill").ok()).collect();
            filter.keep_within([[0, 1, 2].as_slice(), &[3, 4, 5]].into_iter().zip(&within));
            for tick in 0..ticks {
                let demands: Vec<_> = demands.iter().zip(&drift).map(|(demand, drift)| match demand {
                    Demand::To(position) => Demand::To(position + drift * tick as f64),
                    Demand::Hold => Demand::Hold,
                }).collect();
                step(&mut filter, &demands);
                for (index, limits) in limits.iter().enumerate() {
                    let (is, (was, braked)) = (filter.state(index), last[index]);
                    let name = &robot.joints[index].name;
                    prop_assert!(is.velocity.abs() <= limits.speed + 1e-12, "{name}: {is:?}");
                    prop_assert!(is.change.abs() <= limits.change + 1e-12, "{name}: {is:?}");
                    // As fast as it may be to stop at an end of its range or its driver's, or outside of it.
                    let ends = |limits: Limits| {
                        let way = if is.velocity < 0.0 { was.position - limits.low } else { limits.high - was.position };
                        let back = was.position - limits.low;
                        limits.speed_that_stops_within(way) <= is.velocity.abs() + 1e-12
                            || is.velocity == 0.0 && back <= 1e-12
                    };
                    let holds = !matches!(demands[index], Demand::To(position) if position.is_finite());
                    let brakes = holds || ends(*limits) || ends(Limits { change: limits.change, ..filter.joints[index].tracker.within });
                    let jerk = (is.change - was.change).abs();
                    prop_assert!(
                        brakes || braked || jerk <= limits.jerk.unwrap() + 1e-12, "{name}: {jerk} from {was:?} to {is:?}"
                    );
                    last[index] = (is, brakes);
                }
            }
        }
    }

    #[test]
    fn a_planned_move_goes_through_unchanged(
        shares in prop::collection::vec(0.0_f32..=1.0, 6), speed in 0.05_f32..=1.0
    ) {
        let robot = Embodiment::so101();
        let mut filter = free_filter(&REST);
        let along = |(joint, share): (&crate::embodiment::Joint, &f32)| {
            joint.position[0] + share * (joint.position[1] - joint.position[0])
        };
        let target: Vec<f32> = robot.joints.iter().zip(&shares).map(along).collect();
        let every = BTreeSet::from_iter(0..6);
        let planned = Play::joints_to(&robot, every, &REST, &target, speed).unwrap();
        for row in &planned.rows {
            prop_assert_eq!(step(&mut filter, &to(row)), []);
            for (command, row) in filter.command().iter().zip(row) {
                prop_assert!((command - row).abs() < 1e-6, "{} became {}", row, command);
            }
        }
        prop_assert_eq!(filter.command(), target);
    }
}

#[test]
fn a_smooth_trajectory_within_the_limits_goes_through_bit_for_bit() {
    let (_, mut filter) = filter(&REST);
    for tick in 1..=600 {
        let swing = (0.15 * (1.0 - (f64::from(tick) * TICK * 4.0).cos())) as f32;
        let row: Vec<f32> = REST.iter().map(|position| position + swing).collect();
        assert_eq!(step(&mut filter, &to(&row)), []);
        assert_eq!(filter.command(), row);
    }
}

#[test]
fn a_teleporting_demand_is_reached_at_full_speed_without_swinging_past() {
    let mut filter = free_filter(&REST);
    let mut target = REST;
    target[0] = 1.5;
    let mut rules = BTreeSet::new();
    let mut ticks = 0;
    while filter.command()[0] != 1.5 {
        let before = filter.command()[0];
        rules.extend(step(&mut filter, &to(&target)).into_iter().map(|act| (act.rule, act.joint)));
        assert!(filter.command()[0] > before && filter.command()[0] <= 1.5);
        ticks += 1;
    }
    assert_eq!(rules, BTreeSet::from([(Rule::Velocity, Some(0))]));
    // The time-optimal way takes 1.5 rad at 2 rad/s, and 2 rad/s over 12 rad/s² for starting and stopping: 0.917 s.
    assert!((91..=92).contains(&ticks), "{ticks}");
    step(&mut filter, &to(&target));
    assert!(filter.stands());
}

#[test]
fn a_demand_beyond_a_joints_limit_is_clamped_and_named() {
    let mut filter = free_filter(&REST);
    let mut target = REST;
    target[5] = 1.9;
    let acts: Vec<_> = (0..200).flat_map(|_| step(&mut filter, &to(&target))).collect();
    assert_eq!(filter.command()[5], 1.74533);
    let position = acts.iter().find(|act| act.rule == Rule::Position).unwrap();
    assert_eq!((position.joint, position.response), (Some(5), Response::Clamp));
    assert!((position.excess - (1.9 - 1.74533)).abs() < 1e-6);
}

#[test]
fn a_joint_that_is_sent_no_number_holds_while_the_others_go_on() {
    let mut filter = free_filter(&REST);
    let mut demands = to(&REST);
    for tick in 1..=50 {
        demands[0] = Demand::To(0.002 * f64::from(tick));
        demands[3] = Demand::To(f64::NAN);
        let acts = step(&mut filter, &demands);
        let rules: Vec<_> = acts.iter().filter(|act| act.rule == Rule::NotANumber).collect();
        assert!(matches!(rules[..], [Act { joint: Some(3), response: Response::Hold, .. }]));
    }
    assert_eq!(filter.command()[3], REST[3]);
    assert_eq!(filter.command()[0], 0.1);
}

#[test]
fn a_latched_stop_brings_every_joint_to_a_hold_whatever_is_demanded() {
    let mut filter = free_filter(&REST);
    let target = REST.map(|position| position + 0.5);
    for _ in 0..20 {
        step(&mut filter, &to(&target));
    }
    assert!(!filter.stands());
    filter.latch(true);
    // 1.2 rad/s at most by now, 12 rad/s² to lose it.
    for _ in 0..20 {
        let acts = step(&mut filter, &to(&target));
        assert_eq!(acts.iter().map(|act| act.rule).collect::<Vec<_>>(), [Rule::HostStop]);
    }
    assert!(filter.stands());
    let held = filter.command().to_vec();
    step(&mut filter, &to(&target));
    assert_eq!(filter.command(), held);
}

/// The tool moves 0.2 m per rad: joint 0 along x, joint 1 along y.
fn gantry(positions: &[f32]) -> Filter {
    let tool = |q: &[f32]| [0.2 + 0.2 * q[0], 0.2 * q[1], 0.2];
    Filter::new(&Embodiment::so101(), Box::new(tool), Guard::On, positions)
}

#[test]
fn a_tool_that_is_sent_through_a_wall_slides_along_it() {
    let mut filter = gantry(&[0.0; 6]);
    let mut walls = Vec::new();
    for _ in 0..200 {
        walls.extend(step(&mut filter, &to(&[1.8, 0.9, 0.0, 0.0, 0.0, 0.0])));
    }
    // The wall is at x = 0.45 m, and the tool stays a millimetre inside.
    let command = filter.command();
    assert!((0.2 + 0.2 * command[0] - 0.449).abs() < 1e-4, "{command:?}");
    assert_eq!(command[1], 0.9);
    let wall = walls.iter().find(|act| act.rule == Rule::Workspace).unwrap();
    assert_eq!(wall.response, Response::Clamp);
    assert!((wall.excess - 0.11).abs() < 1e-3);
}

#[test]
fn a_tool_found_outside_the_workspace_may_come_back_but_go_no_further() {
    let start = [1.4, 0.0, 0.0, 0.0, 0.0, 0.0];
    let mut filter = gantry(&start);
    for _ in 0..100 {
        step(&mut filter, &to(&[1.6, 0.0, 0.0, 0.0, 0.0, 0.0]));
        assert!(filter.command()[0] <= start[0] + 1e-6);
    }
    for _ in 0..200 {
        step(&mut filter, &to(&[0.0; 6]));
    }
    assert_eq!(filter.command()[0], 0.0);
}

#[test]
fn an_arm_whose_tool_is_nowhere_holds() {
    let robot = Embodiment::so101();
    let mut filter = Filter::new(&robot, Box::new(|_: &[f32]| [f32::NAN; 3]), Guard::On, &REST);
    let acts = step(&mut filter, &to(&REST.map(|position| position + 1.0)));
    assert_eq!(filter.command(), REST);
    assert!(acts.iter().any(|act| act.rule == Rule::Workspace && act.response == Response::Hold));
}

#[test]
fn a_joint_found_outside_its_limits_holds_until_it_is_sent_back_inside() {
    let mut start = REST;
    start[5] = -0.3;
    let mut filter = free_filter(&start);
    step(&mut filter, &[Demand::Hold; 6]);
    assert_eq!(filter.command(), start);
    let mut last = -0.3;
    for _ in 0..100 {
        step(&mut filter, &to(&REST));
        assert!(filter.command()[5] >= last);
        last = filter.command()[5];
    }
    assert_eq!(filter.command(), REST);
}

#[test]
fn an_arm_that_is_sent_into_a_forbidden_box_stops_before_it_and_leaves_when_it_is_sent_away() {
    let place = Workspace { min: [0.12, 0.06, 0.0], max: [0.3, 0.3, 0.4] };
    let robot = Embodiment { forbidden: vec![place], ..Embodiment::so101() };
    let mut filter = Filter::new(&robot, Box::new(tool), Guard::On, &REST);
    let mut body = Body::new(&robot);
    let mut target = REST;
    target[0] = 1.0;
    let acts: Vec<_> = (0..200).flat_map(|_| step(&mut filter, &to(&target))).collect();
    let depth = body.depths(filter.command(), [].iter())[0];
    assert!((-0.01..=1.1e-5).contains(&depth), "{depth} m");
    let held = acts.iter().find(|act| act.rule == Rule::Forbidden).unwrap();
    assert_eq!(held.response, Response::Hold);
    for _ in 0..200 {
        step(&mut filter, &to(&REST));
    }
    assert_eq!(filter.command(), REST);
}

#[test]
fn an_arm_that_folds_onto_itself_stops_before_it_touches() {
    let (robot, mut filter) = filter(&REST);
    let mut body = Body::new(&robot);
    let fold = [0.0, -0.2, 1.6, 1.6, 0.0, 0.3];
    let mut rules = BTreeSet::new();
    for _ in 0..300 {
        rules.extend(step(&mut filter, &to(&fold)).into_iter().map(|act| act.rule));
        let depth = body.depths(filter.command(), [].iter())[1];
        assert!(depth <= 1.1e-5, "{depth} m");
    }
    assert!(rules.contains(&Rule::SelfCollision), "{rules:?}");
}
