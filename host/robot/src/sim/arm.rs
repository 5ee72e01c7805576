//! The simulated arm's shape and kinematics: one table that physics, cameras and the expert share.
//!
//! Frames follow ROS REP 103. The base frame's origin is the middle of the arm's foot on the table; x points away from
//! the robot over the table, y to its left, z up. At the zero pose the upper arm points up, the forearm and the gripper
//! point forward.

use rapier3d::math::{Pose, Rotation, Vector};
use std::f32::consts::{FRAC_PI_2, PI};

/// Number of joints, in the embodiment's order.
pub const JOINTS: usize = 6;
/// The gripper's place in that order.
pub const GRIPPER: usize = 5;
/// Gripper angle at which the jaws are parallel, one [`BLOCK`] apart, rad.
pub const GRIPPER_PARALLEL: f32 = 0.339_837; // asin(BLOCK / JAW)
/// Gripper angle of an open hand that still fits between neighbouring blocks, rad.
pub const GRIPPER_OPEN: f32 = 0.76;
/// Side of a block, metres.
pub const BLOCK: f32 = 0.025;
/// Where an idle arm rests, rad.
pub const HOME: [f32; JOINTS] = [0.0, -0.60, 0.55, 1.20, 0.0, 0.10];

const UPPER_ARM: f32 = 0.116;
const FOREARM: f32 = 0.135;
const ROLL_FROM_WRIST: f32 = 0.025;
const TOOL_FROM_ROLL: f32 = 0.085;
const JAW: f32 = 0.075;
const SHOULDER: [f32; 2] = [0.03, 0.117]; // radius, height

/// An axis-aligned box in its link's frame.
#[derive(Debug, Clone, Copy)]
pub struct Cuboid {
    /// Middle, metres.
    pub centre: Vector,
    /// Half sides, metres.
    pub half: Vector,
    /// Linear RGB, 0 to 1.
    pub colour: [f32; 3],
}

/// A rigid link of the arm and the revolute joint that carries it.
#[derive(Debug, Clone)]
pub struct ArmLink {
    /// The link's frame in its parent's at joint angle zero.
    pub parent_from_link: Pose,
    /// The joint's axis in the link's frame.
    pub axis: Vector,
    /// What it looks like, and what it collides with.
    pub cuboids: Vec<Cuboid>,
    /// kg.
    pub mass: f32,
}

const PRINTED: [f32; 3] = [0.80, 0.80, 0.78];
const SERVO: [f32; 3] = [0.07, 0.07, 0.08];

fn cuboid(centre: [f32; 3], half: [f32; 3], colour: [f32; 3]) -> Cuboid {
    Cuboid { centre: Vector::from(centre), half: Vector::from(half), colour }
}

/// The fixed foot.
pub fn base() -> Vec<Cuboid> {
    vec![
        cuboid([-0.01, 0.0, 0.028], [0.05, 0.042, 0.028], PRINTED),
        cuboid([0.0, 0.0, 0.05], [0.03, 0.03, 0.014], SERVO),
    ]
}

/// The moving links from shoulder to gripper, in joint order. Link `i`'s parent is link `i - 1`, the first one's the base.
pub fn links() -> [ArmLink; JOINTS] {
    let link = |xyz: [f32; 3], axis: Vector, mass: f32, cuboids: Vec<Cuboid>| ArmLink {
        parent_from_link: Pose::from_translation(Vector::from(xyz)),
        axis,
        cuboids,
        mass,
    };
    let mut links = [
        link(
            [0.0, 0.0, 0.064],
            Vector::Z,
            0.15,
            vec![
                cuboid([0.008, 0.0, 0.026], [0.028, 0.026, 0.024], PRINTED),
                cuboid([0.03, 0.0, 0.053], [0.016, 0.03, 0.016], SERVO),
            ],
        ),
        link(
            [SHOULDER[0], 0.0, SHOULDER[1] - 0.064],
            Vector::Y,
            0.12,
            vec![
                cuboid([0.0, 0.0, 0.055], [0.014, 0.017, 0.052], PRINTED),
                cuboid([0.0, 0.0, UPPER_ARM], [0.018, 0.022, 0.018], SERVO),
            ],
        ),
        link([0.0, 0.0, UPPER_ARM], Vector::Y, 0.10, vec![cuboid([0.066, 0.0, 0.0], [0.062, 0.014, 0.013], PRINTED)]),
        link([FOREARM, 0.0, 0.0], Vector::Y, 0.06, vec![cuboid([0.004, 0.0, 0.0], [0.017, 0.018, 0.017], SERVO)]),
        link(
            [ROLL_FROM_WRIST, 0.0, 0.0],
            Vector::X,
            0.08,
            vec![
                cuboid([0.010, 0.0, 0.0], [0.014, 0.027, 0.014], PRINTED),
                cuboid([0.0585, -BLOCK / 2.0 - 0.004, 0.0], [0.0365, 0.004, 0.011], PRINTED),
            ],
        ),
        link(
            [0.020, BLOCK / 2.0, 0.0],
            Vector::Z,
            0.03,
            vec![cuboid([JAW / 2.0, 0.004, 0.0], [JAW / 2.0, 0.004, 0.011], SERVO)],
        ),
    ];
    links[GRIPPER].parent_from_link.rotation = Rotation::from_axis_angle(Vector::Z, -GRIPPER_PARALLEL);
    links
}

/// `base_from_link` of every link for joint positions in rad.
pub fn forward(positions: &[f32]) -> [Pose; JOINTS] {
    let mut parent = Pose::IDENTITY;
    let mut poses = [Pose::IDENTITY; JOINTS];
    for ((link, &angle), pose) in links().iter().zip(positions).zip(&mut poses) {
        parent = parent * link.parent_from_link * Pose::from_rotation(Rotation::from_axis_angle(link.axis, angle));
        *pose = parent;
    }
    poses
}

/// `base_from_tool` for joint positions in rad. The tool centre point lies between the closed jaws' tips; x points out
/// of the gripper, y from the fixed jaw to the moving one.
pub fn tool_pose(positions: &[f32]) -> Pose {
    let [pan, lift, elbow, wrist, roll, _] = std::array::from_fn(|i| positions.get(i).copied().unwrap_or(0.0));
    let pitch = lift + elbow + wrist;
    let (radius, height) = (
        SHOULDER[0]
            + UPPER_ARM * lift.sin()
            + FOREARM * (lift + elbow).cos()
            + (ROLL_FROM_WRIST + TOOL_FROM_ROLL) * pitch.cos(),
        SHOULDER[1] + UPPER_ARM * lift.cos()
            - FOREARM * (lift + elbow).sin()
            - (ROLL_FROM_WRIST + TOOL_FROM_ROLL) * pitch.sin(),
    );
    let rotation = Rotation::from_axis_angle(Vector::Z, pan)
        * Rotation::from_axis_angle(Vector::Y, pitch)
        * Rotation::from_axis_angle(Vector::X, roll);
    Pose::from_parts(Vector::new(radius * pan.cos(), radius * pan.sin(), height), rotation)
}

/// The tool centre point in the base frame, metres: what the workspace limit of the safety filter watches.
pub fn tool_position(positions: &[f32]) -> [f32; 3] {
    tool_pose(positions).translation.into()
}

/// Joint positions that put a point of the hand at `target` (base frame, metres) with the gripper pointing straight
/// down; the point lies `lateral` metres from the tool centre point along the tool's y axis.
///
/// `None` where the arm does not reach. Two-link inverse kinematics by the law of cosines, elbow up.
pub fn reach_down(target: Vector, lateral: f32, gripper: f32) -> Option<[f32; JOINTS]> {
    let distance = target.x.hypot(target.y);
    if distance <= lateral.abs() {
        return None;
    }
    // Pointing down at roll 0 the tool's y axis is the base's y axis turned by the pan angle.
    let pan = target.y.atan2(target.x) - (lateral / distance).asin();
    let radius = (distance * distance - lateral * lateral).sqrt() - SHOULDER[0];
    let height = target.z + ROLL_FROM_WRIST + TOOL_FROM_ROLL - SHOULDER[1];
    let reach_squared = radius * radius + height * height;
    let reach = reach_squared.sqrt();
    let elbow_cosine = (UPPER_ARM * UPPER_ARM + FOREARM * FOREARM - reach_squared) / (2.0 * UPPER_ARM * FOREARM);
    let shoulder_cosine = (UPPER_ARM * UPPER_ARM + reach_squared - FOREARM * FOREARM) / (2.0 * UPPER_ARM * reach);
    if !(-1.0..=1.0).contains(&elbow_cosine) || !(-1.0..=1.0).contains(&shoulder_cosine) {
        return None;
    }
    let lift = FRAC_PI_2 - height.atan2(radius) - shoulder_cosine.acos();
    let elbow = PI - elbow_cosine.acos() - FRAC_PI_2;
    Some([pan, lift, elbow, FRAC_PI_2 - lift - elbow, 0.0, gripper])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Embodiment;

    #[test]
    fn the_jaws_are_parallel_and_one_block_apart_at_the_parallel_angle() {
        assert!((GRIPPER_PARALLEL - (BLOCK / JAW).asin()).abs() < 1e-5);
        let poses = forward(&[0.0, 0.0, 0.0, 0.0, 0.0, GRIPPER_PARALLEL]);
        let tip = poses[GRIPPER].transform_point(Vector::new(JAW, 0.0, 0.0));
        let tool = tool_pose(&[0.0; JOINTS]);
        assert!((tool.inverse_transform_point(tip).y - BLOCK / 2.0).abs() < 1e-5);
    }

    #[test]
    fn the_closed_form_tool_pose_agrees_with_the_chain_of_links() {
        let positions = [0.4, 0.3, -0.2, 0.9, -0.5, 0.3];
        let chain = forward(&positions)[4] * Pose::from_translation(Vector::new(TOOL_FROM_ROLL, 0.0, 0.0));
        let closed = tool_pose(&positions);
        assert!(chain.translation.distance(closed.translation) < 1e-5);
        assert!(chain.rotation.angle_between(closed.rotation) < 1e-3);
    }

    #[test]
    fn reaching_down_puts_the_hand_where_it_was_asked_to_be() {
        let robot = Embodiment::so101();
        for (radius, angle, height, lateral) in [
            (0.15f32, -1.0f32, 0.016, 0.0145),
            (0.25, 0.9, 0.016, 0.0145),
            (0.2, 0.0, 0.09, -0.0125),
            (0.24, 0.5, 0.08, 0.0),
        ] {
            let target = Vector::new(radius * angle.cos(), radius * angle.sin(), height);
            let positions = reach_down(target, lateral, 0.5).unwrap();
            let reached = tool_pose(&positions).transform_point(Vector::new(0.0, lateral, 0.0));
            assert!(reached.distance(target) < 1e-4, "{reached} is not {target}");
            for (joint, position) in robot.joints.iter().zip(positions) {
                assert!((joint.position[0]..=joint.position[1]).contains(&position), "{} at {position}", joint.name);
            }
        }
        assert_eq!(reach_down(Vector::new(0.5, 0.0, 0.02), 0.0, 0.5), None);
    }
}
