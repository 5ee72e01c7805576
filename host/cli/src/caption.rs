//! Words and pictures on a canvas of pixels.

use std::sync::Arc;

use font8x8::{BASIC_FONTS, UnicodeFonts};
use waza_robot::Image;

/// Sides of a character, pixels.
const GLYPH: u32 = 8;
const SCALE: u32 = 2;

/// Height of a line of text, pixels.
pub const LINE: u32 = GLYPH * SCALE;

/// A picture of one colour.
pub fn canvas(width: u32, height: u32, colour: [u8; 3]) -> Image {
    Image { width, height, rgb: colour.repeat((width * height) as usize).into() }
}

/// Copies `picture` onto the canvas with its upper left corner at `[x, y]`; what hangs over is cut off.
pub fn paste(canvas: &mut Image, picture: &Image, [x, y]: [u32; 2]) {
    let columns = picture.width.min(canvas.width.saturating_sub(x)) as usize * 3;
    for row in 0..picture.height.min(canvas.height.saturating_sub(y)) {
        let from = (row * picture.width) as usize * 3;
        let to = ((y + row) * canvas.width + x) as usize * 3;
        Arc::make_mut(&mut canvas.rgb)[to..to + columns].copy_from_slice(&picture.rgb[from..from + columns]);
    }
}

/// Writes a line with its upper left corner at `[x, y]`; what does not fit is left out, as is what the font lacks.
pub fn write(canvas: &mut Image, text: &str, [x, y]: [u32; 2], colour: [u8; 3]) {
    for (index, character) in text.chars().enumerate() {
        let left = x + index as u32 * LINE;
        if left + LINE > canvas.width || y + LINE > canvas.height {
            return;
        }
        let glyph = BASIC_FONTS.get(character).unwrap_or_default();
        for row in 0..LINE {
            for column in 0..LINE {
                if glyph[(row / SCALE) as usize] >> (column / SCALE) & 1 == 1 {
                    let at = ((y + row) * canvas.width + left + column) as usize * 3;
                    Arc::make_mut(&mut canvas.rgb)[at..at + 3].copy_from_slice(&colour);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lit(image: &Image) -> Vec<[u32; 2]> {
        let pixels = image.rgb.chunks_exact(3).enumerate().filter(|(_, pixel)| pixel[0] == 255);
        pixels.map(|(at, _)| [at as u32 % image.width, at as u32 / image.width]).collect()
    }

    #[test]
    fn a_letter_is_drawn_inside_its_cell_neither_mirrored_nor_upside_down() {
        let mut image = canvas(64, 32, [0; 3]);
        write(&mut image, "L", [16, 8], [255; 3]);
        let lit = lit(&image);
        assert!(!lit.is_empty() && lit.iter().all(|&[x, y]| (16..32).contains(&x) && (8..24).contains(&y)));
        let row = |row: u32| lit.iter().filter(move |[_, y]| *y == row).map(|[x, _]| *x);
        assert!(row(20).count() > row(10).count(), "an L's foot is wider than its stem");
        assert!(row(20).max() > row(10).max() && row(20).min() <= row(10).min(), "and reaches to the right");
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let mut image = canvas(40, 16, [0; 3]);
        write(&mut image, "WWWWWW", [0, 0], [255; 3]);
        assert!(lit(&image).iter().all(|[x, _]| *x < 32));
        paste(&mut image, &canvas(64, 64, [255; 3]), [36, 12]);
        assert!(lit(&image).contains(&[39, 15]));
    }
}
