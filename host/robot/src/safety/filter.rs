//! The safety filter: the last thing between a demand and the robot.
//!
//! Whatever comes in, the commands that go out keep each joint's position, velocity and acceleration limits from tick
//! to tick (to within the rounding of a position to `f32`) and, where nothing brakes, its jerk; the tool stays in the
//! workspace, the links out of forbidden boxes and of each other. A demand that keeps them goes through unchanged. Nothing
//! here allocates after the start.

use std::array;
use std::sync::Arc;

use crate::embodiment::capsules::Body;
use crate::embodiment::{self, Embodiment, Within, Workspace};
use crate::observation::Measurement;
use crate::safety::load::{Force, Load};
use crate::safety::{Act, Guard, Kinematics, Response, Rule};
use crate::trajectory::limits::State;
use crate::trajectory::track::Tracker;

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

/// The tool may be outside the workspace, and links in a forbidden box or in each other, by this much before anything is
/// done about it, metres.
const UNNOTICED_M: f64 = 1e-5;

/// The rules about where the robot may be, whatever its speed. The last two are those of whoever drives: kept apart,
/// because an arm that is found outside a stricter box may not leave the robot's own by as much.
const PLACES: [Rule; 5] = [Rule::Workspace, Rule::Forbidden, Rule::SelfCollision, Rule::Workspace, Rule::Forbidden];

/// The rules that say so themselves where they make a joint lag.
const REPORTED_BY_ITSELF: [Rule; 5] =
    [Rule::Workspace, Rule::Forbidden, Rule::SelfCollision, Rule::Force, Rule::Effort];

/// A demand outside the workspace is pulled this far into it, metres, so that the way along its wall stays inside too.
const INSET_M: f32 = 1e-3;

/// Steps of the iteration that pulls a demand into the workspace.
const PULLS: usize = 8;

/// The way on which a tool would come to rest is checked at no more than this many points.
const CHECKS: f64 = 32.0;

/// How long a joint's effort has to be over its limit before the joint is slowed, seconds. Starting at full acceleration
/// and the first contact with something are over sooner.
const EFFORT_SLOWS_S: f32 = 0.05;

/// And before it holds: what slowing down could relieve has been relieved by then.
const EFFORT_HOLDS_S: f32 = 0.25;

/// How long a force has to be over its limit before the arm holds, seconds: a blow lasts a sample or two, and nothing can
/// be done about it any more; what lasts longer is pressed.
const FORCE_HOLDS_S: f32 = 0.03;

/// Of the highest speed, what is left to a joint that presses.
const SLOWED: f64 = 0.25;

struct Joint {
    tracker: Tracker,
    /// The demand after clamping; `None`: hold.
    target: Option<f64>,
    /// The velocity chosen for this tick.
    velocity: f64,
    /// Metres that the tool moves per rad of this joint at the target.
    jacobian: [f32; 3],
    effort: Load,
}

pub(crate) struct Filter {
    joints: Vec<Joint>,
    /// The robot's.
    workspace: Workspace,
    /// What of it is left to whoever drives.
    left: Workspace,
    /// The stricter limits of whoever drives.
    within: Vec<Arc<Within>>,
    kinematics: Box<dyn Kinematics>,
    body: Body,
    forces: Vec<Force>,
    /// Ticks after which an effort slows, an effort holds, a force holds.
    patience: [u32; 3],
    guard: Guard,
    latched: bool,
    command: Vec<f32>,
    /// A posture to ask the kinematics about.
    posture: Vec<f32>,
}

impl Filter {
    /// A filter whose first command continues from `positions`, at rest.
    pub fn new(embodiment: &Embodiment, kinematics: Box<dyn Kinematics>, guard: Guard, positions: &[f32]) -> Self {
        let joint = |joint: &embodiment::Joint| Joint {
            tracker: Tracker::new(joint.limits(embodiment.control_hz)),
            target: None,
            velocity: 0.0,
            jacobian: [0.0; 3],
            effort: Load::default(),
        };
        let ticks = |seconds: f32| (seconds * embodiment.control_hz).ceil().max(1.0) as u32;
        let mut filter = Self {
            joints: embodiment.joints.iter().map(joint).collect(),
            workspace: embodiment.workspace,
            left: embodiment.workspace,
            // No more can drive than there are joints.
            within: Vec::with_capacity(embodiment.joints.len()),
            kinematics,
            body: Body::new(embodiment),
            forces: embodiment.force_limits.iter().filter_map(|it| Force::new(it, embodiment)).collect(),
            patience: [EFFORT_SLOWS_S, EFFORT_HOLDS_S, FORCE_HOLDS_S].map(ticks),
            guard,
            latched: false,
            command: positions.to_vec(),
            posture: positions.to_vec(),
        };
        filter.continue_from(positions);
        filter
    }

    /// Forgets the last command: the next one continues from `positions`, at rest.
    pub fn continue_from(&mut self, positions: &[f32]) {
        for (joint, &position) in positions.iter().enumerate().take(self.joints.len()) {
            self.continue_joint_from(joint, position);
        }
    }

    /// The same for one joint alone.
    pub fn continue_joint_from(&mut self, joint: usize, position: f32) {
        self.joints[joint].tracker.continue_from(State { position: position.into(), ..State::default() });
        self.command[joint] = position;
    }

    /// While latched, every joint holds whatever is demanded.
    pub fn latch(&mut self, latched: bool) {
        self.latched = latched;
    }

    /// Keeps to these stricter limits from the next command on, and to no others: a joint that somebody drives to those
    /// of its driver, the arm to the places of all of them.
    pub fn keep_within<'a>(&mut self, drivers: impl Iterator<Item = (&'a [usize], &'a Arc<Within>)>) {
        self.left = self.workspace;
        self.within.clear();
        for joint in &mut self.joints {
            joint.tracker.within = joint.tracker.limits;
        }
        for (joints, within) in drivers {
            for &joint in joints {
                self.joints[joint].tracker.within = within.limits[joint];
            }
            self.left = self.left.intersected(&within.embodiment().workspace);
            self.within.push(within.clone());
        }
    }

    /// Lets go of the stricter limits until the next [`Filter::keep_within`]: whoever drives by them frees them.
    pub fn let_go(&mut self) {
        self.within.clear();
    }

    /// Takes what was measured in this tick, to be held against the limits that are kept to by now.
    pub fn feel(&mut self, measured: &Measurement) {
        for (joint, &effort) in self.joints.iter_mut().zip(&measured.joints.efforts) {
            joint.effort.feel(effort.into(), joint.tracker.within.effort);
        }
        for (index, force) in self.forces.iter_mut().enumerate() {
            let theirs = self.within.iter().map(|within| within.embodiment().force_limits[index].newtons.into());
            let newtons = theirs.fold(force.newtons, f64::min);
            force.feel(&measured.samples[force.sensor], newtons);
        }
    }

    /// Where a joint is commanded to be.
    pub fn state(&self, joint: usize) -> State {
        self.joints[joint].tracker.state
    }

    /// Whether a joint is commanded to rest where it is demanded to be, or where a limit keeps it.
    pub fn rests(&self, joint: usize) -> bool {
        let Joint { tracker, target, .. } = &self.joints[joint];
        tracker.state.rests_at(target.unwrap_or(tracker.state.position))
    }

    /// Whether every joint is commanded to stand.
    pub fn stands(&self) -> bool {
        self.joints.iter().all(|joint| joint.tracker.state.velocity == 0.0)
    }

    /// The newest command, rad.
    pub fn command(&self) -> &[f32] {
        &self.command
    }

    /// Makes the next command from one demand a joint, and reports what it changed.
    pub fn step(&mut self, demands: &[Demand], mut report: impl FnMut(Act)) {
        self.clamp(demands, &mut report);
        if self.guard == Guard::Off {
            self.pass();
            return;
        }
        self.pull_into_workspace(&mut report);
        for joint in &mut self.joints {
            joint.velocity = joint.tracker.velocity(joint.target);
        }
        self.ease_off(&mut report);
        self.give_way(&mut report);
        self.stop_before_the_wall(&mut report);
        for (index, joint) in self.joints.iter_mut().enumerate() {
            joint.tracker.advance(joint.target, joint.velocity);
            self.command[index] = joint.tracker.state.position as f32;
            let lag = joint.tracker.lag(joint.target, UNNOTICED_RAD);
            if let Some((rule, excess)) = lag.filter(|(rule, _)| !REPORTED_BY_ITSELF.contains(rule)) {
                report(Act { rule, response: Response::Slow, joint: Some(index), excess });
            }
        }
    }

    /// Lets the demands be the commands: there is no filter. What holds stands still at once.
    fn pass(&mut self) {
        for (joint, command) in self.joints.iter_mut().zip(&mut self.command) {
            let position = joint.tracker.state.position;
            let next = joint.target.unwrap_or(position);
            let velocity = next - position;
            let change = velocity - joint.tracker.state.velocity;
            joint.tracker.continue_from(State { position: next, velocity, change, ..State::default() });
            *command = next as f32;
        }
    }

    /// Slows joints that have pressed too hard for a while, then holds them. They may always turn back.
    fn ease_off(&mut self, report: &mut impl FnMut(Act)) {
        let [slows, holds, _] = self.patience;
        for (index, joint) in self.joints.iter_mut().enumerate().filter(|(_, joint)| joint.effort.lasts(slows)) {
            let (tracker, way) = (&mut joint.tracker, joint.effort.value.signum());
            let (was, wanted) = (tracker.state.velocity, joint.velocity);
            if joint.target.is_none() || wanted * way <= 0.0 {
                continue;
            }
            let response = if joint.effort.lasts(holds) {
                joint.velocity = tracker.limits.braked(was);
                Response::Hold
            } else {
                let slowed = (SLOWED * tracker.within.speed).max(was * way - tracker.within.change);
                joint.velocity = way * slowed.min(wanted * way);
                Response::Slow
            };
            if joint.velocity != wanted {
                tracker.blame(Rule::Effort);
                let excess = joint.effort.excess.max(0.0);
                report(Act { rule: Rule::Effort, response, joint: Some(index), excess });
            }
        }
    }

    /// Brakes an arm whose tool would press on against a force that has been too large for a while.
    fn give_way(&mut self, report: &mut impl FnMut(Act)) {
        for index in 0..self.forces.len() {
            let Force { link, force, load, .. } = self.forces[index];
            if !load.lasts(self.patience[2]) {
                continue;
            }
            let force = self.body.base_from_link(&self.command, link, force);
            let here = self.kinematics.tool_position(&self.command);
            for (posture, joint) in self.posture.iter_mut().zip(&self.joints) {
                *posture = (joint.tracker.state.position + joint.velocity) as f32;
            }
            let next = self.kinematics.tool_position(&self.posture);
            let way = array::from_fn(|axis| next[axis] - here[axis]);
            // Written so that what is not a number presses.
            if dot(way, force) >= 0.0 {
                continue;
            }
            let mut changed = false;
            for joint in &mut self.joints {
                let braked = joint.tracker.limits.braked(joint.tracker.state.velocity);
                changed |= braked != joint.velocity;
                joint.velocity = braked;
                joint.tracker.blame(Rule::Force);
            }
            if changed {
                let excess = load.excess.max(0.0);
                report(Act { rule: Rule::Force, response: Response::Hold, joint: None, excess });
            }
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
                Demand::To(position) if position.is_finite() && self.guard == Guard::Off => Some(position),
                Demand::To(position) if position.is_finite() => {
                    let target = position.clamp(joint.tracker.within.low, joint.tracker.within.high);
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
        let Workspace { min, max } = self.left;
        let way: [f32; 3] = array::from_fn(|axis| {
            let inset = INSET_M.min((max[axis] - min[axis]) / 4.0);
            // No `clamp`: two drivers may leave nothing at all.
            tool[axis].max(min[axis] + inset).min(max[axis] - inset) - tool[axis]
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
                    *target = moved.clamp(joint.tracker.within.low, joint.tracker.within.high);
                }
            }
        }
    }

    /// Brakes now if the arm could not come to rest inside the workspace and clear of what is forbidden after one more
    /// tick as chosen. As that held after the tick before, braking keeps the tool inside.
    fn stop_before_the_wall(&mut self, report: &mut impl FnMut(Act)) {
        let ticks =
            self.joints.iter().map(|joint| joint.tracker.limits.braking_ticks(joint.velocity)).fold(0.0, f64::max);
        if self.joints.iter().all(|joint| joint.velocity == 0.0) {
            return;
        }
        self.posture.copy_from_slice(&self.command);
        // No further than it is.
        let allowed = self.depths().map(at_least_unnoticed);
        let stride = (ticks / CHECKS).ceil().max(1.0);
        let mut tick = 0.0;
        loop {
            for (posture, joint) in self.posture.iter_mut().zip(&self.joints) {
                let next = joint.tracker.state.position + joint.velocity;
                *posture = (next + joint.tracker.limits.braking_travel(joint.velocity, tick)) as f32;
            }
            let depths = self.depths();
            if let Some(place) = (0..PLACES.len()).find(|&place| depths[place] > allowed[place]) {
                let (rule, excess) = (PLACES[place], depths[place]);
                let mut changed = false;
                for joint in self.joints.iter_mut() {
                    let braked = joint.tracker.limits.braked(joint.tracker.state.velocity);
                    changed |= braked != joint.velocity;
                    joint.velocity = braked;
                    joint.tracker.blame(rule);
                }
                if changed {
                    report(Act { rule, response: Response::Hold, joint: None, excess });
                }
                return;
            }
            if tick >= ticks {
                return;
            }
            tick = (tick + stride).min(ticks);
        }
    }

    /// How far the posture is in the wrong, metres, one value for each of [`PLACES`].
    fn depths(&mut self) -> [f64; PLACES.len()] {
        let more = self.within.iter().flat_map(|within| &within.forbidden);
        let [forbidden, collision, theirs] = self.body.depths(&self.posture, more);
        let tool = self.kinematics.tool_position(&self.posture);
        [outside(&self.workspace, tool), forbidden, collision, outside(&self.left, tool), theirs]
    }

    /// How far the tool may be outside: no further than it is.
    fn allowed_outside(&mut self) -> f64 {
        self.posture.copy_from_slice(&self.command);
        at_least_unnoticed(self.outside())
    }

    fn outside_at_targets(&mut self) -> f64 {
        self.posture_at_targets();
        self.outside()
    }

    fn posture_at_targets(&mut self) {
        for (posture, joint) in self.posture.iter_mut().zip(&self.joints) {
            *posture = joint.target.unwrap_or(joint.tracker.state.position) as f32;
        }
    }

    /// How far the tool is outside what is left of the workspace in `posture`, metres; infinite if that is unknown.
    fn outside(&self) -> f64 {
        outside(&self.left, self.kinematics.tool_position(&self.posture))
    }
}

fn outside(Workspace { min, max }: &Workspace, tool: [f32; 3]) -> f64 {
    if tool.iter().any(|value| !value.is_finite()) {
        return f64::INFINITY;
    }
    let beyond = |axis: usize| f64::from((min[axis] - tool[axis]).max(tool[axis] - max[axis]));
    (0..3).map(beyond).fold(0.0, f64::max)
}

/// What is allowed of a place where the robot is that deep in the wrong.
fn at_least_unnoticed(depth: f64) -> f64 {
    if depth.is_finite() { depth.max(UNNOTICED_M) } else { UNNOTICED_M }
}

fn dot(a: [f32; 3], b: [f32; 3]) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

#[cfg(test)]
mod tests;
