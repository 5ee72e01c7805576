//! The kernels: one WGSL file for each archetype, specialised by constants that are prepended to it.

/// A compute pipeline in the making: an archetype with its constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kernel {
    /// GEMM through shared memory, in square tiles.
    GemmTiled { tile: Tile, load: Load, weights: Format, enter: Enter },
    /// GEMM without shared memory and barriers, for adapters that compute on the CPU: a workgroup is a subgroup of `lanes`
    /// threads and makes `blocks * lanes` rows of the output.
    GemmSubgroup { lanes: u32, blocks: u32, load: Load, weights: Format },
    /// Attention over heads of this width; a workgroup takes `16 * rows` queries.
    Attention { head_dim: u32, rows: u32, load: Load },
    /// Attention without shared memory and barriers, as [`Kernel::GemmSubgroup`]; `head_dim` is a multiple of 4.
    AttentionSubgroup { lanes: u32, head_dim: u32, load: Load },
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

/// Rows and columns that a workgroup of [`Kernel::GemmTiled`] makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Tile {
    Of64 = 64,
    Of32 = 32,
    Of16 = 16,
}

/// How a GEMM reads its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Load {
    /// Four numbers at once; every row starts at a multiple of four.
    Vec4,
    /// One at a time, for any shape.
    Scalar,
}

/// How weights lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Format {
    F32,
    /// Two in a word, the first in the lower half.
    Bf16,
    /// Likewise.
    F16,
}

/// What a GEMM does to its input on the way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Enter {
    Plain,
    RmsNorm,
    SwiGlu,
}

/// Output columns that one lane of [`Kernel::GemmSubgroup`] makes.
pub(super) const SUBGROUP_COLUMNS: u32 = 4;
/// Most rows of a [`Kernel::GemmSubgroup`] tile: above, it gets slower, as its unrolled loop outgrows the instruction cache.
pub(super) const SUBGROUP_ROWS: u32 = 64;
/// Threads of an elementwise workgroup.
pub(super) const ELEMENTWISE_THREADS: u32 = 64;

/// Queries of one lane of [`Kernel::AttentionSubgroup`]: fewer where the code, which grows with all three, takes too long to
/// compile.
pub(super) fn query_blocks(lanes: u32, head_dim: u32) -> u32 {
    if lanes * head_dim <= 512 { 4 } else { 2 }
}

impl Kernel {
    /// For labels and error messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kernel::GemmTiled { .. } => "gemm_tiled",
            Kernel::GemmSubgroup { .. } => "gemm_subgroup",
            Kernel::Attention { .. } => "attention",
            Kernel::AttentionSubgroup { .. } => "attention_subgroup",
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
            Kernel::GemmTiled { .. } | Kernel::GemmSubgroup { .. } => 5,
            Kernel::Attention { .. } | Kernel::AttentionSubgroup { .. } | Kernel::LayerNorm | Kernel::RmsNorm => 3,
            Kernel::Rope | Kernel::SwiGlu | Kernel::PixelShuffle | Kernel::Axpy => 1,
        }
    }

    /// Bytes of shared memory that a workgroup takes.
    pub(super) fn workgroup_bytes(self) -> u32 {
        4 * match self {
            Kernel::GemmTiled { tile, enter, .. } => {
                let squares = if enter == Enter::RmsNorm { 256 } else { 0 };
                4 * 2 * tile.side() * (256 / tile.side() + 1) + squares
            }
            Kernel::Attention { head_dim, rows, .. } => {
                4 * ((16 * rows + 32) * (head_dim.div_ceil(4) | 1) + 16 * rows * (9 + 4))
            }
            Kernel::LayerNorm | Kernel::RmsNorm => 64,
            _ => 0,
        }
    }

    /// The whole WGSL module.
    pub(super) fn source(self) -> String {
        match self {
            Kernel::GemmTiled { tile, load, weights, enter } => format!(
                "const TILE = {}u;\n{}{}{GEMM_COMMON}{}{}",
                tile.side(),
                load.source(),
                weights.source(load),
                enter.source(),
                unrolled(include_str!("shaders/gemm_tiled.wgsl"), &[("{row}", 4)])
            ),
            Kernel::GemmSubgroup { lanes, blocks, load, weights } => format!(
                "const LANES = {lanes}u;\nconst BLOCKS = {blocks}u;\n{}{}{GEMM_COMMON}{}",
                load.source(),
                weights.source(load),
                unrolled(include_str!("shaders/gemm_subgroup.wgsl"), &[("{block}", blocks), ("{lane}", lanes)])
            ),
            Kernel::Attention { head_dim, rows, load } => format!(
                "const HEAD = {head_dim}u;\nconst ROWS = {rows}u;\n{ATTENTION_COMMON}{}{}",
                load.attention_source(),
                unrolled(
                    include_str!("shaders/attention.wgsl"),
                    &[
                        ("{row}", rows),
                        ("{fetch}", (32 * head_dim.div_ceil(4)).div_ceil(256)),
                        ("{part}", head_dim.div_ceil(4).div_ceil(16))
                    ]
                )
            ),
            Kernel::AttentionSubgroup { lanes, head_dim, load } => {
                let blocks = query_blocks(lanes, head_dim);
                let types = format!(
                    "alias Queries = vec{blocks}<f32>;\nalias Places = vec{blocks}<u32>;\n\
                     alias Quad = mat{blocks}x4<f32>;\nalias Sums = mat4x{blocks}<f32>;\n"
                );
                let load = load.attention_source();
                let template = include_str!("shaders/attention_subgroup.wgsl");
                format!(
                    "const LANES = {lanes}u;\nconst HEAD = {head_dim}u;\nconst BLOCKS = {blocks}u;\n{types}{ATTENTION_COMMON}{load}{}",
                    unrolled(template, &[("{quad}", head_dim / 4), ("{key}", lanes), ("{block}", blocks)])
                )
            }
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
const ATTENTION_COMMON: &str = include_str!("shaders/attention_common.wgsl");

impl Load {
    /// The widest that fits these offsets and strides.
    pub(super) fn of(places: &[u32]) -> Self {
        if places.iter().all(|place| place % 4 == 0) { Load::Vec4 } else { Load::Scalar }
    }

    fn source(self) -> &'static str {
        match self {
            Load::Vec4 => include_str!("shaders/gemm_load_vec4.wgsl"),
            Load::Scalar => include_str!("shaders/gemm_load_scalar.wgsl"),
        }
    }

    fn attention_source(self) -> &'static str {
        match self {
            Load::Vec4 => include_str!("shaders/attention_load_vec4.wgsl"),
            Load::Scalar => include_str!("shaders/attention_load_scalar.wgsl"),
        }
    }
}

impl Tile {
    /// The largest first.
    pub(super) const ALL: [Self; 3] = [Self::Of64, Self::Of32, Self::Of16];

    pub(super) fn side(self) -> u32 {
        self as u32
    }
}

impl Format {
    /// Bytes of one number.
    pub(super) fn bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::Bf16 | Format::F16 => 2,
        }
    }

    /// `w`, and `weight`, which reads one `Element` of it.
    fn source(self, load: Load) -> String {
        let (element, of_element, read) = match (load, self) {
            (Load::Vec4, Format::F32) => ("vec4<f32>", "vec4<f32>", "w[i]"),
            (Load::Scalar, Format::F32) => ("f32", "f32", "w[i]"),
            // The upper half of an f32 is a bf16.
            (Load::Vec4, Format::Bf16) => (
                "vec4<f32>",
                "vec2<u32>",
                "bitcast<vec4<f32>>(vec4<u32>(w[i].x << 16u, w[i].x & 0xffff0000u, w[i].y << 16u, w[i].y & 0xffff0000u))",
            ),
            (Load::Scalar, Format::Bf16) => {
                ("f32", "u32", "bitcast<f32>(select(w[i / 2u] << 16u, w[i / 2u] & 0xffff0000u, i % 2u == 1u))")
            }
            (Load::Vec4, Format::F16) => {
                ("vec4<f32>", "vec2<u32>", "vec4<f32>(unpack2x16float(w[i].x), unpack2x16float(w[i].y))")
            }
            (Load::Scalar, Format::F16) => ("f32", "u32", "unpack2x16float(w[i / 2u])[i % 2u]"),
        };
        format!(
            "@group(0) @binding(2) var<storage, read> w: array<{of_element}>;\n\
             fn weight(i: u32) -> {element} {{\n    return {read};\n}}\n"
        )
    }
}

impl Enter {
    fn source(self) -> &'static str {
        match self {
            Enter::Plain => include_str!("shaders/gemm_enter_plain.wgsl"),
            Enter::RmsNorm => include_str!("shaders/gemm_enter_rms_norm.wgsl"),
            Enter::SwiGlu => include_str!("shaders/gemm_enter_swiglu.wgsl"),
        }
    }
}

fn elementwise(body: &str) -> String {
    format!("const THREADS = {ELEMENTWISE_THREADS}u;\n{body}")
}

/// Repeats the lines that contain a placeholder, once for each number below its count. naga wants the lane of a broadcast as
/// a constant, and drivers keep an array in registers only where they have unrolled every loop over it.
fn unrolled(template: &str, placeholders: &[(&str, u32)]) -> String {
    let code = template.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut lines: Vec<String> = code.map(str::to_owned).collect();
    for (placeholder, count) in placeholders {
        let repeated = |line: String| -> Vec<String> {
            match line.contains(placeholder) {
                true => (0..*count).map(|i| line.replace(placeholder, &i.to_string())).collect(),
                false => vec![line],
            }
        };
        lines = lines.into_iter().flat_map(repeated).collect();
    }
    lines.join("\n")
}
