//! The static plan: everything that one forward pass does, as data.
//!
//! A [`Plan`] names buffers of fixed shape, weights, and a list of [`Op`]s in execution order; an executor allocates the
//! buffers, loads the weights, and from then on only writes inputs, runs the ops, and reads outputs. No executor knows what
//! the ops add up to, and no plan knows who runs it.
//!
//! All numbers are `f32`, all matrices row-major. Sequences carry no padding (what the reference masks out is left out),
//! so positions and masks are constants of the plan and the only inputs are pixels, embeddings, states and noise.
//!
//! A model is several plans, so that what has not changed need not be computed again: one encodes camera frames, one makes
//! the language model's keys and values of them, one turns noise into actions ([`Network`]); or one reads a prompt and one
//! writes a word ([`TextNetwork`]). What one leaves for another stays on the device
//! ([`Resident`](crate::executor::Resident)).
//!
//! # Rules an executor may rely on
//!
//! - Ops run in order, and each sees all writes of those before it.
//! - The views of an op lie inside their buffers ([`Plan::check`] proves it for every plan that is built).
//! - The output of an op overlaps none of its inputs, with three exceptions: a [`Op::Gemm`] may add to the view it writes
//!   (`residual == output`, element by element), [`Op::Rope`] works in place, and [`Op::Axpy`] adds to its output.
//! - Nothing is aligned beyond 4 bytes, and no dimension is promised to be a multiple of anything.
//! - A buffer with `initial` content holds it from the start and is never written by an op. A `kept` buffer holds from run
//!   to run what ops and inputs wrote there. All others begin each run with undefined content.
//! - Plans of one [`Layout`] have the same buffers and the same ops on the same buffers and weights; their ops differ only
//!   in rows, positions and masks.

mod check;
mod collect;
mod decoder;
mod smolvla;
mod smolvlm;
mod vision;

pub use smolvla::{DenoisePlan, Network, PrefixInputs, PrefixPlan, Shape, SpecialToken};
pub use smolvlm::{DecodePlan, PromptPlan, TextNetwork};
pub use vision::EncodePlan;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One buffer of a plan, by its index in [`Plan::buffers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BufferId(pub usize);

/// One weight of a network, by its index in [`Network::weights`]; the same in every plan of that network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightId(pub usize);

/// A dense `rows` x `columns` matrix in the executor's memory.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// What it holds, for debugging and labels.
    pub name: &'static str,
    /// Rows.
    pub rows: usize,
    /// Columns, which is also the distance between rows.
    pub columns: usize,
    /// Constant content, `rows * columns` numbers.
    pub initial: Option<Arc<[f32]>>,
    /// Its content lasts from run to run.
    pub kept: bool,
}

/// A rectangle of a buffer; its rows lie [`Buffer::columns`] apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// The buffer.
    pub buffer: BufferId,
    /// First row.
    pub row: usize,
    /// Number of rows.
    pub rows: usize,
    /// First column.
    pub column: usize,
    /// Number of columns.
    pub columns: usize,
}

impl View {
    /// They share a number.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let meet = |a: usize, a_len: usize, b: usize, b_len: usize| a < b + b_len && b < a + a_len;
        self.buffer == other.buffer
            && meet(self.row, self.rows, other.row, other.rows)
            && meet(self.column, self.columns, other.column, other.columns)
    }

    /// The given rows of this view, counted from its own first row.
    #[must_use]
    pub fn rows(self, rows: Range<usize>) -> Self {
        Self { row: self.row + rows.start, rows: rows.len(), ..self }
    }

    /// The given columns of this view, counted from its own first column.
    #[must_use]
    pub fn columns(self, columns: Range<usize>) -> Self {
        Self { column: self.column + columns.start, columns: columns.len(), ..self }
    }
}

/// Something that a [`Op::Gemm`] adds. Row `r` of the output takes row `r % rows` of the operand, so that a bias is a
/// weight of one row, and a position table repeats for every camera.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// A weight, as wide as the output.
    Weight(WeightId),
    /// A view, as wide as the output.
    View(View),
}

/// What a [`Op::Gemm`] does to each number after its bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x`
    Identity,
    /// `x * sigmoid(x)`
    Silu,
    /// `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`
    GeluTanh,
}

/// Which keys a query sees: query `i` (of its batch element) sees keys `0 .. min(keys, max(open, offset + i + 1))`.
///
/// One rule covers the four masks of this family: no mask (`open = keys`), a prefix that a later block sees but that does
/// not see the block (`open = ` length of the prefix, `offset = 0`), and a causal suffix after a visible prefix
/// (`open = offset = ` length of the prefix).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mask {
    /// Keys that every query sees.
    pub open: usize,
    /// Index among the keys of the first query.
    pub offset: usize,
}

impl Mask {
    /// Number of keys that query `query` sees, of `keys`.
    pub fn visible(&self, query: usize, keys: usize) -> usize {
        keys.min(self.open.max(self.offset + query + 1))
    }
}

/// Keys and their values, row by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// Keys.
    pub key: View,
    /// As many values.
    pub value: View,
}

impl KeyValue {
    /// Keys in the left half of a view's columns, values in the right.
    #[must_use]
    pub fn halves(view: View) -> Self {
        let width = view.columns / 2;
        Self { key: view.columns(0..width), value: view.columns(width..2 * width) }
    }
}

/// One step of a plan. `[m, n]` below are rows and columns of a view.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `output = residual + activation(scale * input x weight^T + bias)`: input `[m, k]`, weight `[n, k]`, output `[m, n]`.
    Gemm {
        /// `[m, k]`
        input: View,
        /// `[n, k]`: one row for each output column, as PyTorch's `Linear` stores it.
        weight: WeightId,
        /// Multiplies the product, before the bias.
        scale: f32,
        /// Added before the activation.
        bias: Option<Operand>,
        /// Applied after the bias.
        activation: Activation,
        /// Added after the activation; may be the output itself. An op with an activation has none.
        residual: Option<Operand>,
        /// `[m, n]`
        output: View,
    },
    /// Each row of `input`: minus its mean, over `sqrt(variance + epsilon)`, times `weight`, plus `bias` (both `[1, n]`).
    LayerNorm {
        /// `[m, n]`
        input: View,
        /// `[1, n]`
        weight: WeightId,
        /// `[1, n]`
        bias: WeightId,
        /// Added to the (biased) variance.
        epsilon: f32,
        /// `[m, n]`
        output: View,
    },
    /// Each row of `input` over `sqrt(mean of squares + epsilon)`, times `weight` (`[1, n]`).
    RmsNorm {
        /// `[m, n]`
        input: View,
        /// `[1, n]`
        weight: WeightId,
        /// Added to the mean of squares.
        epsilon: f32,
        /// `[m, n]`
        output: View,
    },
    /// Rotary position embedding, in place, on every `head_dim` columns of `view`, half-split: with `h = head_dim / 2`,
    /// columns `j` and `j + h` of row `r` of a block turn by the angle `(first_position + r) / theta^(j / h)`.
    Rope {
        /// `[batch * rows, heads * head_dim]`
        view: View,
        /// Blocks of equal length, each of which starts at the first position.
        batch: usize,
        /// Even.
        head_dim: usize,
        /// Position of a block's first row; row `r` stands at `first_position + r`.
        first_position: usize,
        /// Positions of all plans of this layout are below it.
        positions: usize,
        /// Base of the wavelengths.
        theta: f32,
    },
    /// Scaled dot-product attention with grouped keys: query head `h` uses key head `h / (heads / kv_heads)`; scores are
    /// scaled by `1 / sqrt(head_dim)`. The rows of each view are `batch` blocks of equal length. A block of queries sees,
    /// as far as `mask` lets it, the block of `past` and then the block of `own` of the same number; and with `frames`
    /// above 1, query `i` of a block sees besides key `i` of `own` of every earlier block in its run of `frames` blocks.
    Attention {
        /// Blocks.
        batch: usize,
        /// Blocks in a run, such as the frames of one video, oldest first; divides `batch`. Above 1 there is no `past`,
        /// and there are as many keys as queries.
        frames: usize,
        /// Query heads.
        heads: usize,
        /// Key and value heads; divides `heads`.
        kv_heads: usize,
        /// Columns of a head.
        head_dim: usize,
        /// Applied within each block, to the keys of `past` and `own` counted through; every query sees at least one key.
        mask: Mask,
        /// `[batch * queries, heads * head_dim]`
        query: View,
        /// `[batch * past keys, kv_heads * head_dim]`
        past: Option<KeyValue>,
        /// `[batch * own keys, kv_heads * head_dim]`
        own: KeyValue,
        /// `[batch * queries, heads * head_dim]`
        output: View,
    },
    /// `output = silu(left half of input's columns) * right half`: input `[m, 2 n]`, output `[m, n]`.
    SwiGlu {
        /// `[m, 2 n]`: gate, then up.
        input: View,
        /// `[m, n]`
        output: View,
    },
    /// Space to depth: every `factor` x `factor` square of a `side` x `side` grid becomes one row. Output row
    /// `(y, x)` of a `side / factor` grid is the concatenation over `dy`, then `dx`, of input rows
    /// `(y * factor + dy, x * factor + dx)`. Grids follow each other.
    PixelShuffle {
        /// `[grids * side^2, n]`
        input: View,
        /// Rows of the input in a row of the grid.
        side: usize,
        /// Divides `side`.
        factor: usize,
        /// `[grids * (side / factor)^2, n * factor^2]`
        output: View,
    },
    /// `output += scale * input`, element by element: one Euler step.
    Axpy {
        /// Multiplies the input.
        scale: f32,
        /// `[m, n]`
        input: View,
        /// `[m, n]`
        output: View,
    },
}

impl Op {
    /// What it writes.
    #[must_use]
    pub fn output(&self) -> View {
        match self {
            Self::Gemm { output, .. }
            | Self::LayerNorm { output, .. }
            | Self::RmsNorm { output, .. }
            | Self::Attention { output, .. }
            | Self::SwiGlu { output, .. }
            | Self::PixelShuffle { output, .. }
            | Self::Axpy { output, .. }
            | Self::Rope { view: output, .. } => *output,
        }
    }
}

/// A weight as executors see it: a dense `rows` x `columns` matrix, put together from a checkpoint's tensors. Its numbers
/// are those of the tensors one after the other, cut to `take`, of which `pick` says which rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Rows; 1 for a vector.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Where its numbers come from, in order; each is a matrix of its first dimension's rows, or one row if a vector.
    pub tensors: Vec<String>,
    /// The columns that are taken of each tensor.
    pub take: Range<usize>,
    /// The rows that are taken of each tensor.
    pub pick: Pick,
    /// How ops use it.
    pub role: Role,
}

/// What a weight is to the ops that use it; it decides how executors store it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The right-hand side of products.
    Factor,
    /// Rows that are added or multiplied number by number.
    Table,
}

/// Rows of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pick {
    /// All of them.
    All,
    /// A run of them: a slice of a matrix that is too large for one binding.
    Range(Range<usize>),
    /// These, in this order.
    Gather(Vec<u32>),
}

/// Numbers as a file has them: no executor needs more room for a weight than the file.
#[derive(Clone, Debug, PartialEq)]
pub enum Numbers {
    /// IEEE single precision.
    F32(Vec<f32>),
    /// The upper half of an `f32`, bits.
    Bf16(Vec<u16>),
    /// IEEE half precision, bits.
    F16(Vec<u16>),
}

impl Numbers {
    /// All of them in single precision, which holds every one exactly.
    #[must_use]
    pub fn into_f32(self) -> Vec<f32> {
        match self {
            Self::F32(numbers) => numbers,
            Self::Bf16(bits) => bits.into_iter().map(|bits| half::bf16::from_bits(bits).to_f32()).collect(),
            Self::F16(bits) => bits.into_iter().map(|bits| half::f16::from_bits(bits).to_f32()).collect(),
        }
    }
}

/// Memory that a plan runs in; plans of one layout share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout(u64);

impl Layout {
    /// One that no other plan has.
    #[allow(clippy::new_without_default)] // a default would promise that two of them are equal
    #[must_use]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What a forward pass does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it is, for debugging and errors.
    pub name: &'static str,
    /// The memory that it runs in.
    pub layout: Layout,
    /// Tells the plans of one layout apart.
    pub variant: usize,
    /// All memory but the weights.
    pub buffers: Arc<[Buffer]>,
    /// In execution order.
    pub ops: Vec<Op>,
}

/// A plan that breaks one of its own rules: a defect of the builder, never of an input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("plan `{plan}`, op {op}: {rule}")]
pub struct PlanError {
    /// The plan.
    pub plan: &'static str,
    /// Index of the op.
    pub op: usize,
    /// The broken rule.
    pub rule: &'static str,
}

impl Plan {
    /// Bytes of its buffers.
    pub fn bytes(&self) -> usize {
        self.buffers.iter().map(|buffer| 4 * buffer.rows * buffer.columns).sum()
    }

    /// Floating-point operations of its products and attention; the rest is small beside them.
    pub fn flop(&self) -> u64 {
        let product = |m: usize, n: usize, k: usize| 2 * m as u64 * n as u64 * k as u64;
        let op = |op: &Op| match op {
            Op::Gemm { input, output, .. } => product(output.rows, output.columns, input.columns),
            Op::Attention { batch, query, past, own, .. } => {
                let keys = (past.map_or(0, |past| past.key.rows) + own.key.rows) / batch;
                2 * product(query.rows, keys, query.columns)
            }
            _ => 0,
        };
        self.ops.iter().map(op).sum()
    }

    /// Distance between the rows of a view, in numbers.
    pub fn stride(&self, view: &View) -> usize {
        self.buffers[view.buffer.0].columns
    }

    /// Index of a view's first number in its buffer.
    pub fn offset(&self, view: &View) -> usize {
        view.row * self.stride(view) + view.column
    }
}
