//! Where numbers live: an arena for buffers, and weights in the order in which products read them.

/// A cache line of numbers.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; Line::NUMBERS]);

impl Line {
    const NUMBERS: usize = 16;
}

/// One block of memory for all buffers of whichever plan runs; it only grows.
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

    pub fn numbers_mut(&mut self) -> &mut [f32] {
        // SAFETY: a `Line` is sixteen `f32` without padding, and stricter in alignment.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * Line::NUMBERS) }
    }
}

/// A weight in memory.
pub(super) struct CpuWeight {
    /// Of a table `rows * columns` numbers row by row; of a factor column by column, which is the order that spares `gemm`
    /// from packing it anew for every product.
    pub numbers: Vec<f32>,
    pub rows: usize,
    pub columns: usize,
}

impl CpuWeight {
    /// The right-hand side of products, given row by row.
    pub fn factor(numbers: &[f32], rows: usize, columns: usize) -> Self {
        let mut transposed = vec![0.0; numbers.len()];
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
        Self { numbers: transposed, rows, columns }
    }

    /// Rows that are added or multiplied.
    pub fn table(numbers: &[f32], rows: usize, columns: usize) -> Self {
        Self { numbers: numbers.to_vec(), rows, columns }
    }

    /// Row `row` of a table; rows repeat.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.numbers[row % self.rows * self.columns..][..self.columns]
    }
}
