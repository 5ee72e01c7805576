//! Camera images, and how they become the network's patches.

use std::sync::Arc;

use crate::architecture::Vision;

/// Longest side of a camera image, px.
const LONGEST_SIDE_PX: u32 = 16_384;

/// A colour image, eight bits a channel, rows from the top.
///
/// A clone shares the pixels, and equality looks at them only where they are not shared.
#[derive(Clone, Debug, Eq)]
pub struct Image {
    width: u32,
    height: u32,
    rgb: Arc<Vec<u8>>,
}

impl PartialEq for Image {
    fn eq(&self, other: &Self) -> bool {
        (self.width, self.height) == (other.width, other.height)
            && (Arc::ptr_eq(&self.rgb, &other.rgb) || self.rgb == other.rgb)
    }
}

/// Bytes that are no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{bytes} bytes are no {width}x{height} RGB image. Give width * height * 3 bytes, sides of 1 to {LONGEST_SIDE_PX} px"
)]
pub struct ImageError {
    width: u32,
    height: u32,
    bytes: usize,
}

impl Image {
    /// An image of `height * width * 3` bytes.
    ///
    /// # Errors
    /// If there are more or fewer bytes, or a side is 0 or longer than 16384 px.
    pub fn new(width: u32, height: u32, rgb: Vec<u8>) -> Result<Self, ImageError> {
        Self::shared(width, height, Arc::new(rgb))
    }

    /// As [`Image::new`], of bytes that others look at, too. Images that share them are equal at a glance.
    ///
    /// # Errors
    /// As [`Image::new`].
    pub fn shared(width: u32, height: u32, rgb: Arc<Vec<u8>>) -> Result<Self, ImageError> {
        let sides = 1..=LONGEST_SIDE_PX;
        let fits =
            sides.contains(&width) && sides.contains(&height) && rgb.len() == width as usize * height as usize * 3;
        if fits { Ok(Self { width, height, rgb }) } else { Err(ImageError { width, height, bytes: rgb.len() }) }
    }

    /// px.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// px.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// `height * width * 3` bytes.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }
}

/// Where a resized line takes one of its pixels from: between two source pixels.
struct Tap {
    low: usize,
    high: usize,
    /// Share of `high`.
    weight: f32,
}

/// Taps of a bilinear resize as PyTorch does it (`interpolate(mode="bilinear", align_corners=False)`, no antialiasing).
fn taps(from: usize, to: usize) -> Vec<Tap> {
    let scale = from as f32 / to as f32;
    (0..to)
        .map(|index| {
            let source = (scale * (index as f32 + 0.5) - 0.5).max(0.0);
            let low = (source as usize).min(from - 1);
            Tap { low, high: (low + 1).min(from - 1), weight: source - low as f32 }
        })
        .collect()
}

/// Resizes `image` into the encoder's frame and cuts it into patches: `patches * channels * patch^2` numbers in -1..=1,
/// patch by patch, channel by channel, row by row, as [`crate::plan::EncodePlan::patches`] wants them.
///
/// LeRobot's `resize_with_pad` and `prepare_images`: the ratio of the sides is kept, the frame is filled from the bottom
/// right, and what is left on the top and on the left is black, -1.
pub(crate) fn patches_from_image(image: &Image, vision: &Vision, patches: &mut [f32]) {
    let (frame_width, frame_height) = (vision.image_width_px, vision.image_height_px);
    let (width, height) = (f64::from(image.width), f64::from(image.height));
    let ratio = f64::max(width / frame_width as f64, height / frame_height as f64);
    // Rounded down as Python's int() does; a line thinner than a pixel would be an error there.
    let resized_width = ((width / ratio) as usize).clamp(1, frame_width);
    let resized_height = ((height / ratio) as usize).clamp(1, frame_height);
    resized_patches(image, vision, resized_width, resized_height, patches);
}

/// As [`patches_from_image`], but the image is stretched over the whole frame, as SmolVLM's processor does it with the view
/// of a whole image. (That one resamples with a wider filter, so the numbers are close, not equal.)
pub(crate) fn stretched_patches(image: &Image, vision: &Vision, patches: &mut [f32]) {
    resized_patches(image, vision, vision.image_width_px, vision.image_height_px, patches);
}

fn resized_patches(image: &Image, vision: &Vision, resized_width: usize, resized_height: usize, patches: &mut [f32]) {
    let (width, height) = (image.width as usize, image.height as usize);
    let (left, top) = (vision.image_width_px - resized_width, vision.image_height_px - resized_height);
    let (side, area) = (vision.patch_px, vision.patch_px * vision.patch_px);
    let (columns, rows) = (taps(width, resized_width), taps(height, resized_height));
    // Pixels beyond the last whole patch are not looked at.
    let (seen_width, seen_height) = (vision.grid_columns() * side, vision.grid_rows() * side);
    let columns = &columns[..resized_width.min(seen_width.saturating_sub(left))];
    patches.fill(-1.0);
    if columns.is_empty() {
        return;
    }
    // One channel after the other, each a row of the frame; left of the image it stays black.
    let mut line = vec![-1.0; 3 * seen_width];
    // Of the two source rows that a row lies between. The next one mostly lies between the same.
    let mut stretched = [const { Stretched { row: usize::MAX, numbers: Vec::new() } }; 2];
    for (y, row) in (top..).zip(&rows).take_while(|(y, _)| *y < seen_height) {
        if stretched[0].row != row.low {
            stretched.swap(0, 1);
        }
        for (stretched, source) in stretched.iter_mut().zip([row.low, row.high]) {
            stretched.fill(source, &image.rgb[source * width * 3..][..width * 3], columns);
        }
        let [low, high] = stretched.each_ref().map(|stretched| stretched.numbers.chunks_exact(columns.len()));
        for ((line, low), high) in line.chunks_exact_mut(seen_width).zip(low).zip(high) {
            for ((to, low), high) in line[left..].iter_mut().zip(low).zip(high) {
                let value = low * (1.0 - row.weight) + high * row.weight;
                *to = value / 255.0 * 2.0 - 1.0;
            }
        }
        for (channel, line) in line.chunks_exact(seen_width).enumerate() {
            for (column, numbers) in line.chunks_exact(side).enumerate() {
                let start = place_of_pixel(vision, column * side, y) + channel * area;
                patches[start..start + side].copy_from_slice(numbers);
            }
        }
    }
}

/// A row of an image at the width of its frame, one channel after the other.
struct Stretched {
    row: usize,
    numbers: Vec<f32>,
}

impl Stretched {
    /// Makes it that of `row`, which has these pixels.
    fn fill(&mut self, row: usize, rgb: &[u8], columns: &[Tap]) {
        if self.row == row {
            return;
        }
        self.row = row;
        self.numbers.clear();
        for channel in 0..3 {
            self.numbers.extend(columns.iter().map(|column| {
                let [a, b] = [column.low, column.high].map(|at| f32::from(rgb[at * 3 + channel]));
                a * (1.0 - column.weight) + b * column.weight
            }));
        }
    }
}

/// Patches of a frame that is resized and scaled already: `channels * height * width` numbers in -1..=1.
pub(crate) fn patches_from_pixels(pixels: &[f32], vision: &Vision, patches: &mut [f32]) {
    let (width, height, area) = (vision.image_width_px, vision.image_height_px, vision.patch_px * vision.patch_px);
    for y in 0..vision.grid_rows() * vision.patch_px {
        for x in 0..vision.grid_columns() * vision.patch_px {
            let start = place_of_pixel(vision, x, y);
            for channel in 0..vision.channels {
                patches[start + channel * area] = pixels[(channel * height + y) * width + x];
            }
        }
    }
}

/// Where the first channel of the frame's pixel `x`, `y` lies among patches.
fn place_of_pixel(vision: &Vision, x: usize, y: usize) -> usize {
    let side = vision.patch_px;
    let patch = (y / side) * vision.grid_columns() + x / side;
    patch * vision.patch_numbers() + (y % side) * side + x % side
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vision(width: usize, height: usize, patch_px: usize) -> Vision {
        Vision {
            layers: 0,
            width: 1,
            feed_forward: 1,
            heads: 1,
            channels: 3,
            patch_px,
            image_width_px: width,
            image_height_px: height,
            positions_per_side: 1,
            epsilon: 1e-6,
            shuffle_factor: 1,
        }
    }

    #[test]
    fn bytes_that_do_not_fill_the_image_are_refused() {
        assert!(Image::new(2, 2, vec![0; 12]).is_ok());
        assert!(Image::new(2, 2, vec![0; 11]).is_err());
        assert!(Image::new(0, 2, vec![]).is_err());
        assert!(Image::new(u32::MAX, u32::MAX, vec![0; 12]).is_err());
    }

    #[test]
    fn a_wide_image_lies_at_the_bottom_of_its_frame_under_black() {
        let white = Image::new(4, 2, vec![255; 24]).unwrap();
        let mut patches = vec![0.0; 48];
        patches_from_image(&white, &vision(4, 4, 4), &mut patches);
        for channel in patches.chunks(16) {
            assert_eq!(channel[..8], [-1.0; 8]);
            assert_eq!(channel[8..], [1.0; 8]);
        }
    }

    #[test]
    fn a_resized_pixel_is_blended_from_the_four_around_it_wherever_it_lies() {
        // Larger and smaller, wide and tall, with pixels beyond the last whole patch.
        for (width, height, frame) in [(7, 5, [24, 24]), (40, 30, [24, 20]), (9, 31, [27, 18]), (12, 12, [5, 40])] {
            let vision = vision(frame[0], frame[1], 4);
            let rgb: Vec<u8> = (0..width * height * 3).map(|i| (i * 37 % 251) as u8).collect();
            let image = Image::new(width as u32, height as u32, rgb.clone()).unwrap();
            let mut patches = vec![f32::NAN; vision.grid_columns() * vision.grid_rows() * vision.patch_numbers()];
            stretched_patches(&image, &vision, &mut patches);
            let (columns, rows) = (taps(width, frame[0]), taps(height, frame[1]));
            for y in 0..vision.grid_rows() * 4 {
                for x in 0..vision.grid_columns() * 4 {
                    let (row, column) = (&rows[y], &columns[x]);
                    for channel in 0..3 {
                        let pixel = |x: usize, y: usize| f32::from(rgb[(y * width + x) * 3 + channel]);
                        let line =
                            |y| pixel(column.low, y) * (1.0 - column.weight) + pixel(column.high, y) * column.weight;
                        let value = line(row.low) * (1.0 - row.weight) + line(row.high) * row.weight;
                        let found = patches[place_of_pixel(&vision, x, y) + channel * 16];
                        assert_eq!(found, value / 255.0 * 2.0 - 1.0, "{width}x{height}: {x}, {y}, {channel}");
                    }
                }
            }
        }
    }

    #[test]
    fn pixels_go_to_their_patch_channel_by_channel() {
        // Red counts pixels from the left, the others are black.
        let rgb = (0..16).flat_map(|i| [if i % 4 >= 2 { 255 } else { 0 }, 0, 0]).collect();
        let image = Image::new(4, 4, rgb).unwrap();
        let mut patches = vec![0.0; 48];
        patches_from_image(&image, &vision(4, 4, 2), &mut patches);
        assert_eq!(patches[..4], [-1.0; 4], "red of the first patch");
        assert_eq!(patches[12..16], [1.0; 4], "red of the patch to its right");
        assert_eq!(patches[16..24], [-1.0; 8], "green and blue of it");
    }
}
