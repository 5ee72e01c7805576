//! Which ops of a plan become one dispatch.
//!
//! What a GPU pays for a small op is its dispatch. A norm or a gated activation whose result only the next product reads can
//! be done on that product's way in.

use crate::plan::{Op, Operand, View};

/// Rows of a product up to which it does its input's norm or activation itself. Every column of tiles repeats that work, so
/// it pays only where there are few rows and the dispatch costs more: in the action expert and where words are written, but
/// not in the image encoder.
pub(super) const FEW_ROWS: usize = 64;

/// An op, and what is done to its input on the way in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fused<'a> {
    pub op: &'a Op,
    /// [`Op::RmsNorm`] or [`Op::SwiGlu`], whose output is the input of `op`, a product, and of nothing else.
    pub prologue: Option<&'a Op>,
}

/// Goes through the ops in order, and joins what can be.
pub(super) fn fuse(ops: &[Op]) -> Vec<Fused<'_>> {
    let mut fused = Vec::with_capacity(ops.len());
    let mut index = 0;
    while index < ops.len() {
        let prologue = joins(ops, index).then_some(&ops[index]);
        index += usize::from(prologue.is_some());
        fused.push(Fused { op: &ops[index], prologue });
        index += 1;
    }
    fused
}

/// Op `index` can be done on the way into the next one.
fn joins(ops: &[Op], index: usize) -> bool {
    let (Op::RmsNorm { output: made, .. } | Op::SwiGlu { output: made, .. }) = &ops[index] else { return false };
    let Some(Op::Gemm { input, bias, residual, output, .. }) = ops.get(index + 1) else { return false };
    let added = |operand: &Option<Operand>| matches!(operand, Some(Operand::View(view)) if view.overlaps(made));
    // The product reads the prologue's input while it writes: they may not share a buffer.
    let apart = reads(&ops[index]).iter().all(|view| view.buffer != output.buffer);
    input == made
        && made.rows <= FEW_ROWS
        && apart
        && !added(bias)
        && !added(residual)
        && !read_later(&ops[index + 2..], made)
}

/// One of `ops` reads of `made` before all of it is written anew.
fn read_later(ops: &[Op], made: &View) -> bool {
    for op in ops {
        if reads(op).iter().any(|view| view.overlaps(made)) {
            return true;
        }
        if op.output() == *made {
            return false;
        }
    }
    false
}

/// Views whose old content an op uses.
fn reads(op: &Op) -> Vec<View> {
    match op {
        Op::Gemm { input, bias, residual, .. } => {
            let operands = [bias, residual].into_iter().flatten();
            let views = operands.filter_map(|operand| match operand {
                Operand::View(view) => Some(*view),
                Operand::Weight(_) => None,
            });
            views.chain([*input]).collect()
        }
        Op::LayerNorm { input, .. }
        | Op::RmsNorm { input, .. }
        | Op::SwiGlu { input, .. }
        | Op::PixelShuffle { input, .. } => vec![*input],
        Op::Rope { view, .. } => vec![*view],
        Op::Attention { query, past, own, .. } => {
            past.iter().chain([own]).flat_map(|keys| [keys.key, keys.value]).chain([*query]).collect()
        }
        Op::Axpy { input, output, .. } => vec![*input, *output],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Activation, BufferId, WeightId};

    fn view(buffer: usize, rows: usize) -> View {
        View { buffer: BufferId(buffer), row: 0, rows, column: 0, columns: 8 }
    }

    fn norm(input: usize, output: usize, rows: usize) -> Op {
        Op::RmsNorm { input: view(input, rows), weight: WeightId(0), epsilon: 0.0, output: view(output, rows) }
    }

    fn product(input: usize, output: usize, rows: usize) -> Op {
        let (input, output) = (view(input, rows), view(output, rows));
        let (bias, residual, activation) = (None, None, Activation::Identity);
        Op::Gemm { input, weight: WeightId(0), scale: 1.0, bias, activation, residual, output }
    }

    fn count(ops: &[Op]) -> usize {
        fuse(ops).len()
    }

    #[test]
    fn a_norm_that_one_product_reads_goes_into_it() {
        let ops = [norm(0, 1, 50), product(1, 2, 50), norm(0, 1, 50), product(1, 3, 50)];
        assert_eq!(
            fuse(&ops),
            [Fused { op: &ops[1], prologue: Some(&ops[0]) }, Fused { op: &ops[3], prologue: Some(&ops[2]) }]
        );
    }

    #[test]
    fn a_norm_that_two_products_read_or_that_has_many_rows_stays_by_itself() {
        assert_eq!(count(&[norm(0, 1, 50), product(1, 2, 50), product(1, 3, 50)]), 3);
        assert_eq!(count(&[norm(0, 1, 65), product(1, 2, 65)]), 2);
    }

    /// Dispatches are what a small model's chunk costs on a large GPU.
    #[test]
    fn a_chunk_of_the_450m_shape_takes_at_most_1300_dispatches() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/training/shapes/smolvla-450m");
        let checkpoint = crate::checkpoint::Checkpoint::open_without_weights(folder.as_ref()).unwrap();
        let network = crate::plan::Network::new(checkpoint.architecture().clone());
        let shape = crate::plan::Shape { requests: 1, cameras: 2, empty_cameras: 0, language_tokens: 10 };
        let plans = [
            network.encode(2, 1).unwrap().plan,
            network.prefix(shape).unwrap().plan,
            network.denoise(shape).unwrap().plan,
        ];
        let counts = plans.each_ref().map(|plan| fuse(&plan.ops).len());
        assert!(counts.iter().sum::<usize>() <= 1300, "{counts:?}");
    }

    #[test]
    fn a_product_that_writes_over_the_norms_input_leaves_it_alone() {
        assert_eq!(count(&[norm(0, 1, 50), product(1, 0, 50)]), 2);
    }
}
