//! The static plan: everything that one forward pass does, as data.
//!
//! A [`Plan`] is built once for a [`Shape`] and never changes. It names buffers of fixed shape, weights, and a list of
//! [`Op`]s in execution order; an executor allocates the buffers, loads the weights, and from then on only writes inputs,
//! runs the ops, and reads outputs. No executor knows what the ops add up to, and no plan knows who runs it.
//!
//! All numbers are `f32`, all matrices row-major. Sequences carry no padding (what the reference masks out is left out),
//! so positions and masks are constants of the plan and the only inputs are pixels, embeddings, the state and the noise.
//!
//! # Rules an executor may rely on
//!
//! - Ops run in order, and each sees all writes of those before it.
//! - The views of an op lie inside their buffers ([`Plan::check`] proves it for every plan that is built).
//! - The output of an op overlaps none of its inputs, with three exceptions: a [`Op::Gemm`] may add to the view it writes
//!   (`residual == output`, element by element), [`Op::Rope`] works in place, and [`Op::Axpy`] adds to its output.
//! - Nothing is aligned beyond 4 bytes, and no dimension is promised to be a multiple of anything.
//! - A buffer with `initial` content holds it from the start and is never written by an op.

mod smolvla;

pub use smolvla::Network;

use std::ops::Range;
use std::sync::Arc;

/// What a plan is built for: all that may differ from one request to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Camera images that are encoded.
    pub cameras: usize,
    /// Cameras that the configuration lets be absent and that are: they leave only their special tokens, if any.
    pub empty_cameras: usize,
    /// Language tokens, without padding.
    pub language_tokens: usize,
}

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
    /// columns `j` and `j + h` of row `r` turn by the angle `(first_position + r) / theta^(j / h)`.
    Rope {
        /// `[m, heads * head_dim]`
        view: View,
        /// Even.
        head_dim: usize,
        /// Position of the view's first row; row `r` stands at `first_position + r`.
        first_position: usize,
        /// Base of the wavelengths.
        theta: f32,
    },
    /// Scaled dot-product attention with grouped keys: query head `h` uses key head `h / (heads / kv_heads)`; scores are
    /// scaled by `1 / sqrt(head_dim)`. The rows of each view are `batch` blocks of equal length that do not see each other.
    Attention {
        /// Independent blocks.
        batch: usize,
        /// Query heads.
        heads: usize,
        /// Key and value heads; divides `heads`.
        kv_heads: usize,
        /// Columns of a head.
        head_dim: usize,
        /// Applied within each block; every query sees at least one key.
        mask: Mask,
        /// `[batch * queries, heads * head_dim]`
        query: View,
        /// `[batch * keys, kv_heads * head_dim]`
        key: View,
        /// `[batch * keys, kv_heads * head_dim]`
        value: View,
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

/// Where an executor gets the content of a weight: a checkpoint, or random numbers for tests and benchmarks.
pub trait WeightSource {
    /// The `rows * columns` numbers of a weight, row by row.
    ///
    /// # Errors
    /// If the checkpoint cannot be read.
    fn load(&self, weight: &Weight) -> Result<Numbers, crate::CheckpointError>;
}

/// What a forward pass does, for one [`Shape`].
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it is built for. Plans of one network with equal shapes are equal.
    pub shape: Shape,
    /// All memory but the weights.
    pub buffers: Vec<Buffer>,
    /// From `inputs.patches` to the image rows of the prefix.
    pub vision: Vec<Op>,
    /// From the prefix to the key/value caches of the language model.
    pub prefix: Vec<Op>,
    /// What every denoising step uses and none changes: keys and values of the expert's cross-attention, time embeddings.
    pub invariant: Vec<Op>,
    /// One list of ops for each denoising step.
    pub steps: Vec<Vec<Op>>,
    /// What the host writes before each run.
    pub inputs: Inputs,
    /// What the host may read after a run.
    pub outputs: Outputs,
}

/// The views that the host fills before a run.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// `[cameras * patches, channels * patch * patch]`: each patch's pixels in -1..=1, channel by channel, row by row.
    pub patches: View,
    /// `[1, width]` each: embeddings of the special tokens around images, in order (see [`Inputs::special_tokens`]).
    pub specials: Vec<View>,
    /// What [`Inputs::specials`] hold.
    pub special_tokens: Vec<SpecialToken>,
    /// `[language_tokens, width]`: embeddings scaled by `sqrt(width)`.
    pub language: View,
    /// `[1, max_state_dim]`: normalised, padded with 0.
    pub state: View,
    /// `[chunk, max_action_dim]`: noise before the run, [`Outputs::actions`] after it.
    pub noise: View,
}

/// A token that stands beside an image in the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialToken {
    /// Opens and closes an image.
    FakeImage,
    /// Says that the whole image follows.
    GlobalImage,
}

/// The views that the host may read after a run.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// One `[image tokens, width]` for each camera: the connector's output **times `sqrt(width)`**.
    pub image_embeddings: Vec<View>,
    /// `[steps * chunk, max_action_dim]`: what the expert predicted at each step.
    pub velocity: View,
    /// `[chunk, max_action_dim]`: normalised actions.
    pub actions: View,
}

/// A plan that breaks one of its own rules: a defect of the builder, never of an input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("plan for {shape:?}, op {op}: {rule}")]
pub struct PlanError {
    /// What the plan is for.
    pub shape: Shape,
    /// Index over all ops, in order.
    pub op: usize,
    /// The broken rule.
    pub rule: &'static str,
}

impl Plan {
    /// All ops in execution order.
    pub fn ops(&self) -> impl Iterator<Item = &Op> {
        self.vision.iter().chain(&self.prefix).chain(&self.invariant).chain(self.steps.iter().flatten())
    }

    /// Distance between the rows of a view, in numbers.
    pub fn stride(&self, view: &View) -> usize {
        self.buffers[view.buffer.0].columns
    }

    /// Index of a view's first number in its buffer.
    pub fn offset(&self, view: &View) -> usize {
        view.row * self.stride(view) + view.column
    }

    /// Proves the rules in this module's documentation that executors rely on for memory safety: every view lies in its
    /// buffer, shapes agree, constants are not written, outputs overlap inputs only where an op allows it.
    ///
    /// # Errors
    /// The first broken rule.
    pub fn check(&self, weights: &[Weight]) -> Result<(), PlanError> {
        for (index, op) in self.ops().enumerate() {
            self.check_op(op, weights).map_err(|rule| PlanError { shape: self.shape, op: index, rule })?;
        }
        Ok(())
    }

    fn check_op(&self, op: &Op, weights: &[Weight]) -> Result<(), &'static str> {
        let weight = |id: &WeightId| weights.get(id.0).ok_or("weight does not exist");
        let same = |a: &View, b: &View| (a.rows, a.columns) == (b.rows, b.columns);
        match op {
            Op::Gemm { input, weight: id, bias, activation, residual, output, .. } => {
                let w = weight(id)?;
                let either = *activation == Activation::Identity || residual.is_none();
                ensure(either, "gemm: both an activation and a residual")?;
                ensure(input.columns == w.columns && output.columns == w.rows, "gemm: widths differ")?;
                ensure(input.rows == output.rows, "gemm: rows differ")?;
                for operand in [bias, residual].into_iter().flatten() {
                    let (rows, columns) = match operand {
                        Operand::Weight(id) => weight(id).map(|w| (w.rows, w.columns))?,
                        Operand::View(v) => (v.rows, v.columns),
                    };
                    ensure(columns == output.columns, "gemm: operand is not as wide as the output")?;
                    ensure(rows > 0 && output.rows % rows == 0, "gemm: operand's rows do not divide the output's")?;
                }
                if let Some(Operand::View(v)) = bias {
                    self.check_apart(&[v], output)?;
                }
                if let Some(Operand::View(v)) = residual
                    && v != output
                {
                    self.check_apart(&[v], output)?;
                }
                self.check_apart(&[input], output)
            }
            Op::LayerNorm { input, weight: w, bias, output, .. } => {
                ensure(same(input, output), "layer norm: shapes differ")?;
                for id in [w, bias] {
                    ensure(
                        weight(id)?.rows == 1 && weight(id)?.columns == input.columns,
                        "layer norm: weight's shape",
                    )?;
                }
                self.check_apart(&[input], output)
            }
            Op::RmsNorm { input, weight: w, output, .. } => {
                ensure(same(input, output), "rms norm: shapes differ")?;
                ensure(weight(w)?.rows == 1 && weight(w)?.columns == input.columns, "rms norm: weight's shape")?;
                self.check_apart(&[input], output)
            }
            Op::Rope { view, head_dim, .. } => {
                ensure(head_dim % 2 == 0 && *head_dim > 0, "rope: head_dim is odd")?;
                ensure(view.columns % head_dim == 0, "rope: width is not a number of heads")?;
                self.check_apart(&[], view)
            }
            Op::Attention { batch, heads, kv_heads, head_dim, query, key, value, output, .. } => {
                ensure(*kv_heads > 0 && heads % kv_heads == 0, "attention: heads do not group")?;
                ensure(query.columns == heads * head_dim && same(query, output), "attention: query's shape")?;
                ensure(key.columns == kv_heads * head_dim && same(key, value), "attention: key's shape")?;
                ensure(*batch > 0 && query.rows % batch == 0 && key.rows % batch == 0, "attention: batch")?;
                ensure(key.rows > 0, "attention: no keys")?;
                self.check_apart(&[query, key, value], output)
            }
            Op::SwiGlu { input, output } => {
                ensure(input.rows == output.rows && input.columns == 2 * output.columns, "swiglu: shapes")?;
                self.check_apart(&[input], output)
            }
            Op::PixelShuffle { input, side, factor, output } => {
                ensure(*factor > 0 && side % factor == 0, "pixel shuffle: factor does not divide side")?;
                ensure(*side > 0 && input.rows % (side * side) == 0, "pixel shuffle: rows are no grids")?;
                ensure(output.rows * factor * factor == input.rows, "pixel shuffle: rows")?;
                ensure(output.columns == input.columns * factor * factor, "pixel shuffle: columns")?;
                self.check_apart(&[input], output)
            }
            Op::Axpy { input, output, .. } => {
                ensure(same(input, output), "axpy: shapes differ")?;
                self.check_apart(&[input], output)
            }
        }
    }

    /// All views lie in their buffers, `output` is no constant, and it shares no element with any of `inputs`.
    fn check_apart(&self, inputs: &[&View], output: &View) -> Result<(), &'static str> {
        for view in inputs.iter().copied().chain([output]) {
            let buffer = self.buffers.get(view.buffer.0).ok_or("buffer does not exist")?;
            let inside = view.row + view.rows <= buffer.rows && view.column + view.columns <= buffer.columns;
            ensure(inside, "view leaves its buffer")?;
        }
        ensure(self.buffers[output.buffer.0].initial.is_none(), "constant is written")?;
        let meet = |a: Range<usize>, b: Range<usize>| a.start < b.end && b.start < a.end;
        let overlaps = |v: &View| {
            v.buffer == output.buffer
                && meet(v.row..v.row + v.rows, output.row..output.row + output.rows)
                && meet(v.column..v.column + v.columns, output.column..output.column + output.columns)
        };
        ensure(!inputs.iter().any(|v| overlaps(v)), "output overlaps an input")
    }
}

fn ensure(holds: bool, rule: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(rule) }
}
