//! The kernels: one WGSL file for each archetype, specialised by constants that are prepended to it.

/// A compute pipeline in the making: an archetype with its constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kernel {
    /// GEMM through shared memory, in square tiles of `16 * micro`.
    GemmTiled { micro: u32, load: Load },
    /// GEMM without shared memory and barriers.
    GemmRegisters { load: Load },
    /// Attention over heads of this width.
    Attention { head_dim: u32 },
    /// Normalisation of mean and variance.
    LayerNorm,
    /// Normalisation of the mean square.
    RmsNorm,
    /// Rotary position embedding, in place.
    Rope,
    /// Gated activation.
    SwiGlu,
    /// Space to depth.
    PixelShuffle,
    /// Scaled addition, in place.
    Axpy,
}

/// How a GEMM reads its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Load {
    /// Four numbers at once; every row starts at a multiple of four.
    Vec4,
    /// One at a time, for any shape.
    Scalar,
}

/// Output columns and rows that one thread of [`Kernel::GemmRegisters`] makes. Of the shapes tried on lavapipe this one
/// was among the fastest, and has the fewest registers of those; see `docs/decisions/0002`.
pub(super) const REGISTER_ROWS: u32 = 8;
pub(super) const REGISTER_COLUMNS: u32 = 4;
/// Threads of a [`Kernel::GemmRegisters`] workgroup, all along the columns.
pub(super) const REGISTER_THREADS: u32 = 8;
/// Queries of one attention workgroup.
pub(super) const QUERY_TILE: u32 = 16;
/// Keys that an attention workgroup holds at a time.
const KEY_TILE: u32 = 32;
/// Threads of an elementwise workgroup.
pub(super) const ELEMENTWISE_THREADS: u32 = 64;

impl Kernel {
    /// For labels and error messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kernel::GemmTiled { .. } => "gemm_tiled",
            Kernel::GemmRegisters { .. } => "gemm_registers",
            Kernel::Attention { .. } => "attention",
            Kernel::LayerNorm => "layer_norm",
            Kernel::RmsNorm => "rms_norm",
            Kernel::Rope => "rope",
            Kernel::SwiGlu => "swiglu",
            Kernel::PixelShuffle => "pixel_shuffle",
            Kernel::Axpy => "axpy",
        }
    }

    /// Read-only storage bindings, numbered from 1; the output follows them, and the parameters are binding 0.
    pub(super) fn inputs(self) -> u32 {
        match self {
            Kernel::GemmTiled { .. } | Kernel::GemmRegisters { .. } => 4,
            Kernel::Attention { .. } | Kernel::LayerNorm | Kernel::RmsNorm => 3,
            Kernel::Rope | Kernel::SwiGlu | Kernel::PixelShuffle | Kernel::Axpy => 1,
        }
    }

    /// Bytes of shared memory that a workgroup takes.
    pub(super) fn workgroup_bytes(self) -> u32 {
        4 * match self {
            Kernel::GemmTiled { micro, .. } => 2 * 16 * (16 * micro + 1),
            Kernel::Attention { head_dim } => {
                (QUERY_TILE + KEY_TILE) * (head_dim + 1) + QUERY_TILE * (KEY_TILE + 1) + QUERY_TILE * 8
            }
            Kernel::LayerNorm | Kernel::RmsNorm => 64,
            _ => 0,
        }
    }

    /// The whole WGSL module.
    pub(super) fn source(self) -> String {
        match self {
            Kernel::GemmTiled { micro, load } => {
                format!(
                    "const MICRO = {micro}u;\n{}{}{}",
                    load.source(),
                    GEMM_COMMON,
                    include_str!("shaders/gemm_tiled.wgsl")
                )
            }
            Kernel::GemmRegisters { load } => format!(
                "const ROWS = {REGISTER_ROWS}u;\nconst COLUMNS = {REGISTER_COLUMNS}u;\nconst THREADS = {REGISTER_THREADS}u;\n{}{}{}",
                load.source(),
                GEMM_COMMON,
                include_str!("shaders/gemm_registers.wgsl")
            ),
            Kernel::Attention { head_dim } => format!(
                "const HEAD = {head_dim}u;\nconst QUERY_TILE = {QUERY_TILE}u;\nconst KEY_TILE = {KEY_TILE}u;\n{}",
                include_str!("shaders/attention.wgsl")
            ),
            Kernel::LayerNorm => format!("const CENTERED = true;\n{}", include_str!("shaders/norm.wgsl")),
            Kernel::RmsNorm => format!("const CENTERED = false;\n{}", include_str!("shaders/norm.wgsl")),
            Kernel::Rope => elementwise(include_str!("shaders/rope.wgsl")),
            Kernel::SwiGlu => elementwise(include_str!("shaders/swiglu.wgsl")),
            Kernel::PixelShuffle => elementwise(include_str!("shaders/pixel_shuffle.wgsl")),
            Kernel::Axpy => elementwise(include_str!("shaders/axpy.wgsl")),
        }
    }
}

const GEMM_COMMON: &str = include_str!("shaders/gemm_common.wgsl");

impl Load {
    fn source(self) -> &'static str {
        match self {
            Load::Vec4 => include_str!("shaders/gemm_load_vec4.wgsl"),
            Load::Scalar => include_str!("shaders/gemm_load_scalar.wgsl"),
        }
    }
}

fn elementwise(body: &str) -> String {
    format!("const THREADS = {ELEMENTWISE_THREADS}u;\n{body}")
}
