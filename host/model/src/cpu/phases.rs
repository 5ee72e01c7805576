//! Which ops a thread may take through its rows without waiting for the others.

use std::ops::Range;

use crate::plan::{Op, Operand, Plan, View};

/// Least rows that a thread is worth; also the width of `gemm`'s register tile, at whose multiples rows are split.
const LEAST_ROWS: usize = 8;

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
    parts: usize,
}

impl Phase {
    fn share(&mut self, threads: usize) {
        self.parts = (self.rows / LEAST_ROWS).min(self.work / LEAST_WORK).clamp(1, threads);
    }

    /// Threads that have a part in it.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// The rows of a thread, if it has a part in this phase.
    pub fn part(&self, thread: usize) -> Option<Range<usize>> {
        let bound = |part: usize| {
            if part == self.parts { self.rows } else { self.rows * part / self.parts / LEAST_ROWS * LEAST_ROWS }
        };
        (thread < self.parts).then(|| bound(thread)..bound(thread + 1))
    }
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
        Op::Gemm { input, output, .. } => input.rows * input.columns * output.columns,
        Op::Attention { batch, query, past, own, .. } => {
            2 * query.rows * query.columns * (past.map_or(0, |past| past.key.rows) + own.key.rows) / batch
        }
        _ => 0,
    }
}

/// They share an element.
fn overlap(a: &View, b: &View) -> bool {
    let meet = |a: usize, a_len: usize, b: usize, b_len: usize| a < b + b_len && b < a + a_len;
    a.buffer == b.buffer && meet(a.row, a.rows, b.row, b.rows) && meet(a.column, a.columns, b.column, b.columns)
}

/// A thread that keeps to its rows of one touches what another thread has of the other.
fn cross(a: &View, b: &View) -> bool {
    overlap(a, b) && a.row != b.row
}

impl Access {
    /// The two may run in either order on different rows, so both may be in one phase.
    fn commutes(&self, other: &Access) -> bool {
        let one_way = |a: &Access, b: &Access| {
            !a.whole.iter().any(|view| overlap(view, &b.output)) && !a.by_row.iter().any(|view| cross(view, &b.output))
        };
        self.output.rows == other.output.rows
            && one_way(self, other)
            && one_way(other, self)
            && !cross(&self.output, &other.output)
    }
}

/// Splits a plan into the fewest phases, greedily.
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
                phases.push(Phase { ops: index..index + 1, rows: access.output.rows, work: work(op), parts: 1 });
                current.clear();
            }
        }
        current.push(access);
    }
    phases.iter_mut().for_each(|phase| phase.share(threads));
    phases
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
            let mut phase = Phase { ops: 0..1, rows: 64, work, parts: 1 };
            phase.share(4);
            phase.parts()
        };
        assert_eq!((phase(LEAST_WORK), phase(2 * LEAST_WORK), phase(100 * LEAST_WORK)), (1, 2, 4));
    }

    #[test]
    fn parts_cover_all_rows_once() {
        for rows in [1, 7, 16, 50, 257] {
            for threads in 1..6 {
                let mut phase = Phase { ops: 0..1, rows, work: usize::MAX, parts: 1 };
                phase.share(threads);
                let covered: Vec<usize> = (0..threads).filter_map(|thread| phase.part(thread)).flatten().collect();
                assert_eq!(covered, (0..rows).collect::<Vec<_>>());
            }
        }
    }
}
