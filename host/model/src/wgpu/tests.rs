//! Every kernel, and the CPU's ops beside them, against a plain loop, over shapes that are multiples of nothing.

use std::num::NonZeroUsize;
use std::slice;
use std::sync::Arc;

use super::fuse::FEW_ROWS;
use super::kernels::Format;
use super::{Adapters, Gpu, WgpuExecutor};
use crate::checkpoint::{CheckpointError, WeightSource};
use crate::cpu::CpuExecutor;
use crate::executor::{Executor, Source, Target};
use crate::plan::{
    Activation, Buffer, BufferId, KeyValue, Layout, Mask, Numbers, Op, Operand, Pick, Plan, Role, View, Weight,
    WeightId,
};

/// Rounds of each test; every round draws new shapes.
const ROUNDS: u64 = 6;

/// Opens an adapter, or says that the test proves nothing here. With `WAZA_REQUIRE_GPU=1` a missing adapter is a failure.
fn gpu() -> Option<Gpu> {
    match Gpu::open(Adapters::Any) {
        Ok(gpu) => Some(gpu),
        Err(error) if std::env::var_os("WAZA_REQUIRE_GPU").is_some_and(|v| v == "1") => panic!("{error}"),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// Which kernels to test, whatever the adapter would choose.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kernels {
    Software,
    Hardware,
    /// Tiles as large as they come for small matrices, too.
    HardwareWithLargeTiles,
}

/// Numbers that look random and are the same on every run (SplitMix64).
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    fn size(&mut self, most: usize) -> usize {
        1 + self.below(most)
    }

    fn numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
    }
}

/// A plan of a single op, with the content of its buffers and weights.
struct Bench {
    random: Random,
    buffers: Vec<Buffer>,
    contents: Vec<Vec<f32>>,
    weights: Vec<Weight>,
    weight_contents: Vec<Vec<f32>>,
    formats: Vec<Format>,
}

impl WeightSource for Bench {
    fn load(&self, weight: &Weight) -> Result<Numbers, CheckpointError> {
        let index: usize = weight.tensors[0].parse().unwrap();
        let numbers = self.weight_contents[index].iter().copied();
        Ok(match self.formats[index] {
            Format::F32 => Numbers::F32(numbers.collect()),
            Format::Bf16 => Numbers::Bf16(numbers.map(|x| half::bf16::from_f32(x).to_bits()).collect()),
            Format::F16 => Numbers::F16(numbers.map(|x| half::f16::from_f32(x).to_bits()).collect()),
        })
    }
}

impl Bench {
    fn new(seed: u64) -> Self {
        let (buffers, contents, weights) = (Vec::new(), Vec::new(), Vec::new());
        let (weight_contents, formats) = (Vec::new(), Vec::new());
        Self { random: Random(seed), buffers, contents, weights, weight_contents, formats }
    }

    /// A rectangle somewhere inside a larger buffer, with NaN around it, which nobody may use.
    fn view(&mut self, rows: usize, columns: usize) -> View {
        let (row, column) = (self.random.below(3), self.random.below(6));
        self.placed(rows, columns, row, column)
    }

    fn placed(&mut self, rows: usize, columns: usize, row: usize, column: usize) -> View {
        let buffer =
            Buffer { name: "buffer", rows: row + rows + 2, columns: 2 * column + columns, initial: None, kept: false };
        let mut content = vec![f32::NAN; buffer.rows * buffer.columns];
        for line in content.chunks_mut(buffer.columns).skip(row).take(rows) {
            line[column..column + columns].copy_from_slice(&self.random.numbers(columns));
        }
        self.contents.push(content);
        self.buffers.push(buffer);
        View { buffer: BufferId(self.buffers.len() - 1), row, rows, column, columns }
    }

    fn factor(&mut self, rows: usize, columns: usize) -> WeightId {
        let id = self.table(rows, columns);
        self.weights[id.0].role = Role::Factor;
        // What a file has is exact in its own format.
        let format = [Format::F32, Format::Bf16, Format::F16][self.random.below(3)];
        let round = |x: f32| match format {
            Format::F32 => x,
            Format::Bf16 => half::bf16::from_f32(x).to_f32(),
            Format::F16 => half::f16::from_f32(x).to_f32(),
        };
        self.weight_contents[id.0].iter_mut().for_each(|x| *x = round(*x));
        self.formats[id.0] = format;
        id
    }

    fn table(&mut self, rows: usize, columns: usize) -> WeightId {
        let index = self.weights.len();
        self.weight_contents.push(self.random.numbers(rows * columns));
        self.formats.push(Format::F32);
        let (tensors, take) = (vec![index.to_string()], 0..columns);
        self.weights.push(Weight { rows, columns, tensors, take, pick: Pick::All, role: Role::Table });
        WeightId(index)
    }

    fn place(&self, view: &View, row: usize, column: usize) -> usize {
        (view.row + row) * self.buffers[view.buffer.0].columns + view.column + column
    }

    fn at(&self, view: &View, row: usize, column: usize) -> f64 {
        self.contents[view.buffer.0][self.place(view, row, column)].into()
    }

    fn weight_at(&self, id: WeightId, row: usize, column: usize) -> f64 {
        self.weight_contents[id.0][row * self.weights[id.0].columns + column].into()
    }

    fn operand_at(&self, operand: Option<Operand>, row: usize, column: usize) -> f64 {
        match operand {
            None => 0.0,
            Some(Operand::Weight(id)) => self.weight_at(id, row % self.weights[id.0].rows, column),
            Some(Operand::View(view)) => self.at(&view, row % view.rows, column),
        }
    }

    /// Runs `op` and compares the whole buffer that it writes with `expected` inside `output` and the old content around.
    fn check(&self, gpu: Gpu, kernels: Kernels, op: &Op, output: View, expected: impl Fn(usize, usize) -> f64) {
        self.check_ops(gpu, kernels, slice::from_ref(op), 1, output, expected);
    }

    /// As [`Bench::check`], of `ops` that take so many dispatches.
    fn check_ops(
        &self,
        gpu: Gpu,
        kernels: Kernels,
        ops: &[Op],
        dispatches: usize,
        output: View,
        expected: impl Fn(usize, usize) -> f64,
    ) {
        let buffers = Arc::from(self.buffers.clone());
        let plan = Plan { name: "test", layout: Layout::new(), variant: 0, buffers, ops: ops.to_vec() };
        plan.check(&self.weights).unwrap();
        let mut executor = WgpuExecutor::new(gpu, &self.weights, self).unwrap();
        if kernels != Kernels::Software {
            executor.profile.software_lanes = None;
        }
        if kernels == Kernels::HardwareWithLargeTiles {
            executor.profile.enough_workgroups = 4;
        }
        assert_eq!(executor.dispatches(&plan), Some(dispatches));
        self.check_on(&mut executor, &plan, output, &expected);
        let mut executor = CpuExecutor::new(&self.weights, self, NonZeroUsize::MIN).unwrap();
        self.check_on(&mut executor, &plan, output, &expected);
    }

    fn check_on(
        &self,
        executor: &mut dyn Executor,
        plan: &Plan,
        output: View,
        expected: &impl Fn(usize, usize) -> f64,
    ) {
        let whole = |index: usize| {
            let Buffer { rows, columns, .. } = self.buffers[index];
            View { buffer: BufferId(index), row: 0, rows, column: 0, columns }
        };
        let inputs: Vec<_> =
            self.contents.iter().enumerate().map(|(i, numbers)| (whole(i), Source::Host(numbers))).collect();
        let mut found = self.contents[output.buffer.0].clone();
        // The second run must not see anything that the first has left behind.
        for _ in 0..2 {
            found.fill(f32::INFINITY);
            executor.run(plan, &inputs, &mut [(whole(output.buffer.0), Target::Host(&mut found))]).unwrap();
        }
        let mut wanted: Vec<f64> = self.contents[output.buffer.0].iter().map(|x| f64::from(*x)).collect();
        for row in 0..output.rows {
            for column in 0..output.columns {
                wanted[self.place(&output, row, column)] = expected(row, column);
            }
        }
        for (index, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            let error = (f64::from(*found) - wanted).abs();
            let untouched = found.is_nan() && wanted.is_nan();
            assert!(
                untouched || error <= 2e-5 * (1.0 + wanted.abs()),
                "{}: {:?}, number {index}: {found} instead of {wanted}",
                executor.device(),
                plan.ops
            );
        }
    }
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Identity => x,
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + (std::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
    }
}

fn check_gemm(gpu: Gpu, kernels: Kernels, bench: &mut Bench, m: usize, n: usize, k: usize) {
    // Half of the rounds are aligned, for the vector loads.
    let aligned = bench.random.below(2) == 0;
    let k = if aligned { k.next_multiple_of(4) } else { k };
    let input = if aligned { bench.placed(m, k, 1, 4) } else { bench.view(m, k) };
    let weight = bench.factor(n, k);
    let output = bench.view(m, n);
    let bias = match bench.random.below(3) {
        0 => None,
        1 => Some(Operand::Weight(bench.table(1, n))),
        _ => Some(Operand::View(bench.view(m, n))),
    };
    // An op has an activation or a residual.
    let (activation, residual) = match bench.random.below(6) {
        0 => (Activation::Identity, None),
        1 => (Activation::Silu, None),
        2 => (Activation::GeluTanh, None),
        3 => (Activation::Identity, Some(Operand::Weight(bench.table(if m.is_multiple_of(2) { m / 2 } else { m }, n)))),
        4 => (Activation::Identity, Some(Operand::View(bench.view(1, n)))),
        _ => (Activation::Identity, Some(Operand::View(output))),
    };
    let scale = 0.37;
    let op = Op::Gemm { input, weight, scale, bias, activation, residual, output };
    bench.check(gpu, kernels, &op, output, |row, column| {
        let product: f64 = (0..k).map(|i| bench.at(&input, row, i) * bench.weight_at(weight, column, i)).sum();
        bench.operand_at(residual, row, column)
            + activate(activation, f64::from(0.37_f32) * product + bench.operand_at(bias, row, column))
    });
}

#[test]
fn gemm_on_hardware_kernels_agrees_with_a_loop_over_odd_shapes() {
    for seed in 0..4 * ROUNDS {
        let Some(gpu) = gpu() else { return };
        let mut bench = Bench::new(seed);
        let (m, n, k) = (bench.random.size(150), bench.random.size(150), bench.random.size(130));
        check_gemm(gpu, Kernels::Hardware, &mut bench, m, n, k);
    }
}

#[test]
fn gemm_on_software_kernels_agrees_with_a_loop_over_odd_shapes() {
    for seed in 0..4 * ROUNDS {
        let Some(gpu) = gpu() else { return };
        let mut bench = Bench::new(seed);
        let (m, n, k) = (bench.random.size(90), bench.random.size(90), bench.random.size(130));
        check_gemm(gpu, Kernels::Software, &mut bench, m, n, k);
    }
}

#[test]
fn gemm_in_large_tiles_agrees_with_a_loop_over_odd_shapes() {
    for seed in 0..4 * ROUNDS {
        let Some(gpu) = gpu() else { return };
        let mut bench = Bench::new(seed);
        let (m, n, k) = (bench.random.size(300), bench.random.size(200), bench.random.size(90));
        check_gemm(gpu, Kernels::HardwareWithLargeTiles, &mut bench, m, n, k);
    }
}

#[test]
fn a_product_that_norms_or_gates_its_input_itself_agrees_with_a_loop() {
    for seed in 0..8 * ROUNDS {
        let Some(gpu) = gpu() else { return };
        let mut bench = Bench::new(seed);
        let (m, n, k) = (bench.random.size(FEW_ROWS), bench.random.size(200), bench.random.size(150));
        let aligned = bench.random.below(2) == 0;
        let k = if aligned { k.next_multiple_of(4) } else { k };
        let gates = bench.random.below(2) == 0;
        let width = if gates { 2 * k } else { k };
        let entered = if aligned { bench.placed(m, width, 1, 4) } else { bench.view(m, width) };
        let (middle, output) = (bench.view(m, k), bench.view(m, n));
        let (weight, gain, bias) = (bench.factor(n, k), bench.table(1, k), bench.table(1, n));
        let (epsilon, scale, residual) = (1e-3, 0.7, Some(Operand::View(output)));
        let prologue = match gates {
            true => Op::SwiGlu { input: entered, output: middle },
            false => Op::RmsNorm { input: entered, weight: gain, epsilon, output: middle },
        };
        let (activation, bias) = (Activation::Identity, Some(Operand::Weight(bias)));
        let product = Op::Gemm { input: middle, weight, scale, bias, activation, residual, output };
        let entered_at = |row: usize, i: usize| match gates {
            true => activate(Activation::Silu, bench.at(&entered, row, i)) * bench.at(&entered, row, k + i),
            false => {
                let mean_square = (0..k).map(|i| bench.at(&entered, row, i).powi(2)).sum::<f64>() / k as f64;
                bench.at(&entered, row, i) / (mean_square + f64::from(epsilon)).sqrt() * bench.weight_at(gain, 0, i)
            }
        };
        let rows: Vec<Vec<f64>> = (0..m).map(|row| (0..k).map(|i| entered_at(row, i)).collect()).collect();
        let kernels = [Kernels::Hardware, Kernels::HardwareWithLargeTiles][seed as usize % 2];
        bench.check_ops(gpu, kernels, &[prologue, product], 1, output, |row, column| {
            let product: f64 = (0..k).map(|i| rows[row][i] * bench.weight_at(weight, column, i)).sum();
            bench.at(&output, row, column) + f64::from(0.7_f32) * product + bench.operand_at(bias, row, column)
        });
    }
}

#[test]
fn attention_on_hardware_kernels_agrees_with_a_loop_for_every_mask_and_grouping() {
    check_attention(Kernels::Hardware);
}

#[test]
fn attention_in_large_tiles_agrees_with_a_loop_for_every_mask_and_grouping() {
    check_attention(Kernels::HardwareWithLargeTiles);
}

#[test]
fn attention_on_software_kernels_agrees_with_a_loop_for_every_mask_and_grouping() {
    check_attention(Kernels::Software);
}

fn check_attention(kernels: Kernels) {
    for seed in 0..3 * ROUNDS {
        let Some(gpu) = gpu() else { return };
        let mut bench = Bench::new(seed);
        let (batch, kv_heads, group) = (bench.random.size(3), bench.random.size(2), bench.random.size(3));
        let (queries, keys) = (bench.random.size(40), bench.random.size(90));
        let head_dim = [6, 8, 16, 20, 32, 64, 128][bench.random.below(7)];
        let heads = kv_heads * group;
        let past_keys = [0, bench.random.below(keys)][bench.random.below(2)];
        let mask = match bench.random.below(3) {
            0 => Mask { open: keys, offset: 0 },
            1 => Mask { open: bench.random.below(keys), offset: 0 },
            _ => Mask { open: keys.saturating_sub(queries), offset: keys.saturating_sub(queries) },
        };
        let width = kv_heads * head_dim;
        // Half of the rounds are aligned, for the vector loads.
        let aligned = bench.random.below(2) == 0;
        let mut view = |rows, columns| match aligned {
            true => bench.placed(rows, columns, 1, 4),
            false => bench.view(rows, columns),
        };
        let query = view(batch * queries, heads * head_dim);
        let past = (past_keys > 0).then(|| view(batch * past_keys, 2 * width));
        let own = view(batch * (keys - past_keys), 2 * width);
        let output = bench.view(batch * queries, heads * head_dim);
        let op = Op::Attention {
            batch,
            frames: 1,
            heads,
            kv_heads,
            head_dim,
            mask,
            query,
            past: past.map(KeyValue::halves),
            own: KeyValue::halves(own),
            output,
        };
        let at = |element: usize, key: usize, column: usize| match past {
            Some(past) if key < past_keys => bench.at(&past, element * past_keys + key, column),
            _ => bench.at(&own, element * (keys - past_keys) + key - past_keys, column),
        };
        bench.check(gpu, kernels, &op, output, |row, column| {
            let (element, head) = (row / queries, column / head_dim);
            let first_column = head / group * head_dim;
            let seen = mask.visible(row % queries, keys);
            let places = (0..seen).map(|key| (element, key));
            let query = |d: usize| bench.at(&query, row, head * head_dim + d);
            let key = |(element, key), d: usize| at(element, key, first_column + d);
            let value = |(element, key)| at(element, key, width + first_column + column % head_dim);
            attend(places, head_dim, query, key, value)
        });
    }
}

/// What attention gives for one number of its output, of the keys and values at `places`.
fn attend<P: Copy>(
    places: impl Iterator<Item = P>,
    head_dim: usize,
    query: impl Fn(usize) -> f64,
    key: impl Fn(P, usize) -> f64,
    value: impl Fn(P) -> f64,
) -> f64 {
    let places: Vec<P> = places.collect();
    let score = |place: &P| (0..head_dim).map(|d| query(d) * key(*place, d)).sum::<f64>() / (head_dim as f64).sqrt();
    let scores: Vec<f64> = places.iter().map(score).collect();
    let highest = scores.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
    let weights: Vec<f64> = scores.iter().map(|score| (score - highest).exp()).collect();
    let mixed: f64 = weights.iter().zip(&places).map(|(weight, place)| weight * value(*place)).sum();
    mixed / weights.iter().sum::<f64>()
}

/// WebGPU promises no more, and some adapters have no more.
#[test]
fn kernels_for_the_usual_widths_need_at_most_16_kib_of_shared_memory_in_a_workgroup() {
    use super::kernels::{Enter, Kernel, Load, Tile};
    let (load, weights, enter) = (Load::Vec4, Format::F32, Enter::RmsNorm);
    let products = Tile::ALL.map(|tile| Kernel::GemmTiled { tile, load, weights, enter });
    let attention = [32, 64].map(|head_dim| Kernel::Attention { head_dim, rows: 1, load });
    for kernel in products.into_iter().chain(attention) {
        assert!(kernel.workgroup_bytes() <= 16 << 10, "{kernel:?}: {}", kernel.workgroup_bytes());
    }
}

#[test]
fn attention_over_frames_sees_the_same_place_in_earlier_ones_and_in_no_other_run() {
    for seed in 0..2 * ROUNDS {
        let Some(gpu) = gpu() else { return };
        let mut bench = Bench::new(seed);
        let (runs, frames, heads) = (bench.random.size(3), bench.random.size(4), bench.random.size(3));
        let (patches, head_dim) = (bench.random.size(40), [6, 20, 64][bench.random.below(3)]);
        let (batch, width) = (runs * frames, heads * head_dim);
        let query = bench.view(batch * patches, width);
        let own = bench.view(batch * patches, 2 * width);
        let output = bench.view(batch * patches, width);
        let op = Op::Attention {
            batch,
            frames,
            heads,
            kv_heads: heads,
            head_dim,
            mask: Mask { open: patches, offset: 0 },
            query,
            past: None,
            own: KeyValue::halves(own),
            output,
        };
        let kernels = [Kernels::Hardware, Kernels::HardwareWithLargeTiles][seed as usize % 2];
        bench.check(gpu, kernels, &op, output, |row, column| {
            let (frame, patch) = (row / patches, row % patches);
            let first_column = column / head_dim * head_dim;
            let ones_own = (0..patches).map(|other| frame * patches + other);
            let earlier = (frame - frame % frames..frame).map(|other| other * patches + patch);
            let query = |d: usize| bench.at(&query, row, first_column + d);
            let key = |at: usize, d: usize| bench.at(&own, at, first_column + d);
            attend(ones_own.chain(earlier), head_dim, query, key, |at| bench.at(&own, at, width + column))
        });
    }
}

#[test]
fn attention_survives_scores_far_apart() {
    for kernels in [Kernels::Hardware, Kernels::Software] {
        let Some(gpu) = gpu() else { return };
        let mut bench = Bench::new(1);
        let (query, own, output) = (bench.placed(1, 8, 0, 0), bench.placed(40, 16, 0, 0), bench.placed(1, 8, 0, 0));
        bench.contents[query.buffer.0][..8].fill(100.0);
        for row in 0..40 {
            // Scores from -28 284 to 56 569: the exponentials of nearly all underflow, and the highest comes late.
            bench.contents[own.buffer.0][16 * row..16 * row + 8].fill(if row == 37 { 200.0 } else { -100.0 });
        }
        let (mask, own) = (Mask { open: 40, offset: 0 }, KeyValue::halves(own));
        let (batch, frames, heads, kv_heads, head_dim) = (1, 1, 1, 1, 8);
        let op = Op::Attention { batch, frames, heads, kv_heads, head_dim, mask, query, past: None, own, output };
        bench.check(gpu, kernels, &op, output, |_, column| bench.at(&own.value, 37, column));
    }
}

#[test]
fn norms_agree_with_a_loop() {
    for seed in 0..ROUNDS {
        let mut bench = Bench::new(seed);
        let (rows, width) = (bench.random.size(20), bench.random.size(300));
        let (input, output) = (bench.view(rows, width), bench.view(rows, width));
        let (weight, bias) = (bench.table(1, width), bench.table(1, width));
        let epsilon = 1e-5;
        let mean_of = |row: usize, f: &dyn Fn(f64) -> f64| {
            (0..width).map(|i| f(bench.at(&input, row, i))).sum::<f64>() / width as f64
        };
        let Some(device) = gpu() else { return };
        let op = Op::LayerNorm { input, weight, bias, epsilon, output };
        bench.check(device, Kernels::Hardware, &op, output, |row, column| {
            let mean = mean_of(row, &|x| x);
            let variance = mean_of(row, &|x| (x - mean).powi(2));
            let x = (bench.at(&input, row, column) - mean) / (variance + f64::from(epsilon)).sqrt();
            x * bench.weight_at(weight, 0, column) + bench.weight_at(bias, 0, column)
        });
        let Some(device) = gpu() else { return };
        let op = Op::RmsNorm { input, weight, epsilon, output };
        bench.check(device, Kernels::Hardware, &op, output, |row, column| {
            let mean_square = mean_of(row, &|x| x * x);
            bench.at(&input, row, column) / (mean_square + f64::from(epsilon)).sqrt()
                * bench.weight_at(weight, 0, column)
        });
    }
}

#[test]
fn rope_agrees_with_a_loop() {
    for seed in 0..ROUNDS {
        let Some(gpu) = gpu() else { return };
        let mut bench = Bench::new(seed);
        let (rows, heads, half) = (bench.random.size(50), bench.random.size(4), bench.random.size(40));
        let batch = bench.random.size(3);
        let view = bench.view(batch * rows, heads * 2 * half);
        let first_position = bench.random.below(300);
        let positions = first_position + rows + bench.random.below(3);
        let op = Op::Rope { view, batch, head_dim: 2 * half, first_position, positions, theta: 10_000.0 };
        bench.check(gpu, Kernels::Hardware, &op, view, |row, column| {
            let (head, j) = (column / (2 * half), column % half);
            let angle = (first_position + row % rows) as f64 / 10_000_f64.powf(j as f64 / half as f64);
            let low = bench.at(&view, row, head * 2 * half + j);
            let high = bench.at(&view, row, head * 2 * half + j + half);
            match column % (2 * half) < half {
                true => low * angle.cos() - high * angle.sin(),
                false => high * angle.cos() + low * angle.sin(),
            }
        });
    }
}

#[test]
fn elementwise_kernels_agree_with_a_loop() {
    for seed in 0..ROUNDS {
        let mut bench = Bench::new(seed);
        let (rows, columns) = (bench.random.size(70), bench.random.size(90));
        let (input, wide, output) =
            (bench.view(rows, columns), bench.view(rows, 2 * columns), bench.view(rows, columns));
        let Some(device) = gpu() else { return };
        let op = Op::Axpy { scale: -0.1, input, output };
        bench.check(device, Kernels::Hardware, &op, output, |row, column| {
            bench.at(&output, row, column) + f64::from(-0.1_f32) * bench.at(&input, row, column)
        });
        let Some(device) = gpu() else { return };
        let op = Op::SwiGlu { input: wide, output };
        bench.check(device, Kernels::Hardware, &op, output, |row, column| {
            activate(Activation::Silu, bench.at(&wide, row, column)) * bench.at(&wide, row, columns + column)
        });
    }
}

#[test]
fn pixel_shuffle_agrees_with_a_loop() {
    for seed in 0..ROUNDS {
        let Some(gpu) = gpu() else { return };
        let mut bench = Bench::new(seed);
        let (grids, factor, width) = (bench.random.size(3), bench.random.size(4), bench.random.size(20));
        let small = bench.random.size(3);
        let side = small * factor;
        let input = bench.view(grids * side * side, width);
        let output = bench.view(grids * small * small, width * factor * factor);
        let op = Op::PixelShuffle { input, side, factor, output };
        bench.check(gpu, Kernels::Hardware, &op, output, |row, column| {
            let (grid, y, x) = (row / (small * small), row / small % small, row % small);
            let (dy, dx) = (column / width / factor, column / width % factor);
            bench.at(&input, grid * side * side + (y * factor + dy) * side + x * factor + dx, column % width)
        });
    }
}

#[test]
fn all_that_was_made_for_a_plan_goes_when_it_is_forgotten() {
    let Some(gpu) = gpu() else { return };
    let mut bench = Bench::new(0);
    let (half, positions) = (8, 5000);
    let view = bench.view(2, 2 * half);
    let op = Op::Rope { view, batch: 1, head_dim: 2 * half, first_position: 0, positions, theta: 10_000.0 };
    let mut executor = WgpuExecutor::new(gpu, &bench.weights, &bench).unwrap();
    let before = executor.bytes();
    let buffers = Arc::from(bench.buffers.clone());
    let plan = Plan { name: "test", layout: Layout::new(), variant: 0, buffers, ops: vec![op] };
    executor.run(&plan, &[], &mut []).unwrap();
    let table = 4 * 2 * half * positions;
    assert!(executor.bytes() - before >= table as u64, "{} bytes after {before}", executor.bytes());
    executor.forget(plan.layout);
    assert_eq!(executor.bytes(), before);
}

#[test]
fn a_plan_beyond_the_adapters_limits_is_refused_with_both_sizes() {
    let Some(gpu) = gpu() else { return };
    let offered = gpu.limits().max_storage_buffer_binding_size;
    let mut bench = Bench::new(0);
    bench.weights.push(Weight {
        rows: usize::try_from(offered / 4).unwrap(),
        columns: 2,
        tensors: vec!["0".into()],
        take: 0..2,
        pick: Pick::All,
        role: Role::Factor,
    });
    let error = WgpuExecutor::new(gpu, &bench.weights, &bench).err().unwrap().to_string();
    assert!(error.contains(&(2 * (offered / 4) * 4).to_string()), "{error}");
}
