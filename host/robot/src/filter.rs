//! The safety filter: the last thing between a demand and the robot.
//!
//! Whatever comes in, the commands that go out keep each joint's position, velocity and acceleration limits from tick
//! to tick (to within the rounding of a position to `f32`), and the tool stays in the workspace. A demand that keeps
//! them goes through unchanged. Nothing here allocates after the start.

use std::array;

use crate::embodiment::{Embodiment, Workspace};
use crate::limits::{Limits, State};
use crate::safety::{Act, Kinematics, Response, Rule};

/// What is demanded of a joint.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Demand {
    /// Stop as fast as the limits allow, and stay.
    Hold,
    /// Be at this position in this tick, rad.
    To(f64),
}

/// A smaller difference between demand and command is no intervention: hobby servos resolve 1.5e-3 rad (4096 steps a
/// turn).
const UNNOTICED_RAD: f64 = 1e-3;

/// Far above the rounding of a sum of positions in `f64`, far below anything physical.
const ROUNDING_RAD: f64 = 1e-12;

/// The tool may be outside the workspace by this much before anything is done about it, metres.
const UNNOTICED_M: f64 = 1e-5;

/// A demand outside the workspace is pulled this far into it, metres, so that the way along its wall stays inside too.
const INSET_M: f32 = 1e-3;

/// Steps of the iteration that pulls a demand into the workspace.
const PULLS: usize = 8;

/// The way on which a tool would come to rest is checked at no more than this many points.
const CHECKS: f64 = 32.0;

struct Joint {
    limits: Limits,
    state: State,
    /// The demand after clamping; `None`: hold.
    target: Option<f64>,
    /// The target that the joint followed in the tick before.
    followed: f64,
    /// The velocity chosen for this tick.
    velocity: f64,
    /// Why the command lags behind the demand, while it does.
    lags: Option<Rule>,
    /// Metres that the tool moves per rad of this joint at the target.
    jacobian: [f32; 3],
}

pub(crate) struct Filter {
    joints: Vec<Joint>,
    workspace: Workspace,
    kinematics: Box<dyn Kinematics>,
    latched: bool,
    command: Vec<f32>,
    /// A posture to ask the kinematics about.
    posture: Vec<f32>,
}

impl Filter {
    /// A filter whose first command continues from `positions`, at rest.
    pub fn new(embodiment: &Embodiment, kinematics: Box<dyn Kinematics>, positions: &[f32]) -> Self {
        let joint = |joint| Joint {
            limits: Limits::of(joint, embodiment.control_hz),
            state: State::default(),
            target: None,
            followed: 0.0,
            velocity: 0.0,
            lags: None,
            jacobian: [0.0; 3],
        };
        let mut filter = Self {
            joints: embodiment.joints.iter().map(joint).collect(),
            workspace: embodiment.workspace,
            kinematics,
            latched: false,
            command: positions.to_vec(),
            posture: positions.to_vec(),
        };
        filter.continue_from(positions);
        filter
    }

    /// Forgets the last command: the next one continues from `positions`, at rest.
    pub fn continue_from(&mut self, positions: &[f32]) {
        for (joint, &position) in self.joints.iter_mut().zip(positions) {
            joint.state = State { position: position.into(), velocity: 0.0 };
            joint.followed = position.into();
            joint.lags = None;
        }
        self.command.copy_from_slice(positions);
    }

    /// While latched, every joint holds whatever is demanded.
    pub fn latch(&mut self, latched: bool) {
        self.latched = latched;
    }

    /// Where a joint is commanded to be.
    pub fn state(&self, joint: usize) -> State {
        self.joints[joint].state
    }

    /// Whether every joint is commanded to stand.
    pub fn stands(&self) -> bool {
        self.joints.iter().all(|joint| joint.state.velocity == 0.0)
    }

    /// The newest command, rad.
    pub fn command(&self) -> &[f32] {
        &self.command
    }

    /// Makes the next command from one demand a joint, and reports what it changed.
    pub fn step(&mut self, demands: &[Demand], mut report: impl FnMut(Act)) {
        self.clamp(demands, &mut report);
        self.pull_into_workspace(&mut report);
        for joint in &mut self.joints {
            joint.velocity = joint.follow();
        }
        self.stop_before_the_wall(&mut report);
        for (index, joint) in self.joints.iter_mut().enumerate() {
            joint.advance();
            self.command[index] = joint.state.position as f32;
            joint.explain(index, &mut report);
        }
    }

    fn clamp(&mut self, demands: &[Demand], report: &mut impl FnMut(Act)) {
        let mut refused = false;
        for (index, (joint, demand)) in self.joints.iter_mut().zip(demands).enumerate() {
            joint.target = match *demand {
                Demand::Hold => None,
                Demand::To(_) if self.latched => {
                    refused = true;
                    None
                }
                Demand::To(position) if position.is_finite() => {
                    let target = position.clamp(joint.limits.low, joint.limits.high);
                    let excess = (position - target).abs();
                    if excess > UNNOTICED_RAD {
                        report(Act { rule: Rule::Position, response: Response::Clamp, joint: Some(index), excess });
                    }
                    Some(target)
                }
                Demand::To(_) => {
                    let (rule, excess) = (Rule::NotANumber, f64::INFINITY);
                    report(Act { rule, response: Response::Hold, joint: Some(index), excess });
                    None
                }
            };
        }
        if refused {
            report(Act { rule: Rule::HostStop, response: Response::Latch, joint: None, excess: 0.0 });
        }
    }

    /// Moves targets whose tool position is outside the workspace to near ones inside; if that fails, the arm holds.
    fn pull_into_workspace(&mut self, report: &mut impl FnMut(Act)) {
        if self.joints.iter().all(|joint| joint.target.is_none()) {
            return;
        }
        let allowed = self.allowed_outside();
        let wanted = self.outside_at_targets();
        if wanted <= allowed {
            return;
        }
        let mut outside = wanted;
        for _ in 0..PULLS {
            self.pull();
            outside = self.outside_at_targets();
            if outside <= allowed {
                break;
            }
        }
        let response = if outside <= allowed {
            Response::Clamp
        } else {
            self.joints.iter_mut().for_each(|joint| joint.target = None);
            Response::Hold
        };
        report(Act { rule: Rule::Workspace, response, joint: None, excess: wanted });
    }

    /// Moves the targets along the transposed Jacobian of the driven joints, by the length that brings the tool
    /// nearest to the inside (Wolovich and Elliott 1984): no inverse, so nothing runs away near a singular posture.
    fn pull(&mut self) {
        const NUDGE: f32 = 1e-3;
        self.posture_at_targets();
        let tool = self.kinematics.tool_position(&self.posture);
        let Workspace { min, max } = self.workspace;
        let way: [f32; 3] = array::from_fn(|axis| {
            let inset = INSET_M.min((max[axis] - min[axis]) / 4.0);
            tool[axis].clamp(min[axis] + inset, max[axis] - inset) - tool[axis]
        });
        let mut achieved = [0.0; 3];
        for (index, joint) in self.joints.iter_mut().enumerate().filter(|(_, joint)| joint.target.is_some()) {
            let kept = self.posture[index];
            self.posture[index] = kept + NUDGE;
            let nudged = self.kinematics.tool_position(&self.posture);
            self.posture[index] = kept;
            joint.jacobian = array::from_fn(|axis| (nudged[axis] - tool[axis]) / NUDGE);
            let turn = dot(joint.jacobian, way);
            achieved = array::from_fn(|axis| achieved[axis] + joint.jacobian[axis] * turn);
        }
        let length = dot(way, achieved) / dot(achieved, achieved);
        for joint in &mut self.joints {
            if let Some(target) = &mut joint.target {
                let moved = *target + f64::from(length * dot(joint.jacobian, way));
                if moved.is_finite() {
                    *target = moved.clamp(joint.limits.low, joint.limits.high);
                }
            }
        }
    }

    /// Brakes now if the arm could not come to rest inside the workspace after one more tick as chosen. As that held
    /// after the tick before, braking keeps the tool inside.
    fn stop_before_the_wall(&mut self, report: &mut impl FnMut(Act)) {
        let ticks = self.joints.iter().map(|joint| joint.limits.braking_ticks(joint.velocity)).fold(0.0, f64::max);
        if self.joints.iter().all(|joint| joint.velocity == 0.0) {
            return;
        }
        let allowed = self.allowed_outside();
        let stride = (ticks / CHECKS).ceil().max(1.0);
        let mut tick = 0.0;
        loop {
            for (posture, joint) in self.posture.iter_mut().zip(&self.joints) {
                let next = joint.state.position + joint.velocity;
                *posture = (next + joint.limits.braking_travel(joint.velocity, tick)) as f32;
            }
            let outside = self.outside();
            if outside > allowed {
                let mut changed = false;
                for joint in self.joints.iter_mut() {
                    let braked = joint.limits.braked(joint.state.velocity);
                    changed |= braked != joint.velocity;
                    joint.velocity = braked;
                    joint.lags = Some(Rule::Workspace);
                }
                if changed {
                    report(Act { rule: Rule::Workspace, response: Response::Hold, joint: None, excess: outside });
                }
                return;
            }
            if tick >= ticks {
                return;
            }
            tick = (tick + stride).min(ticks);
        }
    }

    /// How far the tool may be outside: no further than it is.
    fn allowed_outside(&mut self) -> f64 {
        self.posture.copy_from_slice(&self.command);
        let outside = self.outside();
        if outside.is_finite() { outside.max(UNNOTICED_M) } else { UNNOTICED_M }
    }

    fn outside_at_targets(&mut self) -> f64 {
        self.posture_at_targets();
        self.outside()
    }

    fn posture_at_targets(&mut self) {
        for (posture, joint) in self.posture.iter_mut().zip(&self.joints) {
            *posture = joint.target.unwrap_or(joint.state.position) as f32;
        }
    }

    /// How far the tool is outside the workspace in `posture`, metres; infinite if that is unknown.
    fn outside(&self) -> f64 {
        let tool = self.kinematics.tool_position(&self.posture);
        let Workspace { min, max } = self.workspace;
        if tool.iter().any(|value| !value.is_finite()) {
            return f64::INFINITY;
        }
        let beyond = |axis: usize| f64::from((min[axis] - tool[axis]).max(tool[axis] - max[axis]));
        (0..3).map(beyond).fold(0.0, f64::max)
    }
}

impl Joint {
    /// The velocity that follows the target, or brakes if there is none, within the limits.
    ///
    /// A command that lags behind its target approaches it no faster, relative to it, than it can stop: it arrives
    /// without swinging past.
    fn follow(&self) -> f64 {
        let wanted = match self.target {
            None => self.limits.braked(self.state.velocity),
            Some(target) => {
                let lag = self.followed - self.state.position;
                target - self.followed + lag.signum() * self.limits.speed_that_stops_within(lag.abs())
            }
        };
        let [low, high] = self.limits.velocities(self.state);
        // Rounding may leave `low` above `high` by a hair; braking is then what matters.
        wanted.min(high).max(low)
    }

    fn advance(&mut self) {
        let sum = self.state.position + self.velocity;
        // A joint that arrives is exactly there: what was added up would leave it creeping by roundings.
        let arrived = self.target.filter(|target| (target - sum).abs() < ROUNDING_RAD);
        self.state = State { position: arrived.unwrap_or(sum), velocity: self.velocity };
    }

    /// Says why the command differs from the target.
    fn explain(&mut self, index: usize, report: &mut impl FnMut(Act)) {
        let Some(target) = self.target else {
            self.followed = self.state.position;
            self.lags = None;
            return;
        };
        let excess = (target - self.state.position).abs();
        if excess <= UNNOTICED_RAD {
            self.lags = None;
        } else {
            let too_fast = (target - self.followed).abs() > self.limits.speed;
            let rule = if too_fast { Rule::Velocity } else { self.lags.unwrap_or(Rule::Acceleration) };
            self.lags = Some(rule);
            if rule != Rule::Workspace {
                report(Act { rule, response: Response::Slow, joint: Some(index), excess });
            }
        }
        self.followed = target;
    }
}

fn dot(a: [f32; 3], b: [f32; 3]) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::play::Play;

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
        let filter = Filter::new(&robot, Box::new(tool), positions);
        (robot, filter)
    }

    fn free_filter(positions: &[f32]) -> Filter {
        Filter::new(&Embodiment::so101(), Box::new(|_: &[f32]| [0.2, 0.0, 0.2]), positions)
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn commands_keep_every_limit_whatever_is_demanded(spells in prop::collection::vec(hostile_spell(), 1..25)) {
            let (robot, mut filter) = filter(&REST);
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
                    last.copy_from_slice(command);
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
        Filter::new(&Embodiment::so101(), Box::new(tool), positions)
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
        let mut filter = Filter::new(&robot, Box::new(|_: &[f32]| [f32::NAN; 3]), &REST);
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
}
