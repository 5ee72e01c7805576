//! The physics: arm, table, blocks and bowl as rapier3d bodies. Repeats bit for bit from a seed on one machine.

use rapier3d::prelude::*;

use super::arm::{self, BLOCK, Cuboid, GRIPPER, JOINTS};
use super::scene::{Colour, Scene};
use crate::embodiment::Embodiment;
use crate::observation::Measurement;

/// Inner radius of the bowl, metres.
pub const BOWL_RADIUS: f32 = 0.045;
/// Height of the bowl's rim, metres.
pub const BOWL_HEIGHT: f32 = 0.028;
const BOWL_WALL: f32 = 0.004;
const BOWL_SEGMENTS: usize = 16;

const STEPS_PER_TICK: usize = 2;
/// The servos' position gain, N m/rad, and damping, N m s/rad, strong enough that an arm of half a kilogram follows its
/// command within about 10 ms.
const ARM_GAINS: [f32; 2] = [60.0, 2.0];
/// The gripper is weaker, so that a squeezed block is held and not crushed.
const GRIPPER_GAINS: [f32; 2] = [2.5, 0.08];

/// Where everything is at one moment: what cameras draw.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// `base_from_link`, in joint order.
    pub links: [Pose; JOINTS],
    /// Colour and `base_from_block`.
    pub blocks: Vec<(Colour, Pose)>,
    /// Middle of the bowl, metres.
    pub bowl: [f32; 2],
}

/// Colliders and bodies of one simulated table.
pub struct World {
    physics: PhysicsWorld,
    links: [RigidBodyHandle; JOINTS],
    joints: [MultibodyJointHandle; JOINTS],
    blocks: Vec<(Colour, RigidBodyHandle)>,
    bowl: [f32; 2],
    effort_limits: [f32; JOINTS],
    commanded: [f32; JOINTS],
    /// Blocks in the order in which the arm first touched them.
    touched: Vec<Colour>,
    /// Highest that each block's middle ever was, metres.
    highest: Vec<f32>,
}

fn collider(cuboid: &Cuboid) -> ColliderBuilder {
    ColliderBuilder::cuboid(cuboid.half.x, cuboid.half.y, cuboid.half.z).translation(cuboid.centre).density(0.0)
}

impl World {
    /// Puts the arm at `start` (rad) over a scene.
    pub fn new(embodiment: &Embodiment, scene: &Scene, start: [f32; JOINTS]) -> Self {
        let mut physics = PhysicsWorld::new();
        physics.gravity = Vector::new(0.0, 0.0, -9.81);
        physics.integration_parameters.dt = 1.0 / (embodiment.control_hz * STEPS_PER_TICK as f32);

        // Blocks measure centimetres; at the default scale of metres a gripped one creeps out of the jaws.
        physics.integration_parameters.length_unit = 0.1;
        physics.insert_collider(
            ColliderBuilder::cuboid(0.6, 0.6, 0.05).translation(Vector::new(0.2, 0.0, -0.05)).friction(0.7),
            None,
        );
        let base = physics.insert_body(RigidBodyBuilder::fixed());
        for cuboid in arm::base() {
            physics.insert_collider(collider(&cuboid), Some(base));
        }

        let mut parent = base;
        let poses = arm::forward(&[0.0; JOINTS]);
        let mut links = [base; JOINTS];
        let mut joints = [MultibodyJointHandle::invalid(); JOINTS];
        for (index, link) in arm::links().iter().enumerate() {
            let inertia = Vector::splat(link.mass * 0.03 * 0.03); // of a ball of 5 cm radius: servos are compact
            let body = physics.insert_body(
                RigidBodyBuilder::dynamic()
                    .pose(poses[index])
                    // The servos' position loop carries the arm's own weight.
                    .gravity_scale(0.0)
                    .can_sleep(false)
                    .additional_mass_properties(MassProperties::new(Vector::ZERO, link.mass, inertia)),
            );
            for cuboid in &link.cuboids {
                let pad = if index + 1 >= GRIPPER { 1.2 } else { 0.5 };
                physics.insert_collider(collider(cuboid).friction(pad), Some(body));
            }
            let [stiffness, damping] = if index == GRIPPER { GRIPPER_GAINS } else { ARM_GAINS };
            let about = GenericJoint::complete_ang_frame(link.axis);
            let joint = GenericJointBuilder::new(JointAxesMask::LOCKED_REVOLUTE_AXES)
                .local_frame1(link.parent_from_link * Pose::from_rotation(about))
                .local_frame2(Pose::from_rotation(about))
                .motor_model(JointAxis::AngX, MotorModel::ForceBased)
                .motor_position(JointAxis::AngX, 0.0, stiffness, damping)
                .motor_max_force(JointAxis::AngX, embodiment.joints[index].effort)
                .contacts_enabled(false)
                .build();
            #[allow(clippy::expect_used)] // fails only for a link that already has a parent, and each is new
            let handle = physics.insert_multibody_joint(parent, body, joint).expect("a new link has no parent yet");
            (links[index], joints[index], parent) = (body, handle, body);
        }
        // The first step numbers the joint coordinates; only then can they be set. They, not the bodies' poses, are the
        // arm's state.
        physics.step();
        if let Some((multibody, _)) = physics.multibody_joints.get_mut(joints[0]) {
            multibody.set_self_contacts_enabled(false);
            multibody.apply_displacements(&start);
            multibody.forward_kinematics(&physics.bodies, false);
            multibody.update_rigid_bodies(&mut physics.bodies, true);
        }

        let blocks = scene
            .blocks
            .iter()
            .map(|block| {
                let [x, y] = block.position;
                let (body, _) = physics.insert(
                    RigidBodyBuilder::dynamic()
                        .pose(Pose::from_parts(
                            Vector::new(x, y, BLOCK / 2.0),
                            Rotation::from_axis_angle(Vector::Z, block.yaw),
                        ))
                        .can_sleep(false),
                    // Lime wood: 25 mm weigh about 8 g.
                    ColliderBuilder::cuboid(BLOCK / 2.0, BLOCK / 2.0, BLOCK / 2.0).density(530.0).friction(0.9),
                );
                (block.colour, body)
            })
            .collect::<Vec<_>>();

        let [x, y] = scene.bowl;
        let bowl = physics.insert_body(RigidBodyBuilder::fixed().translation(Vector::new(x, y, 0.0)));
        for cuboid in bowl_cuboids() {
            physics.insert_collider(
                ColliderBuilder::cuboid(cuboid.1.x, cuboid.1.y, cuboid.1.z).position(cuboid.0).friction(0.6),
                Some(bowl),
            );
        }

        let highest = vec![BLOCK / 2.0; blocks.len()];
        let effort_limits = std::array::from_fn(|index| embodiment.joints[index].effort);
        Self {
            physics,
            links,
            joints,
            blocks,
            bowl: scene.bowl,
            effort_limits,
            commanded: start,
            touched: Vec::new(),
            highest,
        }
    }

    /// Advances by one control period with these joint position commands, rad.
    pub fn advance(&mut self, command: &[f32]) {
        for (index, &target) in command.iter().enumerate().take(JOINTS) {
            self.commanded[index] = target;
            if let Some((multibody, link)) = self.physics.multibody_joints.get_mut(self.joints[index])
                && let Some(link) = multibody.link_mut(link)
            {
                let [stiffness, damping] = if index == GRIPPER { GRIPPER_GAINS } else { ARM_GAINS };
                link.joint.data.set_motor_position(JointAxis::AngX, target, stiffness, damping);
            }
        }
        for _ in 0..STEPS_PER_TICK {
            self.physics.step();
        }
        for (index, (colour, body)) in self.blocks.iter().enumerate() {
            self.highest[index] = self.highest[index].max(self.physics.bodies[*body].translation().z);
            if !self.touched.contains(colour) && self.links.iter().any(|link| self.contact(*link, *body)) {
                self.touched.push(*colour);
            }
        }
    }

    /// Joints and the wrist's wrench, as sensors would measure them now.
    pub fn measure(&self, into: &mut Measurement) {
        let Measurement { joints, samples } = into;
        [&mut joints.positions, &mut joints.velocities, &mut joints.efforts].into_iter().for_each(Vec::clear);
        for (index, handle) in self.joints.iter().enumerate() {
            let (position, velocity) =
                self.physics.multibody_joints.get(*handle).map_or((0.0, 0.0), |(multibody, link)| {
                    // The root is fixed, so the generalized velocity has one entry a joint, in joint order.
                    (
                        multibody.link(link).map_or(0.0, |link| link.joint.coords()[3]),
                        multibody.generalized_velocity()[index],
                    )
                });
            let [stiffness, damping] = if index == GRIPPER { GRIPPER_GAINS } else { ARM_GAINS };
            let limit = self.effort_limits[index];
            joints.positions.push(position);
            joints.velocities.push(velocity);
            // A servo reports the torque that its position loop asks for.
            joints
                .efforts
                .push((stiffness * (self.commanded[index] - position) - damping * velocity).clamp(-limit, limit));
        }
        samples.resize_with(1, Vec::new);
        samples[0].clear();
        samples[0].extend(self.wrench());
    }

    /// Force (N) and torque about the wrist (N m) that contacts exert on the hand, in the frame of the wrist-roll link.
    fn wrench(&self) -> [f32; 6] {
        let hand = &self.links[GRIPPER - 1..];
        let sensor = *self.physics.bodies[self.links[GRIPPER - 1]].position();
        let (mut force, mut torque) = (Vector::ZERO, Vector::ZERO);
        for pair in self.physics.contact_pairs() {
            let side = |collider: ColliderHandle| {
                self.physics.colliders[collider].parent().is_some_and(|body| hand.contains(&body))
            };
            let sign = match (side(pair.collider1), side(pair.collider2)) {
                // A contact's normal points out of the first collider, so it pushes the first one back.
                (true, false) => -1.0,
                (false, true) => 1.0,
                _ => continue,
            };
            let origin = *self.physics.colliders[pair.collider1].position();
            for manifold in pair.manifolds() {
                for point in &manifold.points {
                    let impulse = manifold.data.normal * (sign * point.data.impulse);
                    let pushed = impulse / self.physics.integration_parameters.dt;
                    force += pushed;
                    torque += (origin.transform_point(point.local_p1) - sensor.translation).cross(pushed);
                }
            }
        }
        let (force, torque) = (sensor.inverse_transform_vector(force), sensor.inverse_transform_vector(torque));
        [force.x, force.y, force.z, torque.x, torque.y, torque.z]
    }

    /// Where everything is.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            links: self.links.map(|link| *self.physics.bodies[link].position()),
            blocks: self
                .blocks
                .iter()
                .map(|(colour, body)| (*colour, *self.physics.bodies[*body].position()))
                .collect(),
            bowl: self.bowl,
        }
    }

    /// Blocks in the order in which the arm first touched them.
    pub fn touched(&self) -> &[Colour] {
        &self.touched
    }

    /// Blocks whose middle was ever higher than `height`, metres.
    pub fn lifted(&self, height: f32) -> impl Iterator<Item = Colour> {
        self.blocks
            .iter()
            .zip(&self.highest)
            .filter(move |(_, highest)| **highest > height)
            .map(|((colour, _), _)| *colour)
    }

    /// Whether that block lies in the bowl, at rest and free of the hand.
    pub fn in_bowl(&self, colour: Colour) -> bool {
        let Some((_, body)) = self.blocks.iter().find(|(candidate, _)| *candidate == colour) else { return false };
        let block = &self.physics.bodies[*body];
        let at = block.translation();
        (at.x - self.bowl[0]).hypot(at.y - self.bowl[1]) < BOWL_RADIUS
            && at.z < BOWL_HEIGHT + BLOCK / 2.0
            && block.linvel().length() < 0.02
            && !self.links.iter().any(|link| self.contact(*link, *body))
    }

    fn contact(&self, link: RigidBodyHandle, block: RigidBodyHandle) -> bool {
        let (link, block) = (&self.physics.bodies[link], &self.physics.bodies[block]);
        link.colliders().iter().any(|a| {
            block
                .colliders()
                .iter()
                .any(|b| self.physics.contact_pair(*a, *b).is_some_and(|pair| pair.has_any_active_contact()))
        })
    }
}

/// `bowl_from_cuboid` and half sides of the bowl's floor and wall.
fn bowl_cuboids() -> Vec<(Pose, Vector)> {
    let floor = (
        Pose::from_translation(Vector::Z * (BOWL_WALL / 2.0)),
        Vector::new(BOWL_RADIUS, BOWL_RADIUS, BOWL_WALL) * Vector::new(0.9, 0.9, 0.5),
    );
    let radius = BOWL_RADIUS + BOWL_WALL / 2.0;
    let half_width = (BOWL_RADIUS + BOWL_WALL) * (std::f32::consts::PI / BOWL_SEGMENTS as f32).tan();
    std::iter::once(floor)
        .chain((0..BOWL_SEGMENTS).map(|index| {
            let turn =
                Rotation::from_axis_angle(Vector::Z, std::f32::consts::TAU * index as f32 / BOWL_SEGMENTS as f32);
            let centre = turn * Vector::new(radius, 0.0, BOWL_HEIGHT / 2.0);
            (Pose::from_parts(centre, turn), Vector::new(BOWL_WALL / 2.0, half_width, BOWL_HEIGHT / 2.0))
        }))
        .collect()
}
