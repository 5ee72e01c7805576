//! Turns one op of a plan, with what is fused into it, into one dispatch: which kernel, its parameters, what it binds, how many workgroups.
//!
//! Nothing here touches a device. Sizes are cast to `u32` freely: the executor first refuses plans with a buffer of 2^32
//! bytes or more.

use bytemuck::{Pod, Zeroable};

use super::fuse::Fused;
use super::kernels::{
    ELEMENTWISE_THREADS, Enter, Format, Kernel, Load, SUBGROUP_COLUMNS, SUBGROUP_ROWS, Tile, query_blocks,
};
use crate::plan::{Activation, BufferId, KeyValue, Op, Operand, Plan, View, Weight, WeightId};

/// One dispatch, before its bind group exists.
pub(super) struct Dispatch {
    pub(super) kernel: Kernel,
    /// Bytes of the kernel's `Params`.
    pub(super) params: Vec<u8>,
    /// Bindings 1, 2, and so on.
    pub(super) inputs: Vec<Slot>,
    pub(super) output: BufferId,
    pub(super) workgroups: [u32; 3],
}

/// What is bound for reading.
#[derive(Clone, Debug)]
pub(super) enum Slot {
    Weight(WeightId),
    Buffer(BufferId),
    /// Cosines and sines of rotary embeddings.
    Turns(Turns),
    /// A binding that the kernel's parameters tell it not to read.
    Nothing,
}

/// A table of `positions * half_dim` cosines and sines, pair by pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Turns {
    positions: usize,
    half_dim: usize,
    theta_bits: u32,
}

impl Turns {
    /// Of `position / theta^(j / half_dim)` for each position and each `j < half_dim`.
    pub(super) fn numbers(self) -> Vec<f32> {
        let theta = f64::from(f32::from_bits(self.theta_bits));
        let angle = |position: usize, j: usize| position as f64 / theta.powf(j as f64 / self.half_dim as f64);
        (0..self.positions)
            .flat_map(|position| (0..self.half_dim).map(move |j| angle(position, j)))
            .flat_map(|angle| [angle.cos() as f32, angle.sin() as f32])
            .collect()
    }
}

/// What the choice of kernels depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Profile {
    /// Threads of a subgroup, where the adapter computes on the CPU and has subgroups.
    pub(super) software_lanes: Option<u32>,
    /// Most workgroups in one dimension of a dispatch.
    pub(super) max_workgroups: u32,
    /// Most bytes of shared memory in a workgroup.
    pub(super) max_workgroup_bytes: u32,
    /// Workgroups in a dispatch below which a tile counts as too large.
    pub(super) enough_workgroups: u32,
}

/// For [`Profile::enough_workgroups`]: a GPU has some 20 to 150 cores, and those without a workgroup idle; those with one wait
/// for memory much of the time.
pub(super) const ENOUGH_WORKGROUPS: u32 = 256;

/// Lowers an op of `plan`. `formats` says how each of the weights lies in memory.
pub(super) fn lower(fused: Fused, plan: &Plan, weights: &[Weight], formats: &[Format], profile: Profile) -> Dispatch {
    let offset = |view: &View| plan.offset(view) as u32;
    let stride = |view: &View| plan.stride(view) as u32;
    let elementwise =
        |elements: usize| [(elements as u32).div_ceil(ELEMENTWISE_THREADS).min(profile.max_workgroups), 1, 1];
    match fused.op {
        Op::Gemm { input, weight, scale, bias, activation, residual, output } => {
            let (m, n, k) = (output.rows as u32, output.columns as u32, input.columns as u32);
            let (enter, input, gain, epsilon) = match fused.prologue {
                Some(Op::RmsNorm { input, weight, epsilon, .. }) => {
                    (Enter::RmsNorm, input, Slot::Weight(*weight), *epsilon)
                }
                Some(Op::SwiGlu { input, .. }) => (Enter::SwiGlu, input, Slot::Nothing, 0.0),
                _ => (Enter::Plain, input, Slot::Nothing, 0.0),
            };
            let in_place = *residual == Some(Operand::View(*output));
            let bias = Added::new(*bias, plan, weights);
            let residual = Added::new(if in_place { None } else { *residual }, plan, weights);
            let params = GemmParams {
                m,
                n,
                k,
                a_offset: offset(input),
                a_stride: stride(input),
                bias_rows: bias.rows,
                bias_offset: bias.offset,
                bias_stride: bias.stride,
                residual_rows: residual.rows,
                residual_offset: residual.offset,
                residual_stride: residual.stride,
                in_place: u32::from(in_place),
                out_offset: offset(output),
                out_stride: stride(output),
                activation: match activation {
                    Activation::Identity => 0,
                    Activation::Silu => 1,
                    Activation::GeluTanh => 2,
                },
                scale: *scale,
                epsilon,
            };
            let load = Load::of(&[k, params.a_offset, params.a_stride]);
            let (kernel, workgroups) = gemm(m, n, load, formats[weight.0], enter, profile);
            Dispatch {
                kernel,
                params: bytemuck::bytes_of(&params).to_vec(),
                inputs: vec![Slot::Buffer(input.buffer), Slot::Weight(*weight), bias.slot, residual.slot, gain],
                output: output.buffer,
                workgroups,
            }
        }
        Op::LayerNorm { input, weight, bias, epsilon, output } => Dispatch {
            kernel: Kernel::LayerNorm,
            params: rowwise_params(plan, input, output, *epsilon),
            inputs: vec![Slot::Buffer(input.buffer), Slot::Weight(*weight), Slot::Weight(*bias)],
            output: output.buffer,
            workgroups: [(input.rows as u32).min(profile.max_workgroups), 1, 1],
        },
        Op::RmsNorm { input, weight, epsilon, output } => Dispatch {
            kernel: Kernel::RmsNorm,
            params: rowwise_params(plan, input, output, *epsilon),
            inputs: vec![Slot::Buffer(input.buffer), Slot::Weight(*weight), Slot::Nothing],
            output: output.buffer,
            workgroups: [(input.rows as u32).min(profile.max_workgroups), 1, 1],
        },
        Op::Rope { view, batch, head_dim, first_position, positions, theta } => {
            let half_dim = head_dim / 2;
            let params = RopeParams {
                rows: view.rows as u32,
                heads: (view.columns / head_dim) as u32,
                half_dim: half_dim as u32,
                offset: offset(view),
                stride: stride(view),
                block: (view.rows / batch).max(1) as u32,
                first: *first_position as u32,
            };
            Dispatch {
                kernel: Kernel::Rope,
                params: bytemuck::bytes_of(&params).to_vec(),
                inputs: vec![Slot::Turns(Turns { positions: *positions, half_dim, theta_bits: theta.to_bits() })],
                output: view.buffer,
                workgroups: elementwise(view.rows * view.columns / 2),
            }
        }
        Op::Attention { batch, frames, heads, kv_heads, head_dim, mask, query, past, own, output } => {
            let queries = (query.rows / batch) as u32;
            let keys = |kv: &KeyValue| (kv.key.rows / batch) as u32;
            let params = AttentionParams {
                queries,
                past_keys: past.as_ref().map_or(0, keys),
                own_keys: keys(own),
                frames: *frames as u32,
                heads_per_kv_head: (heads / kv_heads) as u32,
                q_offset: offset(query),
                q_stride: stride(query),
                past_k_offset: past.as_ref().map_or(0, |kv| offset(&kv.key)),
                past_v_offset: past.as_ref().map_or(0, |kv| offset(&kv.value)),
                past_stride: past.as_ref().map_or(0, |kv| stride(&kv.key)),
                own_k_offset: offset(&own.key),
                own_v_offset: offset(&own.value),
                own_stride: stride(&own.key),
                out_offset: offset(output),
                out_stride: stride(output),
                open: mask.open as u32,
                offset: mask.offset as u32,
                scale: (*head_dim as f32).sqrt().recip(),
            };
            let past = past.map_or(Slot::Nothing, |kv| Slot::Buffer(kv.key.buffer));
            let head_dim = *head_dim as u32;
            let p = &params;
            let load = Load::of(&[
                head_dim,
                p.q_offset,
                p.q_stride,
                p.past_k_offset,
                p.past_v_offset,
                p.past_stride,
                p.own_k_offset,
                p.own_v_offset,
                p.own_stride,
            ]);
            // Over frames, every query has keys of its own, which lanes cannot share.
            let (kernel, tile) = match profile.software_lanes {
                Some(lanes) if head_dim.is_multiple_of(4) && *frames == 1 => {
                    (Kernel::AttentionSubgroup { lanes, head_dim, load }, query_blocks(lanes, head_dim) * lanes)
                }
                _ => {
                    // Two queries a thread read each key half as often, where there is room and enough to do.
                    let [one, two] = [1, 2].map(|rows| Kernel::Attention { head_dim, rows, load });
                    let workgroups = queries.div_ceil(32) * *heads as u32 * *batch as u32;
                    let there_is_room = two.workgroup_bytes() <= profile.max_workgroup_bytes;
                    if there_is_room && workgroups >= profile.enough_workgroups { (two, 32) } else { (one, 16) }
                }
            };
            Dispatch {
                kernel,
                params: bytemuck::bytes_of(&params).to_vec(),
                inputs: vec![Slot::Buffer(query.buffer), past, Slot::Buffer(own.key.buffer)],
                output: output.buffer,
                workgroups: [queries.div_ceil(tile), *heads as u32, *batch as u32],
            }
        }
        Op::SwiGlu { input, output } => Dispatch {
            kernel: Kernel::SwiGlu,
            params: rowwise_params(plan, input, output, 0.0),
            inputs: vec![Slot::Buffer(input.buffer)],
            output: output.buffer,
            workgroups: elementwise(output.rows * output.columns),
        },
        Op::Axpy { scale, input, output } => Dispatch {
            kernel: Kernel::Axpy,
            params: rowwise_params(plan, input, output, *scale),
            inputs: vec![Slot::Buffer(input.buffer)],
            output: output.buffer,
            workgroups: elementwise(output.rows * output.columns),
        },
        Op::PixelShuffle { input, side, factor, output } => {
            let params = PixelShuffleParams {
                out_rows: output.rows as u32,
                width: input.columns as u32,
                side: *side as u32,
                factor: *factor as u32,
                x_offset: offset(input),
                x_stride: stride(input),
                out_offset: offset(output),
                out_stride: stride(output),
            };
            Dispatch {
                kernel: Kernel::PixelShuffle,
                params: bytemuck::bytes_of(&params).to_vec(),
                inputs: vec![Slot::Buffer(input.buffer)],
                output: output.buffer,
                workgroups: elementwise(output.rows * output.columns),
            }
        }
    }
}

/// The GEMM table.
///
/// | adapter | kernel | because |
/// |---|---|---|
/// | software | subgroups | barriers and loads are dear there, and shared memory is memory |
/// | hardware | tiles of 64, 32 or 16 | larger tiles read each operand less often; smaller ones fill the GPU when `m` is small |
fn gemm(m: u32, n: u32, load: Load, weights: Format, enter: Enter, profile: Profile) -> (Kernel, [u32; 3]) {
    if let Some(lanes) = profile.software_lanes {
        // As few tiles as can be, and those as low as can be.
        let needed = m.div_ceil(lanes).max(1);
        let blocks = needed.div_ceil(needed.div_ceil(SUBGROUP_ROWS / lanes));
        let workgroups = [n.div_ceil(SUBGROUP_COLUMNS * lanes), m.div_ceil(blocks * lanes), 1];
        return (Kernel::GemmSubgroup { lanes, blocks, load, weights }, workgroups);
    }
    let grid = |tile: Tile| [n.div_ceil(tile.side()), m.div_ceil(tile.side()), 1];
    let enough = |tile: &Tile| grid(*tile).iter().product::<u32>() >= profile.enough_workgroups;
    let tile = Tile::ALL.into_iter().find(enough).unwrap_or(Tile::Of16);
    (Kernel::GemmTiled { tile, load, weights, enter }, grid(tile))
}

/// An [`Operand`] as the GEMM kernels take it; no rows if there is none.
struct Added {
    slot: Slot,
    rows: u32,
    offset: u32,
    stride: u32,
}

impl Added {
    fn new(operand: Option<Operand>, plan: &Plan, weights: &[Weight]) -> Self {
        match operand {
            None => Self { slot: Slot::Nothing, rows: 0, offset: 0, stride: 0 },
            Some(Operand::Weight(id)) => {
                let Weight { rows, columns, .. } = weights[id.0];
                Self { slot: Slot::Weight(id), rows: rows as u32, offset: 0, stride: columns as u32 }
            }
            Some(Operand::View(view)) => Self {
                slot: Slot::Buffer(view.buffer),
                rows: view.rows as u32,
                offset: plan.offset(&view) as u32,
                stride: plan.stride(&view) as u32,
            },
        }
    }
}

fn rowwise_params(plan: &Plan, input: &View, output: &View, scalar: f32) -> Vec<u8> {
    let params = RowwiseParams {
        rows: output.rows as u32,
        columns: output.columns as u32,
        x_offset: plan.offset(input) as u32,
        x_stride: plan.stride(input) as u32,
        out_offset: plan.offset(output) as u32,
        out_stride: plan.stride(output) as u32,
        scalar,
    };
    bytemuck::bytes_of(&params).to_vec()
}

/// `Params` of `gemm_common.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct GemmParams {
    m: u32,
    n: u32,
    k: u32,
    a_offset: u32,
    a_stride: u32,
    bias_rows: u32,
    bias_offset: u32,
    bias_stride: u32,
    residual_rows: u32,
    residual_offset: u32,
    residual_stride: u32,
    in_place: u32,
    out_offset: u32,
    out_stride: u32,
    activation: u32,
    scale: f32,
    epsilon: f32,
}

/// `Params` of `attention_common.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct AttentionParams {
    queries: u32,
    past_keys: u32,
    own_keys: u32,
    frames: u32,
    heads_per_kv_head: u32,
    q_offset: u32,
    q_stride: u32,
    past_k_offset: u32,
    past_v_offset: u32,
    past_stride: u32,
    own_k_offset: u32,
    own_v_offset: u32,
    own_stride: u32,
    out_offset: u32,
    out_stride: u32,
    open: u32,
    offset: u32,
    scale: f32,
}

/// `Params` of `rope.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct RopeParams {
    rows: u32,
    heads: u32,
    half_dim: u32,
    offset: u32,
    stride: u32,
    block: u32,
    first: u32,
}

/// `Params` of `pixel_shuffle.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct PixelShuffleParams {
    out_rows: u32,
    width: u32,
    side: u32,
    factor: u32,
    x_offset: u32,
    x_stride: u32,
    out_offset: u32,
    out_stride: u32,
}

/// `Params` of `norm.wgsl`, `swiglu.wgsl` and `axpy.wgsl`; `scalar` is what they call `epsilon` or `scale`, where they have it.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct RowwiseParams {
    rows: u32,
    columns: u32,
    x_offset: u32,
    x_stride: u32,
    out_offset: u32,
    out_stride: u32,
    scalar: f32,
}
