//! Each op of a plan, for a range of rows of its output.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::ops::Range;

use gemm::{Parallelism, gemm};
use pulp::Arch;

use super::math;
use super::memory::{Arena, CpuWeight};
use crate::plan::{Activation, Mask, Op, Operand, Plan, View, WeightId};

/// Queries whose scores are computed at a time, so that they stay in the cache.
const QUERY_BLOCK: usize = 64;

/// Numbers of scratch that an op needs.
pub(super) fn attention_scratch(op: &Op) -> usize {
    match op {
        Op::Attention { batch, key, query, .. } => QUERY_BLOCK.min(query.rows / batch) * (key.rows / batch),
        _ => 0,
    }
}

/// Cosines and sines of every rotary embedding of a plan, by first position, rows, head width and base.
#[derive(Default)]
pub(super) struct RopeTables(HashMap<(usize, usize, usize, u32), RopeTable>);

/// `rows * head_dim / 2` of each.
struct RopeTable {
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

impl RopeTables {
    pub fn new(plan: &Plan) -> Self {
        let mut tables = Self::default();
        for op in plan.ops() {
            if let Op::Rope { view, head_dim, first_position, theta } = *op {
                let table = || RopeTable::new(first_position, view.rows, head_dim, theta);
                tables.0.entry((first_position, view.rows, head_dim, theta.to_bits())).or_insert_with(table);
            }
        }
        tables
    }
}

impl RopeTable {
    /// In f32 throughout, as the reference computes them (`apply_rope`).
    fn new(first: usize, rows: usize, head_dim: usize, theta: f32) -> Self {
        let half = head_dim / 2;
        let timescales: Vec<f32> = (0..half).map(|j| theta.powf(2.0 / head_dim as f32 * j as f32)).collect();
        let angles = (first..first + rows).flat_map(|position| timescales.iter().map(move |t| position as f32 / t));
        let (cosines, sines) = angles.map(|angle| (angle.cos(), angle.sin())).unzip();
        Self { cosines, sines }
    }
}

/// A plan and the memory it runs in, shared by the threads.
pub(super) struct Context<'a> {
    plan: &'a Plan,
    weights: &'a [CpuWeight],
    offsets: &'a [usize],
    ropes: &'a RopeTables,
    arch: Arch,
    base: *mut f32,
    /// `base` points into the arena, which nobody else may touch meanwhile.
    arena: PhantomData<&'a mut Arena>,
}

// SAFETY: threads share `base`; `Context::run` tells its caller what they may do with it at a time.
unsafe impl Sync for Context<'_> {}

impl<'a> Context<'a> {
    pub fn new(
        plan: &'a Plan,
        weights: &'a [CpuWeight],
        offsets: &'a [usize],
        ropes: &'a RopeTables,
        arena: &'a mut Arena,
    ) -> Self {
        let base = arena.numbers_mut().as_mut_ptr();
        Self { plan, weights, offsets, ropes, arch: Arch::new(), base, arena: PhantomData }
    }

    /// Computes `rows` of the output of `op`. `scratch` is a range of the arena of [`attention_scratch`] numbers.
    ///
    /// # Safety
    /// No other thread may meanwhile write what this reads or touch what this writes: rows `rows` of the op's row-by-row
    /// views, all of its other views, and `scratch`. The plan must have passed [`Plan::check`], and the arena must hold it.
    pub unsafe fn run(&self, op: &Op, rows: Range<usize>, scratch: Range<usize>) {
        let arch = self.arch;
        // SAFETY: throughout, the caller's promise; views lie in their buffers and buffers in the arena, and outputs are
        // apart from inputs unless an op reads the very element that it writes, which the two in-place ops do.
        unsafe {
            match op {
                Op::Gemm { input, weight, scale, bias, activation, residual, output } => {
                    self.begin_sum(rows.clone(), bias.as_ref(), residual.as_ref(), output);
                    let adds = bias.is_some() || residual.is_some();
                    self.product(rows.clone(), input, *weight, *scale, adds, output);
                    for row in rows {
                        match activation {
                            Activation::Identity => break,
                            Activation::Silu => math::silu(arch, self.row_mut(output, row)),
                            Activation::GeluTanh => math::gelu_tanh(arch, self.row_mut(output, row)),
                        }
                    }
                }
                Op::LayerNorm { input, weight, bias, epsilon, output } => {
                    let (weight, bias) = (self.weights[weight.0].row(0), self.weights[bias.0].row(0));
                    for row in rows {
                        let (from, to) = (self.row(input, row), self.row_mut(output, row));
                        math::layer_norm(arch, from, weight, bias, *epsilon, to);
                    }
                }
                Op::RmsNorm { input, weight, epsilon, output } => {
                    let weight = self.weights[weight.0].row(0);
                    for row in rows {
                        math::rms_norm(arch, self.row(input, row), weight, *epsilon, self.row_mut(output, row));
                    }
                }
                Op::Rope { view, head_dim, first_position, theta } => {
                    let key = (*first_position, view.rows, *head_dim, theta.to_bits());
                    let (table, half) = (&self.ropes.0[&key], head_dim / 2);
                    for row in rows {
                        let (cosines, sines) = (&table.cosines[row * half..], &table.sines[row * half..]);
                        for head in self.row_mut(view, row).chunks_exact_mut(*head_dim) {
                            math::rotate(arch, head, &cosines[..half], &sines[..half]);
                        }
                    }
                }
                Op::Attention { batch, heads, kv_heads, head_dim, mask, query, key, value, output } => {
                    let scratch = std::slice::from_raw_parts_mut(self.base.add(scratch.start), scratch.len());
                    let (queries, keys) = (query.rows / batch, key.rows / batch);
                    let group = heads / kv_heads;
                    for element in rows.start / queries..rows.end.div_ceil(queries) {
                        let first = element * queries;
                        let mine = rows.start.max(first) - first..rows.end.min(first + queries) - first;
                        let of_element = |v: &View, rows: usize| v.rows(element * rows..(element + 1) * rows);
                        for head in 0..*heads {
                            let columns = |index: usize| index * head_dim..(index + 1) * head_dim;
                            let attention = HeadAttention {
                                mask,
                                query: of_element(query, queries).columns(columns(head)),
                                key: of_element(key, keys).columns(columns(head / group)),
                                value: of_element(value, keys).columns(columns(head / group)),
                                output: of_element(output, queries).columns(columns(head)),
                            };
                            for start in mine.clone().step_by(QUERY_BLOCK) {
                                let block = start..mine.end.min(start + QUERY_BLOCK);
                                self.attend(&attention, block, scratch);
                            }
                        }
                    }
                }
                Op::SwiGlu { input, output } => {
                    for row in rows {
                        let (gate, up) = self.row(input, row).split_at(output.columns);
                        math::swiglu(arch, gate, up, self.row_mut(output, row));
                    }
                }
                Op::PixelShuffle { input, side, factor, output } => {
                    let (small, n) = (side / factor, input.columns);
                    for row in rows {
                        let (grid, y, x) = (row / (small * small), row / small % small, row % small);
                        for (index, to) in self.row_mut(output, row).chunks_exact_mut(n).enumerate() {
                            let (dy, dx) = (index / factor, index % factor);
                            let from = grid * side * side + (y * factor + dy) * side + x * factor + dx;
                            to.copy_from_slice(self.row(input, from));
                        }
                    }
                }
                Op::Axpy { scale, input, output } => {
                    for row in rows {
                        math::axpy(arch, *scale, self.row(input, row), self.row_mut(output, row));
                    }
                }
            }
        }
    }

    /// Puts what a product is added to into its output: residual and bias, if any.
    ///
    /// # Safety
    /// As [`Context::run`].
    unsafe fn begin_sum(&self, rows: Range<usize>, bias: Option<&Operand>, residual: Option<&Operand>, output: &View) {
        for row in rows {
            // SAFETY: the caller's promise.
            unsafe {
                match (residual, bias) {
                    (Some(Operand::View(view)), _) if view == output => {}
                    (Some(first), _) | (None, Some(first)) => {
                        self.row_mut(output, row).copy_from_slice(self.operand_row(first, row));
                    }
                    (None, None) => return,
                }
                if let (Some(_), Some(bias)) = (residual, bias) {
                    math::axpy(self.arch, 1.0, self.operand_row(bias, row), self.row_mut(output, row));
                }
            }
        }
    }

    /// `output = scale * input x weight^T`, added to what `output` holds if `adds`.
    ///
    /// # Safety
    /// As [`Context::run`].
    unsafe fn product(&self, rows: Range<usize>, input: &View, id: WeightId, scale: f32, adds: bool, output: &View) {
        let weight = &self.weights[id.0];
        // The product is computed transposed: weight x input^T into output^T. Then all three are column by column.
        // SAFETY: the caller's promise; dimensions are those that `Plan::check` compared.
        unsafe {
            gemm(
                weight.rows,
                rows.len(),
                weight.columns,
                self.pointer(output, rows.start),
                self.plan.stride(output) as isize,
                1,
                adds,
                weight.numbers.as_ptr(),
                weight.rows as isize,
                1,
                self.pointer(input, rows.start).cast_const(),
                self.plan.stride(input) as isize,
                1,
                1.0,
                scale,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    }

    /// One head's attention for a block of queries of one batch element.
    ///
    /// # Safety
    /// As [`Context::run`].
    unsafe fn attend(&self, a: &HeadAttention, block: Range<usize>, scores: &mut [f32]) {
        let all = a.key.rows;
        // No query of the block sees more keys than its last one.
        let keys = a.mask.visible(block.end - 1, all);
        let head_dim = a.query.columns;
        let stride = |view: &View| self.plan.stride(view) as isize;
        // SAFETY: the caller's promise; `scores` holds a block of queries times all keys.
        unsafe {
            gemm(
                keys,
                block.len(),
                head_dim,
                scores.as_mut_ptr(),
                keys as isize,
                1,
                false,
                self.pointer(&a.key, 0).cast_const(),
                1,
                stride(&a.key),
                self.pointer(&a.query, block.start).cast_const(),
                stride(&a.query),
                1,
                0.0,
                1.0 / (head_dim as f32).sqrt(),
                false,
                false,
                false,
                Parallelism::None,
            );
        }
        for (query, row) in block.clone().zip(scores.chunks_exact_mut(keys)) {
            let (seen, hidden) = row.split_at_mut(a.mask.visible(query, all));
            math::softmax(self.arch, seen);
            hidden.fill(0.0);
        }
        // SAFETY: as above.
        unsafe {
            gemm(
                head_dim,
                block.len(),
                keys,
                self.pointer(&a.output, block.start),
                stride(&a.output),
                1,
                false,
                self.pointer(&a.value, 0).cast_const(),
                stride(&a.value),
                1,
                scores.as_ptr(),
                keys as isize,
                1,
                0.0,
                1.0,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    }

    fn pointer(&self, view: &View, row: usize) -> *mut f32 {
        let at = self.offsets[view.buffer.0] + self.plan.offset(view) + row * self.plan.stride(view);
        // SAFETY: `Plan::check` found the view inside its buffer, and the arena holds all buffers.
        unsafe { self.base.add(at) }
    }

    /// # Safety
    /// Nobody may write the row while it is borrowed.
    unsafe fn row(&self, view: &View, row: usize) -> &[f32] {
        // SAFETY: `pointer`'s, and the caller's promise.
        unsafe { std::slice::from_raw_parts(self.pointer(view, row), view.columns) }
    }

    /// # Safety
    /// Nobody else may touch the row while it is borrowed.
    #[allow(clippy::mut_from_ref)]
    unsafe fn row_mut(&self, view: &View, row: usize) -> &mut [f32] {
        // SAFETY: `pointer`'s, and the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(view, row), view.columns) }
    }

    /// # Safety
    /// As [`Context::row`].
    unsafe fn operand_row(&self, operand: &Operand, row: usize) -> &[f32] {
        match operand {
            Operand::Weight(id) => self.weights[id.0].row(row),
            // SAFETY: the caller's promise.
            Operand::View(view) => unsafe { self.row(view, row % view.rows) },
        }
    }
}

/// The views of one head in one batch element.
struct HeadAttention<'a> {
    mask: &'a Mask,
    query: View,
    key: View,
    value: View,
    output: View,
}
