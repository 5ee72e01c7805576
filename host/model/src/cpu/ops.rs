//! Each op of a plan, for a range of rows of its output.

use std::collections::HashMap;
use std::ops::Range;

use gemm::{Parallelism, gemm};
use pulp::Arch;

use super::math;
use super::memory::{CpuWeight, Factor, PANEL_ROWS};
use super::phases::Part;
use crate::plan::{Activation, KeyValue, Mask, Numbers, Op, Operand, Plan, View, WeightId};

/// Queries whose scores are computed at a time, so that they stay in the cache: a multiple of the six that `gemm`'s widest
/// kernel takes.
const QUERY_BLOCK: usize = 48;

/// Columns of a panel that are unpacked at a time where a factor is kept in half precision: they take a part of a core's own
/// cache.
const PANEL_DEPTH: usize = 1024;

/// Numbers of scratch that an op needs.
pub(super) fn scratch(op: &Op, weights: &[CpuWeight]) -> usize {
    match op {
        Op::Attention { batch, frames, kv_heads, past, own, query, .. } => {
            let keys = (past.map_or(0, |past| past.key.rows) + own.key.rows) / batch + frames - 1;
            let packed = 2 * keys * own.key.columns / kv_heads;
            packed + QUERY_BLOCK.min(query.rows / batch) * keys
        }
        Op::Gemm { weight, .. } => match &weights[weight.0] {
            CpuWeight::Factor(Factor { numbers: Numbers::Bf16(_) | Numbers::F16(_), .. }) => PANEL_ROWS * PANEL_DEPTH,
            _ => 0,
        },
        _ => 0,
    }
}

/// Cosines and sines of rotary embeddings, by number of positions, head width and base.
#[derive(Default)]
pub(super) struct RopeTables(HashMap<(usize, usize, u32), RopeTable>);

/// `positions * head_dim / 2` of each.
struct RopeTable {
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

impl RopeTables {
    pub fn new(plan: &Plan) -> Self {
        let mut tables = Self::default();
        for op in &plan.ops {
            if let Op::Rope { head_dim, positions, theta, .. } = *op {
                let table = || RopeTable::new(positions, head_dim, theta);
                tables.0.entry((positions, head_dim, theta.to_bits())).or_insert_with(table);
            }
        }
        tables
    }
}

impl RopeTable {
    /// In f32 throughout, as the reference computes them (`apply_rope`).
    fn new(positions: usize, head_dim: usize, theta: f32) -> Self {
        let half = head_dim / 2;
        let timescales: Vec<f32> = (0..half).map(|j| theta.powf(2.0 / head_dim as f32 * j as f32)).collect();
        let angles = (0..positions).flat_map(|position| timescales.iter().map(move |t| position as f32 / t));
        let (cosines, sines) = angles.map(|angle| (angle.cos(), angle.sin())).unzip();
        Self { cosines, sines }
    }
}

/// A plan and the memory it runs in, shared by the threads.
pub(super) struct Context<'a> {
    plan: &'a Plan,
    weights: &'a [CpuWeight],
    /// Where each buffer begins.
    buffers: &'a [*mut f32],
    ropes: &'a RopeTables,
    arch: Arch,
}

// SAFETY: threads share `buffers`; `Context::run` tells its caller what they may do with them at a time.
unsafe impl Sync for Context<'_> {}

impl<'a> Context<'a> {
    /// `buffers` are where the buffers of `plan` begin, in memory that nobody else touches while the context lives.
    pub fn new(plan: &'a Plan, weights: &'a [CpuWeight], buffers: &'a [*mut f32], ropes: &'a RopeTables) -> Self {
        Self { plan, weights, buffers, ropes, arch: Arch::new() }
    }

    /// Computes a part of the output of `op`, with [`scratch`] numbers of scratch.
    ///
    /// # Safety
    /// No other thread may meanwhile write what this reads or touch what this writes: the part's rows of the op's row-by-row
    /// views (of a product its columns of what is added), and all of its other views. Only a product's part may lack columns.
    /// The plan must have passed [`Plan::check`], and its buffers must be whole.
    pub unsafe fn run(&self, op: &Op, part: Part, scratch: &mut [f32]) {
        let (arch, Part { rows, columns }) = (self.arch, part);
        // SAFETY: throughout, the caller's promise; views lie in their buffers and buffers in the arena, and outputs are
        // apart from inputs unless an op reads the very element that it writes, which the two in-place ops do.
        unsafe {
            match op {
                Op::Gemm { input, weight, scale, bias, activation, residual, output } => {
                    let part = Part { rows, columns };
                    self.begin_sum(&part, bias.as_ref(), residual.as_ref(), output);
                    let adds = bias.is_some() || residual.is_some();
                    self.product(&part, input, *weight, *scale, adds, output, scratch);
                    let output = output.columns(part.columns);
                    for row in part.rows {
                        match activation {
                            Activation::Identity => break,
                            Activation::Silu => math::silu(arch, self.row_mut(&output, row)),
                            Activation::GeluTanh => math::gelu_tanh(arch, self.row_mut(&output, row)),
                        }
                    }
                }
                Op::LayerNorm { input, weight, bias, epsilon, output } => {
                    let (weight, bias) = (self.table_row(*weight, 0), self.table_row(*bias, 0));
                    for row in rows {
                        let (from, to) = (self.row(input, row), self.row_mut(output, row));
                        math::layer_norm(arch, from, weight, bias, *epsilon, to);
                    }
                }
                Op::RmsNorm { input, weight, epsilon, output } => {
                    let weight = self.table_row(*weight, 0);
                    for row in rows {
                        math::rms_norm(arch, self.row(input, row), weight, *epsilon, self.row_mut(output, row));
                    }
                }
                Op::Rope { view, batch, head_dim, first_position, positions, theta } => {
                    let (table, half) = (&self.ropes.0[&(*positions, *head_dim, theta.to_bits())], head_dim / 2);
                    let block = view.rows / batch;
                    for row in rows {
                        let at = (first_position + row % block) * half;
                        let (cosines, sines) = (&table.cosines[at..at + half], &table.sines[at..at + half]);
                        for head in self.row_mut(view, row).chunks_exact_mut(*head_dim) {
                            math::rotate(arch, head, cosines, sines);
                        }
                    }
                }
                Op::Attention { batch, frames, heads, kv_heads, head_dim, mask, query, past, own, output } => {
                    let queries = query.rows / batch;
                    let group = heads / kv_heads;
                    for element in rows.start / queries..rows.end.div_ceil(queries) {
                        let first = element * queries;
                        let mine = rows.start.max(first) - first..rows.end.min(first + queries) - first;
                        let of = |v: &View, element: usize| {
                            let rows = v.rows / batch;
                            v.rows(element * rows..(element + 1) * rows)
                        };
                        let columns = |index: usize| index * head_dim..(index + 1) * head_dim;
                        for kv_head in 0..*kv_heads {
                            let keys_values = |kv: &KeyValue, element: usize| KeyValue {
                                key: of(&kv.key, element).columns(columns(kv_head)),
                                value: of(&kv.value, element).columns(columns(kv_head)),
                            };
                            let segments: Vec<KeyValue> =
                                past.iter().chain([own]).map(|kv| keys_values(kv, element)).collect();
                            let keys = segments.iter().map(|segment| segment.key.rows).sum();
                            let (packed, scratch) = self.pack(&segments, mask.visible(mine.end - 1, keys), scratch);
                            let earlier = element - element % frames..element;
                            let mut attention = HeadAttention {
                                mask,
                                keys,
                                earlier: earlier.map(|element| keys_values(own, element)).collect(),
                                query: *query,
                                output: *output,
                            };
                            for head in kv_head * group..(kv_head + 1) * group {
                                attention.query = of(query, element).columns(columns(head));
                                attention.output = of(output, element).columns(columns(head));
                                for start in mine.clone().step_by(QUERY_BLOCK) {
                                    let block = start..mine.end.min(start + QUERY_BLOCK);
                                    self.attend(&attention, &packed, block, scratch);
                                }
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
    unsafe fn begin_sum(&self, part: &Part, bias: Option<&Operand>, residual: Option<&Operand>, output: &View) {
        let mine = output.columns(part.columns.clone());
        for row in part.rows.clone() {
            // SAFETY: the caller's promise.
            unsafe {
                match (residual, bias) {
                    (Some(Operand::View(view)), _) if view == output => {}
                    (Some(first), _) | (None, Some(first)) => {
                        let operand = &self.operand_row(first, row)[part.columns.clone()];
                        self.row_mut(&mine, row).copy_from_slice(operand);
                    }
                    (None, None) => return,
                }
                if let (Some(_), Some(bias)) = (residual, bias) {
                    let operand = &self.operand_row(bias, row)[part.columns.clone()];
                    math::axpy(self.arch, 1.0, operand, self.row_mut(&mine, row));
                }
            }
        }
    }

    /// `output = scale * input x weight^T`, added to what `output` holds if `adds`.
    ///
    /// # Safety
    /// As [`Context::run`].
    #[allow(clippy::too_many_arguments)] // they are those of the op
    unsafe fn product(
        &self,
        part: &Part,
        input: &View,
        id: WeightId,
        scale: f32,
        adds: bool,
        output: &View,
        scratch: &mut [f32],
    ) {
        let CpuWeight::Factor(factor) = &self.weights[id.0] else {
            unreachable!("`Plan::check` found the weight to be a factor")
        };
        let Part { rows, columns } = part;
        // The product is computed transposed: weight x input^T into output^T. Then all three are column by column.
        let multiply = |outputs: Range<usize>, depth: Range<usize>, panel: &[f32], stride: usize, adds: bool| {
            // SAFETY: the caller's promise; dimensions are those that `Plan::check` compared.
            unsafe {
                gemm(
                    outputs.len(),
                    rows.len(),
                    depth.len(),
                    self.pointer(output, rows.start).add(outputs.start),
                    self.plan.stride(output) as isize,
                    1,
                    adds,
                    panel.as_ptr(),
                    stride as isize,
                    1,
                    self.pointer(input, rows.start).add(depth.start).cast_const(),
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
        };
        let k = factor.columns;
        for (panel, begin) in factor.panels(columns) {
            let mine = columns.start.max(panel.start)..columns.end.min(panel.end);
            let (width, skipped) = (panel.len(), mine.start - panel.start);
            let unpack = |unpack: fn(Arch, &[u16], &mut [f32]), bits: &[u16], scratch: &mut [f32]| {
                for from in (0..k).step_by(PANEL_DEPTH) {
                    let depth = from..k.min(from + PANEL_DEPTH);
                    let numbers = &mut scratch[..depth.len() * width];
                    unpack(self.arch, &bits[begin + from * width..][..numbers.len()], numbers);
                    multiply(mine.clone(), depth, &numbers[skipped..], width, adds || from > 0);
                }
            };
            match &factor.numbers {
                Numbers::F32(numbers) => multiply(mine.clone(), 0..k, &numbers[begin + skipped..], width, adds),
                Numbers::Bf16(bits) => unpack(math::unpack_bf16, bits, scratch),
                Numbers::F16(bits) => unpack(math::unpack_f16, bits, scratch),
            }
        }
    }

    /// Brings the keys and values that some query heads share into the order in which products read them.
    ///
    /// # Safety
    /// As [`Context::run`].
    unsafe fn pack<'s>(
        &self,
        segments: &[KeyValue],
        width: usize,
        scratch: &'s mut [f32],
    ) -> (Packed<'s>, &'s mut [f32]) {
        /// Keys that are brought into order at a time: a cache line of them.
        const AT_ONCE: usize = 16;
        let head_dim = segments.first().map_or(0, |segment| segment.key.columns);
        let (keys, rest) = scratch.split_at_mut(head_dim * width);
        let (values, rest) = rest.split_at_mut(width * head_dim);
        let mut first = 0;
        for segment in segments {
            let count = segment.key.rows.min(width - first);
            for start in (0..count).step_by(AT_ONCE) {
                let block = start..count.min(start + AT_ONCE);
                for (column, keys) in keys.chunks_exact_mut(width).enumerate() {
                    for (key, row) in keys[first + block.start..first + block.end].iter_mut().zip(block.clone()) {
                        // SAFETY: the caller's promise; the column is one of the view's.
                        *key = unsafe { *self.pointer(&segment.key, row).add(column) };
                    }
                }
            }
            for (row, values) in values[first * head_dim..].chunks_exact_mut(head_dim).take(count).enumerate() {
                // SAFETY: the caller's promise.
                values.copy_from_slice(unsafe { self.row(&segment.value, row) });
            }
            first += count;
        }
        (Packed { keys, values, width }, rest)
    }

    /// One head's attention for a block of queries of one batch element.
    ///
    /// # Safety
    /// As [`Context::run`].
    unsafe fn attend(&self, a: &HeadAttention, packed: &Packed, block: Range<usize>, scratch: &mut [f32]) {
        // No query of the block sees more keys than its last one.
        let most = a.mask.visible(block.end - 1, a.keys);
        let head_dim = a.query.columns;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let stride = |view: &View| self.plan.stride(view) as isize;
        // A row of scores: of the keys that the mask lets through, then of the same place in earlier frames.
        let width = most + a.earlier.len();
        let scores = &mut scratch[..width * block.len()];
        // SAFETY: the caller's promise; a row of `scores` holds all keys, of which as many are packed.
        unsafe {
            gemm(
                most,
                block.len(),
                head_dim,
                scores.as_mut_ptr(),
                width as isize,
                1,
                false,
                packed.keys.as_ptr(),
                packed.width as isize,
                1,
                self.pointer(&a.query, block.start).cast_const(),
                stride(&a.query),
                1,
                0.0,
                scale,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
        let mut factors = [0.0; QUERY_BLOCK];
        for ((query, row), factor) in block.clone().zip(scores.chunks_exact_mut(width)).zip(&mut factors) {
            if a.earlier.is_empty() {
                let (seen, hidden) = row.split_at_mut(a.mask.visible(query, a.keys));
                *factor = math::softmax(self.arch, seen);
                hidden.fill(0.0);
                continue;
            }
            for (score, frame) in row[most..].iter_mut().zip(&a.earlier) {
                // SAFETY: the caller's promise.
                let (query, key) = unsafe { (self.row(&a.query, query), self.row(&frame.key, query)) };
                *score = scale * math::dot(self.arch, query, key);
            }
            *factor = math::softmax(self.arch, row);
        }
        // SAFETY: as above.
        unsafe {
            gemm(
                head_dim,
                block.len(),
                most,
                self.pointer(&a.output, block.start),
                stride(&a.output),
                1,
                false,
                packed.values.as_ptr(),
                head_dim as isize,
                1,
                scores.as_ptr(),
                width as isize,
                1,
                0.0,
                1.0,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
        for ((query, row), factor) in block.zip(scores.chunks_exact(width)).zip(factors) {
            // SAFETY: the caller's promise.
            let output = unsafe { self.row_mut(&a.output, query) };
            for (weight, frame) in row[most..].iter().zip(&a.earlier) {
                // SAFETY: the caller's promise.
                math::axpy(self.arch, *weight, unsafe { self.row(&frame.value, query) }, output);
            }
            math::multiply(self.arch, factor, output);
        }
    }

    fn pointer(&self, view: &View, row: usize) -> *mut f32 {
        let at = self.plan.offset(view) + row * self.plan.stride(view);
        // SAFETY: `Plan::check` found the view inside its buffer.
        unsafe { self.buffers[view.buffer.0].add(at) }
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

    /// Row `row` of a table; rows repeat.
    fn table_row(&self, id: WeightId, row: usize) -> &[f32] {
        let CpuWeight::Table { numbers, columns } = &self.weights[id.0] else {
            unreachable!("`Plan::check` found the weight to be a table")
        };
        &numbers[row * columns % numbers.len()..][..*columns]
    }

    /// # Safety
    /// As [`Context::row`].
    unsafe fn operand_row(&self, operand: &Operand, row: usize) -> &[f32] {
        match operand {
            Operand::Weight(id) => self.table_row(*id, row),
            // SAFETY: the caller's promise.
            Operand::View(view) => unsafe { self.row(view, row % view.rows) },
        }
    }
}

/// Keys and values in the order in which products read them.
struct Packed<'a> {
    /// `head_dim` rows of `width` keys.
    keys: &'a [f32],
    /// `width` rows of `head_dim`.
    values: &'a [f32],
    width: usize,
}

/// The views of one head in one batch element.
struct HeadAttention<'a> {
    mask: &'a Mask,
    query: View,
    /// Keys that there are, the mask aside.
    keys: usize,
    /// Of the frames before this one.
    earlier: Vec<KeyValue>,
    output: View,
}
