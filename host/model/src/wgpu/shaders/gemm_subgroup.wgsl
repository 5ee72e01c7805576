// out = residual + activation(scale · a · wᵀ + bias), with neither shared memory nor barriers: for adapters that run on a
// CPU.
//
// There a subgroup is a SIMD vector, a barrier switches every thread, and a load from storage visits the lanes one after
// the other, whether or not they read the same address. So no number is loaded twice: a workgroup is one subgroup, each
// of its lanes loads other rows of `a` and of `w`, and the lanes then tell each other their part of `a`.
//
// A tile of `out` has BLOCKS * LANES rows, and four columns for each lane, LANES apart. A line with {block} stands for one
// line for each block of rows, a line with {lane} for one for each lane.
//
// Prepended: LANES, BLOCKS, and the storage element type of `a` and `w` as `Element`, with WIDTH numbers along k, and
// `Columns`, four of them, for which `Element * Columns` is four sums of products.

const ROWS = BLOCKS * LANES;

@compute @workgroup_size(LANES, 1, 1)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let first_row = group.y * ROWS;
    let first_column = group.x * 4u * LANES + lane;
    // What lies outside of `out` repeats its last row and column, and is not stored.
    let columns = min(first_column + LANES * vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(p.n - 1u));
    let w_start = columns * p.k / WIDTH;
    let start{block} = (p.a_offset + min(first_row + {block}u * LANES + lane, p.m - 1u) * p.a_stride) / WIDTH;
    var s{block}_{lane} = vec4<f32>();

    let end = p.k / WIDTH;
    for (var k = 0u; k < end; k++) {
        let four = Columns(weight(w_start.x + k), weight(w_start.y + k), weight(w_start.z + k), weight(w_start.w + k));
        let a{block} = a[start{block} + k];
        s{block}_{lane} += subgroupBroadcast(a{block}, {lane}u) * four;
    }

    // As an array, to keep this a loop: `store` is long.
    var sums: array<vec4<f32>, ROWS>;
    sums[{block}u * LANES + {lane}u] = s{block}_{lane};
    for (var i = 0u; i < min(ROWS, p.m - first_row); i++) {
        for (var j = 0u; j < 4u; j++) {
            store(first_row + i, first_column + j * LANES, sums[i][j]);
        }
    }
}
