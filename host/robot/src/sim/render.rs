//! The cameras: a small rasteriser on the CPU. No Vulkan, no window, no thread: it is always there.
//!
//! Flat-shaded triangles with a depth buffer, four samples a pixel, and shadows cast straight onto the table, which tell
//! how high a hand hovers.

use std::f32::consts::TAU;
use std::sync::LazyLock;

use rapier3d::math::{Pose, Vector};

use super::arm::{self, BLOCK, Cuboid};
use super::world::{BOWL_HEIGHT, BOWL_RADIUS, Snapshot};
use crate::observation::Image;

/// A pinhole camera without distortion.
#[derive(Debug, Clone, Copy)]
pub struct Camera {
    /// `base_from_camera`: x to the right of the image, y down, z into the scene.
    pub base_from_camera: Pose,
    /// Vertical field of view, rad.
    pub field_of_view: f32,
}

impl Camera {
    /// Stands across the table and looks back at the robot.
    pub fn front() -> Self {
        Self {
            base_from_camera: look_at(Vector::new(0.50, 0.0, 0.44), Vector::new(0.135, 0.0, 0.035), Vector::Z),
            field_of_view: 0.74,
        }
    }

    /// Rides on the hand and looks along it to the jaws.
    pub fn wrist(snapshot: &Snapshot) -> Self {
        let hand_from_camera = look_at(Vector::new(-0.015, 0.0, 0.075), Vector::new(0.10, 0.0, 0.0), Vector::Z);
        Self { base_from_camera: snapshot.links[arm::GRIPPER - 1] * hand_from_camera, field_of_view: 1.25 }
    }
}

impl Camera {
    /// Where a point of the base frame appears in a square image, 0 to 1 from the left and from the top; `None` behind the
    /// camera or outside the image.
    pub fn project(&self, point: Vector) -> Option<[f32; 2]> {
        let seen = self.base_from_camera.inverse_transform_point(point);
        let scale = 0.5 / (self.field_of_view / 2.0).tan() / seen.z;
        let at = [0.5 + seen.x * scale, 0.5 + seen.y * scale];
        (seen.z > NEAR && at.iter().all(|side| (0.0..1.0).contains(side))).then_some(at)
    }
}

fn look_at(eye: Vector, target: Vector, up: Vector) -> Pose {
    let forward = (target - eye).normalize();
    let right = forward.cross(up).normalize();
    let down = forward.cross(right);
    Pose::from_parts(eye, rapier3d::math::Rotation::from_mat3(&rapier3d::glamx::Mat3::from_cols(right, down, forward)))
}

/// Draws what a camera sees, `width` by `height` pixels.
pub fn draw(snapshot: &Snapshot, camera: &Camera, width: u32, height: u32) -> Image {
    let mut canvas = Canvas::new(camera, width as usize, height as usize);
    canvas.table();
    let mut solids: Vec<(Pose, Cuboid)> = arm::base().into_iter().map(|cuboid| (Pose::IDENTITY, cuboid)).collect();
    for (link, pose) in arm::links().iter().zip(snapshot.links) {
        solids.extend(link.cuboids.iter().map(|cuboid| (pose, *cuboid)));
    }
    solids.extend(snapshot.blocks.iter().map(|(colour, pose)| {
        (*pose, Cuboid { centre: Vector::ZERO, half: Vector::splat(BLOCK / 2.0), colour: colour.rgb() })
    }));
    for (pose, cuboid) in &solids {
        canvas.shadow(*pose, cuboid);
    }
    canvas.bowl(snapshot.bowl);
    for (pose, cuboid) in &solids {
        canvas.cuboid(*pose, cuboid);
    }
    canvas.image()
}

/// Samples along each side of a pixel.
const SAMPLES: usize = 2;
const LIGHT: Vector = Vector::new(0.30, 0.25, 0.92); // towards the light; its length is 1 to a percent
const AMBIENT: f32 = 0.42;
const TABLE: [f32; 3] = [0.46, 0.36, 0.27];
const TABLE_LINE: [f32; 3] = [0.40, 0.31, 0.23];
const BACKGROUND: [f32; 3] = [0.16, 0.19, 0.22];
const BOWL: [f32; 3] = [0.86, 0.88, 0.90];
const SHADOW: f32 = 0.55;
const NEAR: f32 = 0.01;

struct Canvas {
    camera_from_base: Pose,
    focal: f32,
    width: usize,
    height: usize,
    colour: Vec<[f32; 3]>,
    /// 1 / depth: larger is nearer; 0 is infinitely far.
    nearness: Vec<f32>,
    shaded: Vec<bool>,
}

impl Canvas {
    fn new(camera: &Camera, width: usize, height: usize) -> Self {
        let (width, height) = (width * SAMPLES, height * SAMPLES);
        Self {
            camera_from_base: camera.base_from_camera.inverse(),
            focal: height as f32 / 2.0 / (camera.field_of_view / 2.0).tan(),
            width,
            height,
            colour: vec![BACKGROUND; width * height],
            nearness: vec![0.0; width * height],
            shaded: vec![false; width * height],
        }
    }

    /// The table's plane, by casting a ray through every sample.
    fn table(&mut self) {
        let base_from_camera = self.camera_from_base.inverse();
        let eye = base_from_camera.translation;
        let [right, down, ahead] =
            [Vector::X, Vector::Y, Vector::Z].map(|axis| base_from_camera.transform_vector(axis));
        for row in 0..self.height {
            let start = ahead + down * ((row as f32 + 0.5 - self.height as f32 / 2.0) / self.focal);
            for column in 0..self.width {
                let direction = start + right * ((column as f32 + 0.5 - self.width as f32 / 2.0) / self.focal);
                if direction.z >= -1e-4 {
                    continue;
                }
                let depth = eye.z / -direction.z;
                let (x, y) = (eye.x + depth * direction.x, eye.y + depth * direction.y);
                if !(-0.25..0.50).contains(&x) || y.abs() > 0.45 || depth <= NEAR {
                    continue;
                }
                // Planks, so that people see perspective.
                let seam = fraction(y * 12.5) < 0.03;
                let index = row * self.width + column;
                self.colour[index] = if seam { TABLE_LINE } else { TABLE };
                self.nearness[index] = 1.0 / depth;
            }
        }
    }

    fn cuboid(&mut self, base_from_cuboid: Pose, cuboid: &Cuboid) {
        for axis in 0..3 {
            for side in [-1.0, 1.0] {
                let face = face(base_from_cuboid, cuboid, axis, side);
                let mut normal = [0.0; 3];
                normal[axis] = side;
                self.face(&face, base_from_cuboid.transform_vector(Vector::from(normal)), cuboid.colour);
            }
        }
    }

    fn bowl(&mut self, [x, y]: [f32; 2]) {
        const SEGMENTS: usize = 20;
        const RIM: f32 = 0.004;
        let foot = 0.78;
        let at = |radius: f32, index: usize, height: f32| {
            let angle = TAU * index as f32 / SEGMENTS as f32;
            Vector::new(x + radius * angle.cos(), y + radius * angle.sin(), height)
        };
        for i in 0..SEGMENTS {
            let j = i + 1;
            let outward = (at(1.0, i, 0.0) + at(1.0, j, 0.0) - 2.0 * Vector::new(x, y, 0.0)).normalize();
            let outer = BOWL_RADIUS + RIM;
            self.face(
                &[
                    at(outer * foot, i, 0.0),
                    at(outer * foot, j, 0.0),
                    at(outer, j, BOWL_HEIGHT),
                    at(outer, i, BOWL_HEIGHT),
                ],
                (outward - 0.3 * Vector::Z).normalize(),
                BOWL,
            );
            self.face(
                &[
                    at(BOWL_RADIUS * foot, j, 0.004),
                    at(BOWL_RADIUS * foot, i, 0.004),
                    at(BOWL_RADIUS, i, BOWL_HEIGHT),
                    at(BOWL_RADIUS, j, BOWL_HEIGHT),
                ],
                (0.3 * Vector::Z - outward).normalize(),
                BOWL,
            );
            self.face(
                &[
                    at(BOWL_RADIUS, i, BOWL_HEIGHT),
                    at(BOWL_RADIUS, j, BOWL_HEIGHT),
                    at(outer, j, BOWL_HEIGHT),
                    at(outer, i, BOWL_HEIGHT),
                ],
                Vector::Z,
                BOWL,
            );
            self.face(
                &[at(0.0, 0, 0.004), at(BOWL_RADIUS * foot, i, 0.004), at(BOWL_RADIUS * foot, j, 0.004)],
                Vector::Z,
                BOWL,
            );
        }
    }

    /// A convex polygon in the base frame with its outward normal.
    fn face(&mut self, corners: &[Vector], normal: Vector, colour: [f32; 3]) {
        let eye = self.camera_from_base.inverse().translation;
        if normal.dot(corners[0] - eye) >= 0.0 {
            return;
        }
        let brightness = AMBIENT + (1.0 - AMBIENT) * normal.dot(LIGHT).max(0.0);
        let lit = colour.map(|channel| channel * brightness);
        self.polygon(corners, |canvas, index, nearness| {
            if nearness > canvas.nearness[index] {
                canvas.nearness[index] = nearness;
                canvas.colour[index] = lit;
            }
        });
    }

    /// Darkens the table where the light is blocked, once however many solids block it.
    fn shadow(&mut self, base_from_cuboid: Pose, cuboid: &Cuboid) {
        for axis in 0..3 {
            for side in [-1.0, 1.0] {
                let cast = face(base_from_cuboid, cuboid, axis, side).map(|corner| {
                    let height = corner.z.max(0.0);
                    Vector::new(corner.x - LIGHT.x / LIGHT.z * height, corner.y - LIGHT.y / LIGHT.z * height, 0.0)
                });
                self.polygon(&cast, |canvas, index, _| {
                    if !canvas.shaded[index] && canvas.nearness[index] > 0.0 {
                        canvas.shaded[index] = true;
                        for channel in &mut canvas.colour[index] {
                            *channel *= SHADOW;
                        }
                    }
                });
            }
        }
    }

    fn polygon(&mut self, corners: &[Vector], mut plot: impl FnMut(&mut Self, usize, f32)) {
        let mut clipped = Vec::with_capacity(corners.len() + 1);
        // Clip at the near plane (Sutherland-Hodgman).
        for (index, &corner) in corners.iter().enumerate() {
            let (a, b) = (
                self.camera_from_base.transform_point(corner),
                self.camera_from_base.transform_point(corners[(index + 1) % corners.len()]),
            );
            if a.z > NEAR {
                clipped.push(a);
            }
            if (a.z > NEAR) != (b.z > NEAR) {
                clipped.push(a + (b - a) * ((NEAR - a.z) / (b.z - a.z)));
            }
        }
        let screen: Vec<[f32; 3]> = clipped
            .iter()
            .map(|p| {
                [
                    p.x / p.z * self.focal + self.width as f32 / 2.0,
                    p.y / p.z * self.focal + self.height as f32 / 2.0,
                    1.0 / p.z,
                ]
            })
            .collect();
        for corner in 1..screen.len().saturating_sub(1) {
            self.triangle(screen[0], screen[corner], screen[corner + 1], &mut plot);
        }
    }

    fn triangle(&mut self, a: [f32; 3], b: [f32; 3], c: [f32; 3], plot: &mut impl FnMut(&mut Self, usize, f32)) {
        let area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
        if area.abs() < 1e-6 {
            return;
        }
        let inverse_area = 1.0 / area;
        let span = |axis: usize, limit: usize| {
            let low = a[axis].min(b[axis]).min(c[axis]).floor().clamp(0.0, limit as f32);
            let high = a[axis].max(b[axis]).max(c[axis]).ceil().clamp(0.0, limit as f32);
            low as usize..high as usize
        };
        let (rows, columns) = (span(1, self.height), span(0, self.width));
        for row in rows {
            let y = row as f32 + 0.5;
            for column in columns.clone() {
                let x = column as f32 + 0.5;
                let weight_b = ((x - a[0]) * (c[1] - a[1]) - (y - a[1]) * (c[0] - a[0])) * inverse_area;
                let weight_c = ((b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])) * inverse_area;
                if weight_b >= 0.0 && weight_c >= 0.0 && weight_b + weight_c <= 1.0 {
                    let nearness = a[2] + weight_b * (b[2] - a[2]) + weight_c * (c[2] - a[2]);
                    plot(self, row * self.width + column, nearness);
                }
            }
        }
    }

    /// Averages the samples and encodes sRGB.
    fn image(&self) -> Image {
        let (width, height) = (self.width / SAMPLES, self.height / SAMPLES);
        let mut rgb = Vec::with_capacity(width * height * 3);
        let srgb = &*SRGB;
        for row in 0..height {
            for column in 0..width {
                let mut sum = [0.0; 3];
                for y in 0..SAMPLES {
                    let first = (row * SAMPLES + y) * self.width + column * SAMPLES;
                    for [red, green, blue] in &self.colour[first..first + SAMPLES] {
                        sum[0] += red;
                        sum[1] += green;
                        sum[2] += blue;
                    }
                }
                for channel in sum {
                    rgb.push(srgb[(channel / (SAMPLES * SAMPLES) as f32 * SRGB_LAST) as usize]);
                }
            }
        }
        Image { width: width as u32, height: height as u32, rgb: rgb.into() }
    }
}

/// What `rem_euclid(1.0)` is, without the library's division: of numbers that are whole in an `i32`, bit for bit.
fn fraction(number: f32) -> f32 {
    let part = number - (number as i32) as f32;
    if part < 0.0 { part + 1.0 } else { part }
}

const SRGB_LAST: f32 = 4095.0;

/// The sRGB encoding (IEC 61966-2-1) of linear values from 0 to 1.
static SRGB: LazyLock<[u8; 4096]> = LazyLock::new(|| {
    std::array::from_fn(|index| {
        let linear = index as f32 / SRGB_LAST;
        let encoded = if linear <= 0.003_130_8 { 12.92 * linear } else { 1.055 * linear.powf(1.0 / 2.4) - 0.055 };
        (encoded * 255.0).round() as u8
    })
});

/// The four corners of one face, counted around it.
fn face(base_from_cuboid: Pose, cuboid: &Cuboid, axis: usize, side: f32) -> [Vector; 4] {
    let (u, v) = ((axis + 1) % 3, (axis + 2) % 3);
    [[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]].map(|[s, t]| {
        let mut corner = cuboid.centre;
        corner[axis] += side * cuboid.half[axis];
        corner[u] += s * cuboid.half[u];
        corner[v] += t * cuboid.half[v];
        base_from_cuboid.transform_point(corner)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::scene::{Scene, SceneSpec};

    #[test]
    fn the_front_camera_sees_every_block_and_bowl() {
        for seed in 0..1000 {
            let scene = Scene::draw(&SceneSpec::tabletop(), seed);
            for [x, y] in scene.blocks.iter().map(|block| block.position).chain([scene.bowl]) {
                let [u, v] = Camera::front().project(Vector::new(x, y, 0.0)).unwrap();
                assert!(
                    (0.03..0.97).contains(&u) && (0.03..0.97).contains(&v),
                    "seed {seed}: ({x}, {y}) is at ({u}, {v})"
                );
            }
        }
    }
}
