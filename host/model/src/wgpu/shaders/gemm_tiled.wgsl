// out = residual + activation(scale · a · wᵀ + bias), through tiles in shared memory.
//
// A workgroup of 16 x 16 threads makes a square tile of `out` with TILE = 16 * MICRO rows and columns; a thread keeps
// MICRO x MICRO sums in registers. Both operands are read along k, so neighbouring threads read neighbouring memory.
//
// Prepended: MICRO; the storage element type of `a` as `alias Element` with `load_a4` / `load_w4`; and what is done to `a` on
// the way in, as `enter`, `finish` and `leave`. A thread enters numbers of one row of the tile only: row `thread / 4`.

const DEPTH = 16u;
// One word of padding moves successive rows to different banks.
const PITCH = TILE + 1u;

var<workgroup> a_tile: array<f32, DEPTH * PITCH>;
var<workgroup> w_tile: array<f32, DEPTH * PITCH>;

@compute @workgroup_size(16, 16, 1)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let first_row = group.y * TILE;
    let first_column = group.x * TILE;
    var sums: array<array<f32, MICRO>, MICRO>;

    for (var k = 0u; k < p.k; k += DEPTH) {
        for (var slot = thread; slot < TILE * (DEPTH / 4u); slot += 256u) {
            let line = slot / (DEPTH / 4u);
            let depth = (slot % (DEPTH / 4u)) * 4u;
            let a = enter(first_row + line, k + depth);
            let w = load_w4(first_column + line, k + depth);
            for (var i = 0u; i < 4u; i++) {
                a_tile[(depth + i) * PITCH + line] = a[i];
                w_tile[(depth + i) * PITCH + line] = w[i];
            }
        }
        workgroupBarrier();
        for (var depth = 0u; depth < DEPTH; depth++) {
            var a: array<f32, MICRO>;
            var w: array<f32, MICRO>;
            for (var i = 0u; i < MICRO; i++) {
                // Strided by 16, so that the threads of a warp read distinct banks.
                a[i] = a_tile[depth * PITCH + local.y + 16u * i];
                w[i] = w_tile[depth * PITCH + local.x + 16u * i];
            }
            for (var i = 0u; i < MICRO; i++) {
                for (var j = 0u; j < MICRO; j++) {
                    sums[i][j] = fma(a[i], w[j], sums[i][j]);
                }
            }
        }
        workgroupBarrier();
    }

    finish(thread);
    for (var i = 0u; i < MICRO; i++) {
        let scale = leave(local.y + 16u * i);
        for (var j = 0u; j < MICRO; j++) {
            store(first_row + local.y + 16u * i, first_column + local.x + 16u * j, sums[i][j] * scale);
        }
    }
}
