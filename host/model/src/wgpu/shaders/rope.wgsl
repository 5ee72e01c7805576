// Rotary position embedding, in place, half-split: columns `j` and `j + half` of each head turn together.
//
// Angles come from the host as a table of (cosine, sine), because WGSL promises sine only to 2^-11 and only near zero.

struct Params {
    rows: u32,
    heads: u32,
    half_dim: u32,
    offset: u32,
    stride: u32,
    // Rows of a block, each of which starts at position `first`.
    block: u32,
    first: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
// [positions, half_dim]
@group(0) @binding(1) var<storage, read> turns: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(THREADS, 1, 1)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let pairs = p.rows * p.heads * p.half_dim;
    for (var i = id.x; i < pairs; i += groups.x * THREADS) {
        let j = i % p.half_dim;
        let head = (i / p.half_dim) % p.heads;
        let row = i / (p.half_dim * p.heads);
        let low = p.offset + row * p.stride + head * 2u * p.half_dim + j;
        let high = low + p.half_dim;
        let turn = turns[(p.first + row % p.block) * p.half_dim + j];
        let pair = vec2<f32>(x[low], x[high]);
        x[low] = pair.x * turn.x - pair.y * turn.y;
        x[high] = pair.y * turn.x + pair.x * turn.y;
    }
}
