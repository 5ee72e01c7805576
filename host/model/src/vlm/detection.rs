//! Where things are, in words: what a model that was trained to locate is asked, and how it answers.

use super::{Answer, Question};
use crate::image::Image;

/// Where something is seen, as fractions of the image's sides; `x`, `y` is the upper left corner.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// From the left.
    pub x: f32,
    /// From the top.
    pub y: f32,
    /// In [0, 1 - x].
    pub width: f32,
    /// In [0, 1 - y].
    pub height: f32,
    /// As [`Answer::confidence`], of the answer that named it.
    pub confidence: f32,
}

/// The question that a model trained to locate is asked.
pub fn locating(what: &str, image: &Image) -> Question {
    let text =
        format!("Locate {what}. Answer with its left, top, width and height in percent of the image, a line each.");
    Question { text, images: vec![image.clone()] }
}

/// Boxes from an answer: each line that holds four numbers is one: left, top, width and height in percent of the image's
/// sides. Boxes are cut to the image; empty ones and other lines are passed over.
pub fn boxes(answer: &Answer) -> Vec<Detection> {
    let number = |word: &str| word.trim_matches(|c: char| !c.is_ascii_digit() && c != '.').parse::<f32>().ok();
    let line = |line: &str| {
        let words = line.split([' ', ',', ';', '\t']).filter(|word| word.chars().any(|c| c.is_ascii_digit()));
        let numbers: Option<Vec<f32>> = words.map(|word| number(word).map(|percent| percent / 100.0)).collect();
        let &[x, y, width, height] = numbers?.as_slice() else { return None };
        let (x, y) = (x.clamp(0.0, 1.0), y.clamp(0.0, 1.0));
        let (width, height) = (width.min(1.0 - x), height.min(1.0 - y));
        let seen = width > 0.0 && height > 0.0;
        seen.then_some(Detection { x, y, width, height, confidence: answer.confidence })
    };
    answer.text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Answer {
        Answer { text: text.to_owned(), confidence: 0.5, tokens: 1, ended: true }
    }

    #[test]
    fn boxes_are_lines_of_four_percentages_cut_to_the_image() {
        let found = boxes(&answer("Here:\n10, 20, 30, 40\n(90% 50% 20% 10%)\n1 2 3\n5 5 0 5\nnan nan 1 1"));
        let sides: Vec<[f32; 4]> = found.iter().map(|d| [d.x, d.y, d.width, d.height]).collect();
        assert_eq!(sides.len(), 2);
        for (found, wanted) in sides.iter().flatten().zip([0.1, 0.2, 0.3, 0.4, 0.9, 0.5, 0.1, 0.1]) {
            assert!((found - wanted).abs() < 1e-6, "{sides:?}");
        }
    }
}
