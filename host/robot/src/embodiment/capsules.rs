//! The robot's shape: capsules on a chain of links, and how deep they are in each other or in forbidden boxes.
//!
//! Nothing here allocates after [`Body::new`], and its work depends on the embodiment alone.

use std::array;

use crate::embodiment::{Embodiment, Workspace};

/// Steps of the search for the point of a segment that is nearest to a box: each leaves two thirds of the segment, so
/// that a capsule of a metre is placed to 0.1 mm.
const SEARCH: usize = 24;

type Point = [f32; 3];

/// `base_from_link`: axes as columns, then the origin, metres.
#[derive(Debug, Clone, Copy)]
struct Pose {
    axes: [Point; 3],
    origin: Point,
}

/// A joint and the link that it carries, in the frame of the joint before.
struct Link {
    origin: Point,
    axis: Point,
    zero: f32,
}

struct Capsule {
    /// Index into the poses; 0 is the base, `i + 1` the link that joint `i` carries.
    link: usize,
    ends: [Point; 2],
    radius: f32,
}

pub(crate) struct Body {
    links: Vec<Link>,
    capsules: Vec<Capsule>,
    pairs: Vec<[usize; 2]>,
    forbidden: Vec<Workspace>,
    poses: Vec<Pose>,
    /// Both ends of each capsule in the base frame.
    placed: Vec<[Point; 2]>,
}

impl Body {
    /// `embodiment` has been checked: what its capsules and pairs name is there.
    pub fn new(embodiment: &Embodiment) -> Self {
        let link = |joint: &crate::embodiment::Joint| {
            let mount = joint.mount.unwrap_or_default();
            Link { origin: mount.origin, axis: mount.axis, zero: mount.zero }
        };
        let capsule = |it: &crate::embodiment::Capsule| Capsule {
            link: it.link.as_ref().and_then(|name| embodiment.joint_index(name)).map_or(0, |index| index + 1),
            ends: [it.from, it.to],
            radius: it.radius,
        };
        let index = |name: &String| embodiment.capsules.iter().position(|it| &it.name == name);
        let pair = |[a, b]: &[String; 2]| Some([index(a)?, index(b)?]);
        Self {
            links: embodiment.joints.iter().map(link).collect(),
            capsules: embodiment.capsules.iter().map(capsule).collect(),
            pairs: embodiment.collisions.iter().filter_map(pair).collect(),
            forbidden: embodiment.forbidden.clone(),
            poses: vec![Pose { axes: IDENTITY, origin: [0.0; 3] }; embodiment.joints.len() + 1],
            placed: vec![[[0.0; 3]; 2]; embodiment.capsules.len()],
        }
    }

    /// How deep the robot would be at worst in a forbidden box, in itself, and in one of `more` boxes, metres; at most 0:
    /// not at all.
    pub fn depths<'a>(&mut self, posture: &[f32], more: impl Iterator<Item = &'a Workspace> + Clone) -> [f64; 3] {
        if self.pairs.is_empty() && self.forbidden.is_empty() && more.clone().next().is_none() {
            return [f64::NEG_INFINITY; 3];
        }
        self.place(posture);
        let mut depths = [f32::NEG_INFINITY; 3];
        for (capsule, ends) in self.capsules.iter().zip(&self.placed) {
            let deep = |forbidden: &Workspace| capsule.radius - from_box(*ends, forbidden);
            depths[0] = self.forbidden.iter().map(deep).fold(depths[0], f32::max);
            depths[2] = more.clone().map(deep).fold(depths[2], f32::max);
        }
        for &[a, b] in &self.pairs {
            let apart = between(self.placed[a], self.placed[b]);
            depths[1] = depths[1].max(self.capsules[a].radius + self.capsules[b].radius - apart);
        }
        depths.map(f64::from)
    }

    /// A vector in the frame of the link that a joint carries, in the base frame.
    pub fn base_from_link(&mut self, posture: &[f32], joint: usize, vector: Point) -> Point {
        self.place(posture);
        rotated(&self.poses[joint + 1].axes, vector)
    }

    fn place(&mut self, posture: &[f32]) {
        for (index, (link, angle)) in self.links.iter().zip(posture).enumerate() {
            let parent = self.poses[index];
            let turn = rotation(link.axis, link.zero + angle);
            let axes = turn.map(|axis| rotated(&parent.axes, axis));
            self.poses[index + 1] = Pose { axes, origin: parent.at(link.origin) };
        }
        for (capsule, placed) in self.capsules.iter().zip(&mut self.placed) {
            *placed = capsule.ends.map(|end| self.poses[capsule.link].at(end));
        }
    }
}

const IDENTITY: [Point; 3] = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];

impl Pose {
    fn at(&self, point: Point) -> Point {
        let turned = rotated(&self.axes, point);
        array::from_fn(|axis| self.origin[axis] + turned[axis])
    }
}

fn rotated(axes: &[Point; 3], point: Point) -> Point {
    array::from_fn(|row| axes[0][row] * point[0] + axes[1][row] * point[1] + axes[2][row] * point[2])
}

/// Columns of the rotation about a unit axis by an angle, rad (Rodrigues 1840).
fn rotation([x, y, z]: Point, angle: f32) -> [Point; 3] {
    let (s, c) = angle.sin_cos();
    let t = 1.0 - c;
    [
        [c + x * x * t, y * x * t + z * s, z * x * t - y * s],
        [x * y * t - z * s, c + y * y * t, z * y * t + x * s],
        [x * z * t + y * s, y * z * t - x * s, c + z * z * t],
    ]
}

fn along([from, to]: [Point; 2], share: f32) -> Point {
    array::from_fn(|axis| from[axis] + share * (to[axis] - from[axis]))
}

/// How far a segment is from a box, metres; inside it is as far below 0 as its deepest point is from the nearest side.
///
/// The signed distance from a box is convex, and so is its course along a segment: a ternary search finds the least.
fn from_box(segment: [Point; 2], place: &Workspace) -> f32 {
    let distance = |share: f32| {
        let point = along(segment, share);
        let beyond: Point = array::from_fn(|axis| (place.min[axis] - point[axis]).max(point[axis] - place.max[axis]));
        let outside = norm(beyond.map(|by| by.max(0.0)));
        if outside > 0.0 { outside } else { beyond.into_iter().fold(f32::NEG_INFINITY, f32::max) }
    };
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..SEARCH {
        let third = (high - low) / 3.0;
        if distance(low + third) < distance(high - third) { high -= third } else { low += third }
    }
    distance(low).min(distance(high)).min(distance(0.0)).min(distance(1.0))
}

/// How far two segments are apart, metres (Ericson 2005, Real-Time Collision Detection, 5.1.9).
fn between(a: [Point; 2], b: [Point; 2]) -> f32 {
    let (d1, d2, r) = (minus(a[1], a[0]), minus(b[1], b[0]), minus(a[0], b[0]));
    let (aa, ee, f, c, bb) = (dot(d1, d1), dot(d2, d2), dot(d2, r), dot(d1, r), dot(d1, d2));
    let denominator = aa * ee - bb * bb;
    let mut s =
        if denominator > f32::EPSILON * aa * ee { ((bb * f - c * ee) / denominator).clamp(0.0, 1.0) } else { 0.0 };
    let mut t = if ee > 0.0 { (bb * s + f) / ee } else { 0.0 };
    if !(0.0..=1.0).contains(&t) || ee == 0.0 {
        t = t.clamp(0.0, 1.0);
        s = if aa > 0.0 { ((bb * t - c) / aa).clamp(0.0, 1.0) } else { 0.0 };
    }
    norm(minus(along(a, s), along(b, t)))
}

fn minus(a: Point, b: Point) -> Point {
    array::from_fn(|axis| a[axis] - b[axis])
}

fn dot(a: Point, b: Point) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn norm(a: Point) -> f32 {
    dot(a, a).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::arm;
    use rapier3d::math::Vector;

    #[test]
    fn the_embodiment_files_chain_of_links_is_the_simulated_arms() {
        let robot = Embodiment::so101();
        let mut body = Body::new(&robot);
        for posture in [arm::HOME, [0.4, 0.3, -0.2, 0.9, -0.5, 0.3], [-1.2, -0.9, 1.1, -0.7, 2.0, 1.5]] {
            body.place(&posture);
            for (pose, link) in body.poses[1..].iter().zip(arm::forward(&posture)) {
                for point in [[0.0; 3], [0.1, 0.0, 0.0], [0.0, 0.1, 0.0]] {
                    let expected: Point = link.transform_point(Vector::from(point)).into();
                    assert!(norm(minus(pose.at(point), expected)) < 1e-5);
                }
            }
        }
    }

    #[test]
    fn the_bundled_arm_is_clear_of_itself_wherever_it_works_and_not_when_it_folds_onto_itself() {
        let mut body = Body::new(&Embodiment::so101());
        assert!(body.depths(&arm::HOME, [].iter())[1] < 0.0);
        for radius in [0.145, 0.2, 0.245] {
            for height in [0.012, 0.05, 0.09, 0.13] {
                let down = arm::reach_down(Vector::new(radius, 0.0, height), 0.0, 0.7).unwrap();
                let depth = body.depths(&down, [].iter())[1];
                assert!(depth < -0.005, "{depth} m at radius {radius} m, height {height} m");
            }
        }
        // The hand points back at the upper arm, or down into the foot.
        assert!(body.depths(&[0.0, -0.2, 1.6, 1.6, 0.0, 0.3], [].iter())[1] > 0.0);
    }

    #[test]
    fn segments_are_as_far_apart_as_their_nearest_points() {
        let a = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]];
        for (b, expected) in [
            ([[0.5, 0.3, -1.0], [0.5, 0.3, 1.0]], 0.3),
            ([[0.2, 0.4, 0.0], [0.8, 0.4, 0.0]], 0.4),
            ([[1.3, 0.4, 0.0], [2.0, 0.4, 0.0]], 0.5),
            ([[0.4, 0.0, 0.7], [0.4, 0.0, 0.7]], 0.7),
        ] {
            assert!((between(a, b) - expected).abs() < 1e-5, "{}", between(a, b));
            assert!((between(b, a) - expected).abs() < 1e-5, "{}", between(b, a));
        }
    }

    #[test]
    fn a_segment_through_a_box_is_as_deep_as_its_deepest_point() {
        let place = Workspace { min: [-0.1, -0.2, -0.3], max: [0.1, 0.2, 0.3] };
        let through = from_box([[-1.0, 0.15, 0.0], [1.0, 0.15, 0.0]], &place);
        assert!((through + 0.05).abs() < 1e-3, "{through}");
        let beside = from_box([[0.4, 0.6, 0.0], [0.4, 0.6, 1.0]], &place);
        assert!((beside - 0.5).abs() < 1e-5, "{beside}");
    }
}
