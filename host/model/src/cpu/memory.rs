//! Where numbers live: an arena for buffers, and weights in the order in which products read them.

use std::ops::Range;

use crate::plan::{Numbers, Role, Weight};

/// A cache line of numbers.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; Line::NUMBERS]);

impl Line {
    const NUMBERS: usize = 16;
}

/// One block of memory for many buffers; it only grows.
#[derive(Default)]
pub(super) struct Arena(Vec<Line>);

impl Arena {
    /// `numbers`, rounded up so that the next buffer begins on a cache line.
    pub fn padded(numbers: usize) -> usize {
        numbers.next_multiple_of(Line::NUMBERS)
    }

    pub fn reserve(&mut self, numbers: usize) {
        let lines = numbers.div_ceil(Line::NUMBERS);
        if lines > self.0.len() {
            self.0.resize(lines, Line([0.0; Line::NUMBERS]));
        }
    }

    pub fn bytes(&self) -> usize {
        self.0.len() * size_of::<Line>()
    }

    pub fn numbers_mut(&mut self) -> &mut [f32] {
        // SAFETY: a `Line` is sixteen `f32` without padding, and stricter in alignment.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * Line::NUMBERS) }
    }
}

/// A weight in memory.
pub(super) enum CpuWeight {
    /// What products are made with.
    Factor(Factor),
    /// Rows that are added or multiplied; they repeat.
    Table { numbers: Vec<f32>, columns: usize },
}

/// The right-hand side of products, `rows` x `columns`, in panels of [`PANEL_ROWS`] rows, each stored column by column: the
/// order in which `gemm` reads it, so that nothing need be packed for a product.
pub(super) struct Factor {
    pub numbers: Numbers,
    pub rows: usize,
    pub columns: usize,
}

/// As many rows as `gemm`'s widest kernel takes.
pub(super) const PANEL_ROWS: usize = 64;

impl Factor {
    /// The panels that hold some of `rows`: the rows of each, and where it begins.
    pub fn panels(&self, rows: &Range<usize>) -> impl Iterator<Item = (Range<usize>, usize)> {
        let (all, columns) = (self.rows, self.columns);
        let first = rows.start / PANEL_ROWS * PANEL_ROWS;
        (first..rows.end).step_by(PANEL_ROWS).map(move |top| (top..all.min(top + PANEL_ROWS), top * columns))
    }
}

impl CpuWeight {
    pub fn new(weight: &Weight, numbers: Numbers) -> Self {
        let (rows, columns) = (weight.rows, weight.columns);
        match weight.role {
            Role::Table => Self::Table { numbers: numbers.into_f32(), columns },
            Role::Factor => Self::Factor(Factor {
                numbers: match numbers {
                    Numbers::F32(numbers) => Numbers::F32(in_panels(&numbers, rows, columns)),
                    Numbers::Bf16(bits) => Numbers::Bf16(in_panels(&bits, rows, columns)),
                    Numbers::F16(bits) => Numbers::F16(in_panels(&bits, rows, columns)),
                },
                rows,
                columns,
            }),
        }
    }

    pub fn bytes(&self) -> usize {
        match self {
            Self::Table { numbers, .. } | Self::Factor(Factor { numbers: Numbers::F32(numbers), .. }) => {
                4 * numbers.len()
            }
            Self::Factor(Factor { numbers: Numbers::Bf16(bits) | Numbers::F16(bits), .. }) => 2 * bits.len(),
        }
    }
}

/// Puts a matrix, row by row, into panels.
fn in_panels<T: Copy + Default>(numbers: &[T], rows: usize, columns: usize) -> Vec<T> {
    let mut panels = vec![T::default(); numbers.len()];
    // Blocks keep both sides in the cache.
    const BLOCK: usize = 16;
    for top in (0..rows).step_by(PANEL_ROWS) {
        let width = PANEL_ROWS.min(rows - top);
        let panel = &mut panels[top * columns..(top + width) * columns];
        for left in (0..columns).step_by(BLOCK) {
            let block = left..columns.min(left + BLOCK);
            for row in 0..width {
                let from = &numbers[(top + row) * columns..][block.clone()];
                for (to, &number) in panel[left * width..].chunks_exact_mut(width).zip(from) {
                    to[row] = number;
                }
            }
        }
    }
    panels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_hold_every_number_where_products_look_for_it() {
        let (rows, columns) = (2 * PANEL_ROWS + 7, 33);
        let numbers: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
        let factor = Factor { numbers: Numbers::F32(in_panels(&numbers, rows, columns)), rows, columns };
        let Numbers::F32(stored) = &factor.numbers else { unreachable!() };
        let part = PANEL_ROWS - 3..rows - 2;
        let mut seen = Vec::new();
        for (panel, begin) in factor.panels(&part) {
            for row in panel.clone().filter(|row| part.contains(row)) {
                seen.push(row);
                for column in 0..columns {
                    let at = begin + column * panel.len() + row - panel.start;
                    assert_eq!(stored[at], numbers[row * columns + column]);
                }
            }
        }
        assert_eq!(seen, part.collect::<Vec<_>>());
    }
}
