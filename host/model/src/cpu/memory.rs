//! Where numbers live: an arena for buffers, and weights in the order in which products read them.

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

/// The right-hand side of products, `rows` x `columns`, stored column by column: the order that spares `gemm` from packing
/// it anew for every product.
pub(super) struct Factor {
    pub numbers: Numbers,
    pub rows: usize,
    pub columns: usize,
}

impl CpuWeight {
    pub fn new(weight: &Weight, numbers: Numbers) -> Self {
        let (rows, columns) = (weight.rows, weight.columns);
        match weight.role {
            Role::Table => Self::Table { numbers: numbers.into_f32(), columns },
            Role::Factor => Self::Factor(Factor {
                numbers: match numbers {
                    Numbers::F32(numbers) => Numbers::F32(transposed(&numbers, rows, columns)),
                    Numbers::Bf16(bits) => Numbers::Bf16(transposed(&bits, rows, columns)),
                    Numbers::F16(bits) => Numbers::F16(transposed(&bits, rows, columns)),
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

fn transposed<T: Copy + Default>(numbers: &[T], rows: usize, columns: usize) -> Vec<T> {
    let mut transposed = vec![T::default(); numbers.len()];
    // Blocks keep both sides in the cache.
    const BLOCK: usize = 32;
    for top in (0..rows).step_by(BLOCK) {
        for left in (0..columns).step_by(BLOCK) {
            for row in top..rows.min(top + BLOCK) {
                for column in left..columns.min(left + BLOCK) {
                    transposed[column * rows + row] = numbers[row * columns + column];
                }
            }
        }
    }
    transposed
}
