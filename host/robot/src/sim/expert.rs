//! A scripted teacher. It sees the true state of the simulation, which no skill and no model does, and says what the arm
//! should do next. Only [`demonstrations`](super::demonstrations) use it.
//!
//! The expert is Markov: what it says depends on the present state alone, so that it can be asked about any state, those
//! that a learner blundered into included (Ross et al., "A Reduction of Imitation Learning and Structured Prediction to
//! No-Regret Online Learning", 2011).

use rapier3d::math::Vector;

use super::arm::{self, BLOCK, GRIPPER, GRIPPER_OPEN, GRIPPER_PARALLEL, HOME, JOINTS};
use super::task::Task;
use super::world::{BOWL_RADIUS, Snapshot};

/// What the expert needs to know of a state, and carries forward when it plans.
#[derive(Debug, Clone, Copy)]
pub struct State {
    /// rad.
    pub joints: [f32; JOINTS],
    /// Middle of the block that the task is about, metres.
    pub block: Vector,
    /// Middle of the bowl, metres.
    pub bowl: [f32; 2],
}

impl State {
    /// The state of a simulation, or `None` if the task's block is not on the table.
    pub fn of(snapshot: &Snapshot, joints: &[f32], task: Task) -> Option<Self> {
        let (_, pose) = snapshot.blocks.iter().find(|(colour, _)| *colour == task.colour())?;
        Some(Self { joints: joints.try_into().ok()?, block: pose.translation, bowl: snapshot.bowl })
    }
}

/// Height of the tool centre point over the table, metres: while it travels, over the middle of the bowl, at the grasp
/// and at the end of a touch (2 mm below the tips, which stand 10 mm beyond it, meet the block).
const TRAVEL: f32 = 0.085;
const OVER_BOWL: f32 = 0.075;
const GRASP: f32 = 0.0125;
const TOUCH: f32 = BLOCK + 0.010 - 0.006;

/// Where in the hand things are, along the tool's y axis, metres: a block that is about to be gripped lies midway
/// between the open jaws, a gripped one between the parallel ones, and the closed tips meet on the fixed jaw's side.
const BETWEEN_OPEN: f32 = 0.0145;
const BETWEEN_CLOSED: f32 = 0.0;
const AT_TIPS: f32 = -BLOCK / 2.0;

/// A hand on a block commands a little more than the block lets it close.
const SQUEEZE: f32 = 0.16;
const CLOSED: f32 = 0.10;

/// Gripper angles at which a block is surely held, and at which it may be held by its edges, rad.
const HELD: f32 = GRIPPER_PARALLEL + 0.03;
const PINCHED: f32 = GRIPPER_PARALLEL + 0.19;

/// Share of a step by which the jaws trail their command.
const JAW_LAG: f32 = 0.35;

/// How near its foot the hand still points down comfortably, metres.
const NEAREST: f32 = 0.125;

/// Speed limits of the plan: joints (rad/s), gripper (rad/s), hand up and down and away from the foot (m/s).
const JOINT_SPEED: f32 = 1.4;
const GRIPPER_SPEED: f32 = 2.2;
const VERTICAL_SPEED: f32 = 0.16;
const RADIAL_SPEED: f32 = 0.16;

/// A task's plan as rows of joint positions (rad), one every `period` seconds, starting one period from now.
pub fn plan(task: Task, mut state: State, rows: usize, period: f32) -> Vec<[f32; JOINTS]> {
    (0..rows)
        .map(|_| {
            let next = step(task, &state, period);
            state = follow(&state, next);
            next
        })
        .collect()
}

/// Where the arm should be one period from now.
fn step(task: Task, state: &State, period: f32) -> [f32; JOINTS] {
    let goal = match task {
        Task::Touch(_) => touch(state, period),
        Task::PlaceInBowl(_) => place_in_bowl(state, period),
    };
    let mut next = state.joints;
    for (index, (joint, goal)) in next.iter_mut().zip(goal).enumerate() {
        let most = period * if index == GRIPPER { GRIPPER_SPEED } else { JOINT_SPEED };
        *joint += (goal - *joint).clamp(-most, most);
    }
    next
}

fn touch(state: &State, period: f32) -> [f32; JOINTS] {
    approach(state, state.block, AT_TIPS, TOUCH, CLOSED, period)
}

fn place_in_bowl(state: &State, period: f32) -> [f32; JOINTS] {
    let [_, _, _, _, _, gripper] = state.joints;
    let tool = arm::tool_pose(&state.joints);
    let block = tool.inverse_transform_point(state.block);
    let in_bowl = from_bowl(state, state.block) < BOWL_RADIUS && state.block.z < 0.04;
    // Between the jaws, with the jaws on it.
    let between = between_jaws(block);
    let gripped = between && gripper < PINCHED;

    if in_bowl && !gripped {
        return retreat(state, period);
    }
    if gripped {
        return carry(state, tool.translation, period);
    }
    if between && tool.translation.z < GRASP + 0.004 && state.block.z < BLOCK {
        let here = Vector::new(tool.translation.x, tool.translation.y, GRASP);
        return reach(state, here, BETWEEN_CLOSED, SQUEEZE, period);
    }
    approach(state, state.block, BETWEEN_OPEN, GRASP, GRIPPER_OPEN, period)
}

/// Over `target` at travelling height, then straight down on it.
fn approach(state: &State, target: Vector, lateral: f32, depth: f32, gripper: f32, period: f32) -> [f32; JOINTS] {
    let tool = arm::tool_pose(&state.joints);
    let hand = tool.transform_point(Vector::new(0.0, lateral, 0.0));
    let miss = (hand.x - target.x).hypot(hand.y - target.y);
    let upright = tool.transform_vector(Vector::X).z < -0.985;
    let ready = upright && (state.joints[GRIPPER] - gripper).abs() < 0.12;
    // A cone over the target: the nearer to its axis, the lower the hand may be.
    let floor = if ready { depth + ((miss - 0.008) * 4.0).clamp(0.0, TRAVEL - depth) } else { TRAVEL };
    let height = lower(hand.z, floor, period);
    reach(state, Vector::new(target.x, target.y, height), lateral, gripper, period)
}

/// With the block in the hand: up, over the bowl, open.
fn carry(state: &State, tool: Vector, period: f32) -> [f32; JOINTS] {
    let away = from_bowl(state, state.block);
    if away < 0.014 && tool.z < OVER_BOWL + 0.02 {
        let here = Vector::new(state.bowl[0], state.bowl[1], tool.z);
        return reach(state, here, BETWEEN_CLOSED, GRIPPER_OPEN, period);
    }
    if tool.z < TRAVEL - 0.025 && away > 0.03 {
        // Straight up first: neighbours and the rim are near. The jaws finish closing before the hand leaves.
        let firm = 1.0 - ((state.joints[GRIPPER] - HELD) / (PINCHED - HELD)).clamp(0.0, 0.85);
        let up = Vector::new(tool.x, tool.y, lower(tool.z, TRAVEL, firm * period));
        return reach(state, up, BETWEEN_CLOSED, SQUEEZE, period);
    }
    let floor = OVER_BOWL + ((away - 0.012) * 2.0).clamp(0.0, TRAVEL - OVER_BOWL);
    let over = Vector::new(state.bowl[0], state.bowl[1], lower(tool.z, floor, period));
    reach(state, over, BETWEEN_CLOSED, SQUEEZE, period)
}

/// The job is done: up with an open hand, then home.
fn retreat(state: &State, period: f32) -> [f32; JOINTS] {
    let tool = arm::tool_pose(&state.joints).translation;
    let near_bowl = from_bowl(state, tool) < 0.05;
    if near_bowl && tool.z < TRAVEL + 0.015 {
        let up = Vector::new(tool.x, tool.y, lower(tool.z, TRAVEL + 0.04, period));
        return reach(state, up, BETWEEN_CLOSED, GRIPPER_OPEN, period);
    }
    HOME
}

/// Whether a point of the tool frame lies where a gripped block's middle does.
fn between_jaws(point: Vector) -> bool {
    point.x.abs() < 0.02 && point.z.abs() < 0.014 && (-0.012..0.03).contains(&point.y)
}

fn from_bowl(state: &State, point: Vector) -> f32 {
    (point.x - state.bowl[0]).hypot(point.y - state.bowl[1])
}

/// Height one period later on the way to `goal`.
fn lower(height: f32, goal: f32, period: f32) -> f32 {
    let most = VERTICAL_SPEED * period;
    height + (goal - height).clamp(-most, most)
}

/// One step of a point of the hand towards `target` around the arm's foot: turning and reaching at limited speeds, at the
/// target's height at once.
fn reach(state: &State, target: Vector, lateral: f32, gripper: f32, period: f32) -> [f32; JOINTS] {
    let hand = arm::tool_pose(&state.joints).transform_point(Vector::new(0.0, lateral, 0.0));
    let towards = |now: f32, goal: f32, speed: f32| now + (goal - now).clamp(-speed * period, speed * period);
    let angle = towards(hand.y.atan2(hand.x), target.y.atan2(target.x), JOINT_SPEED);
    let radius = towards(hand.x.hypot(hand.y), target.x.hypot(target.y), RADIAL_SPEED);
    // From where a disturbance threw the hand, the next point may be out of reach: then it is the nearest one that is not.
    let reachable = |radius: f32| {
        arm::reach_down(Vector::new(radius * angle.cos(), radius * angle.sin(), target.z), lateral, gripper)
    };
    (0..20).find_map(|tries| reachable(radius.max(NEAREST) - 0.01 * tries as f32)).unwrap_or(HOME)
}

/// The state after a step, for planning: a gripped block moves with the hand and stops the jaws, one that is let go
/// falls.
fn follow(state: &State, next: [f32; JOINTS]) -> State {
    let (before, after) = (arm::tool_pose(&state.joints), arm::tool_pose(&next));
    let mut joints = next;
    joints[GRIPPER] += JAW_LAG * (state.joints[GRIPPER] - next[GRIPPER]);
    let mut block = state.block;
    let local = before.inverse_transform_point(block);
    if between_jaws(local) && joints[GRIPPER] < HELD {
        joints[GRIPPER] = joints[GRIPPER].max(GRIPPER_PARALLEL);
        block = after.transform_point(Vector::new(local.x, BETWEEN_CLOSED, local.z));
    } else if block.z > BLOCK {
        block.z = if from_bowl(state, block) < BOWL_RADIUS { 0.0165 } else { BLOCK / 2.0 };
    }
    State { joints, block, ..*state }
}
