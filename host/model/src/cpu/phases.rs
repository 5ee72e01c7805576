//! Which ops a thread may take through its part without waiting for the others.
//!
//! A part is a range of rows, so that many ops make one phase. Where rows are few, products are parted by columns of their
//! output instead: each thread then reads only its own part of the weights, and weights are what such products wait for.

use std::ops::Range;

use crate::plan::{Op, Operand, Plan, View};

/// Least rows that a thread is worth; also the width of `gemm`'s register tile, at whose multiples rows are split.
const LEAST_ROWS: usize = 8;

/// Products of fewer rows are parted by columns. Beyond, weights are used often enough for each time that they are read.
const FEW_ROWS: usize = 256;

/// At multiples of this, columns are parted: the widest vector of numbers.
const LEAST_COLUMNS: usize = 16;

/// Rows that a product of fewer takes as long as: it waits for weights.
const WEIGHTS_IN_ROWS: usize = 16;

/// Least multiplications that a thread is worth, about a third of a millisecond. Below that, waiting for a thread that lost
/// its core costs more than its help gains, and a small model leaves the other cores to the robot.
const LEAST_WORK: usize = 32 << 20;

/// A run of ops with equally many output rows, in which no thread needs what another one writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Phase {
    /// Indices over all ops of the plan.
    pub ops: Range<usize>,
    rows: usize,
    /// Multiplications, about.
    work: usize,
    /// By columns, not rows.
    by_columns: bool,
    parts: usize,
}

/// What a thread does of an op.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Of the output.
    pub rows: Range<usize>,
    /// Of the output; all of them but for products.
    pub columns: Range<usize>,
}

impl Phase {
    fn share(&mut self, threads: usize) {
        let most = if self.by_columns { threads } else { self.rows / LEAST_ROWS };
        self.parts = most.min(self.work / LEAST_WORK).clamp(1, threads);
    }

    /// The same ops as phases of which products are parted by columns, if that is better.
    fn refine(self, ops: &[Op], threads: usize) -> Vec<Phase> {
        let worth = (self.work / LEAST_WORK).clamp(1, threads);
        if worth == 1 || self.rows >= FEW_ROWS {
            return vec![self];
        }
        let mut phases: Vec<Phase> = Vec::new();
        for index in self.ops.clone() {
            let by_columns = matches!(ops[index], Op::Gemm { .. });
            match phases.last_mut() {
                Some(phase)
                    if phase.by_columns == by_columns
                        && (!by_columns || apart(&ops[phase.ops.clone()], &ops[index])) =>
                {
                    phase.ops.end = index + 1;
                }
                _ => {
                    let parts = if by_columns { worth } else { (self.rows / LEAST_ROWS).clamp(1, worth) };
                    phases.push(Phase { ops: index..index + 1, by_columns, parts, ..self.clone() });
                }
            }
        }
        phases
    }

    /// Threads that have a part in it.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// What a thread does of an op whose output is so wide, if it has a part in this phase.
    pub fn part(&self, thread: usize, width: usize) -> Option<Part> {
        let share = |all: usize, least: usize| {
            let bound = |part: usize| if part == self.parts { all } else { all * part / self.parts / least * least };
            bound(thread)..bound(thread + 1)
        };
        (thread < self.parts).then(|| {
            if self.by_columns {
                Part { rows: 0..self.rows, columns: share(width, LEAST_COLUMNS) }
            } else {
                Part { rows: share(self.rows, LEAST_ROWS), columns: 0..width }
            }
        })
    }
}

/// None of the products reads or writes what the other one writes.
fn apart(products: &[Op], product: &Op) -> bool {
    let touched = |access: &Access| [access.by_row.as_slice(), access.whole.as_slice(), &[access.output]].concat();
    let new = access(product);
    products.iter().map(access).all(|old| {
        !touched(&new).iter().any(|view| view.overlaps(&old.output))
            && !touched(&old).iter().any(|view| view.overlaps(&new.output))
    })
}

/// What one op does to memory: it writes a row from the same row of some views, and from all rows of others.
struct Access {
    output: View,
    by_row: Vec<View>,
    whole: Vec<View>,
}

fn access(op: &Op) -> Access {
    match op {
        Op::Gemm { input, bias, residual, output, .. } => {
            let mut access = Access { output: *output, by_row: vec![*input], whole: Vec::new() };
            for operand in [bias, residual].into_iter().flatten() {
                match operand {
                    Operand::View(view) if view.rows == output.rows => access.by_row.push(*view),
                    Operand::View(view) => access.whole.push(*view),
                    Operand::Weight(_) => {}
                }
            }
            access
        }
        Op::LayerNorm { input, output, .. } | Op::RmsNorm { input, output, .. } | Op::SwiGlu { input, output } => {
            Access { output: *output, by_row: vec![*input], whole: Vec::new() }
        }
        Op::Rope { view, .. } => Access { output: *view, by_row: vec![*view], whole: Vec::new() },
        Op::Attention { query, past, own, output, .. } => {
            let whole = past.iter().chain([own]).flat_map(|keys| [keys.key, keys.value]).collect();
            Access { output: *output, by_row: vec![*query], whole }
        }
        Op::PixelShuffle { input, output, .. } => Access { output: *output, by_row: Vec::new(), whole: vec![*input] },
        Op::Axpy { input, output, .. } => Access { output: *output, by_row: vec![*input, *output], whole: Vec::new() },
    }
}

/// Multiplications of an op, as far as they count.
fn work(op: &Op) -> usize {
    match op {
        Op::Gemm { input, output, .. } => input.rows.max(WEIGHTS_IN_ROWS) * input.columns * output.columns,
        Op::Attention { batch, query, past, own, .. } => {
            2 * query.rows * query.columns * (past.map_or(0, |past| past.key.rows) + own.key.rows) / batch
        }
        _ => 0,
    }
}

/// A thread that keeps to its rows of one touches what another thread has of the other.
fn cross(a: &View, b: &View) -> bool {
    a.overlaps(b) && a.row != b.row
}

impl Access {
    /// The two may run in either order on different rows, so both may be in one phase.
    fn commutes(&self, other: &Access) -> bool {
        let one_way = |a: &Access, b: &Access| {
            !a.whole.iter().any(|view| view.overlaps(&b.output)) && !a.by_row.iter().any(|view| cross(view, &b.output))
        };
        self.output.rows == other.output.rows
            && one_way(self, other)
            && one_way(other, self)
            && !cross(&self.output, &other.output)
    }
}

/// Splits a plan into phases: the fewest, greedily, and of those with few rows and much work more.
pub(super) fn split(plan: &Plan, threads: usize) -> Vec<Phase> {
    let mut phases: Vec<Phase> = Vec::new();
    let mut current: Vec<Access> = Vec::new();
    for (index, op) in plan.ops.iter().enumerate() {
        let access = access(op);
        match phases.last_mut() {
            Some(phase) if current.iter().all(|other| access.commutes(other)) => {
                phase.ops.end = index + 1;
                phase.work += work(op);
            }
            _ => {
                let (ops, rows) = (index..index + 1, access.output.rows);
                phases.push(Phase { ops, rows, work: work(op), by_columns: false, parts: 1 });
                current.clear();
            }
        }
        current.push(access);
    }
    phases.iter_mut().for_each(|phase| phase.share(threads));
    phases.into_iter().flat_map(|phase| phase.refine(&plan.ops, threads)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{BufferId, KeyValue, Mask, WeightId};

    fn view(buffer: usize, row: usize, rows: usize) -> View {
        View { buffer: BufferId(buffer), row, rows, column: 0, columns: 4 }
    }

    fn norm(input: View, output: View) -> Op {
        Op::RmsNorm { input, weight: WeightId(0), epsilon: 0.0, output }
    }

    fn attention(query: View, key: View, output: View) -> Op {
        let (mask, own) = (Mask { open: key.rows, offset: 0 }, KeyValue { key, value: key });
        Op::Attention { batch: 1, frames: 1, heads: 1, kv_heads: 1, head_dim: 4, mask, query, past: None, own, output }
    }

    fn commute(a: &Op, b: &Op) -> bool {
        access(a).commutes(&access(b))
    }

    #[test]
    fn row_by_row_ops_share_a_phase_even_when_one_needs_the_other() {
        assert!(commute(&norm(view(0, 0, 16), view(1, 0, 16)), &norm(view(1, 0, 16), view(0, 0, 16))));
    }

    #[test]
    fn attention_waits_for_its_keys_and_keys_wait_for_attention() {
        let (keys, attend) =
            (norm(view(0, 0, 16), view(1, 0, 16)), attention(view(2, 0, 16), view(1, 0, 16), view(3, 0, 16)));
        assert!(!commute(&keys, &attend));
        assert!(!commute(&attend, &keys));
        let elsewhere = norm(view(0, 0, 16), view(4, 0, 16));
        assert!(commute(&elsewhere, &attend));
    }

    #[test]
    fn rows_that_shift_between_ops_end_a_phase() {
        let (write, read) = (norm(view(0, 0, 16), view(1, 8, 16)), norm(view(1, 0, 16), view(2, 0, 16)));
        assert!(!commute(&write, &read));
    }

    #[test]
    fn small_work_stays_on_one_thread() {
        let phase = |work| {
            let mut phase = Phase { ops: 0..1, rows: 64, work, by_columns: false, parts: 1 };
            phase.share(4);
            phase.parts()
        };
        assert_eq!((phase(LEAST_WORK), phase(2 * LEAST_WORK), phase(100 * LEAST_WORK)), (1, 2, 4));
    }

    #[test]
    fn parts_cover_all_numbers_once() {
        for (rows, width) in [(1, 16), (7, 1), (16, 100), (50, 720), (257, 8)] {
            for (threads, by_columns) in (1..6).flat_map(|threads| [(threads, false), (threads, true)]) {
                let mut phase = Phase { ops: 0..1, rows, work: usize::MAX, by_columns, parts: 1 };
                phase.share(threads);
                let parts = (0..threads).filter_map(|thread| phase.part(thread, width));
                let mut covered: Vec<(usize, usize)> = parts
                    .flat_map(|part| {
                        part.rows.flat_map(move |row| part.columns.clone().map(move |column| (row, column)))
                    })
                    .collect();
                covered.sort_unstable();
                let all = (0..rows).flat_map(|row| (0..width).map(move |column| (row, column)));
                assert_eq!(covered, all.collect::<Vec<_>>());
            }
        }
    }

    fn product(input: View, output: View) -> Op {
        Op::Gemm {
            input,
            weight: WeightId(0),
            scale: 1.0,
            bias: None,
            activation: crate::plan::Activation::Identity,
            residual: None,
            output,
        }
    }

    #[test]
    fn products_of_few_rows_are_parted_by_columns_and_wait_for_each_other() {
        let ops = [
            norm(view(0, 0, 16), view(1, 0, 16)),
            product(view(1, 0, 16), view(2, 0, 16)),
            product(view(1, 0, 16), view(3, 0, 16)),
            product(view(3, 0, 16), view(4, 0, 16)),
            norm(view(4, 0, 16), view(5, 0, 16)),
        ];
        let phase = |rows, work| Phase { ops: 0..5, rows, work, by_columns: false, parts: 2 };
        let refined: Vec<(Range<usize>, bool)> =
            phase(16, 9 * LEAST_WORK).refine(&ops, 2).into_iter().map(|it| (it.ops, it.by_columns)).collect();
        // The first two products read the same and write apart; the third reads what one of them writes.
        assert_eq!(refined, [(0..1, false), (1..3, true), (3..4, true), (4..5, false)]);
        assert_eq!(phase(16, LEAST_WORK).refine(&ops, 2), [phase(16, LEAST_WORK)]);
        assert_eq!(phase(FEW_ROWS, 9 * LEAST_WORK).refine(&ops, 2), [phase(FEW_ROWS, 9 * LEAST_WORK)]);
    }
}
