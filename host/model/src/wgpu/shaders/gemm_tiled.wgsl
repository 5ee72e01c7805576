// out = residual + activation(scale · a · wᵀ + bias), through tiles in shared memory.
//
// A workgroup of 256 threads makes a square tile of `out` with TILE rows and columns. A thread keeps 4 x 4 sums in registers;
// SHARE threads cover a tile with them, and where that leaves threads over, SLICES of them share the tile along k and add up
// at the end. Both operands are read along k, four numbers at a time, and lie like that in shared memory: each thread brings
// four of each, and the numbers of the next tiles travel while these are multiplied.
//
// A line with {row} stands for four lines, one for every row of a thread.
//
// Prepended: TILE, at most 64; `load_a4` / `load_w4`; and what is done to `a` on the way in, as `enter`, `finish` and `leave`.
// A thread enters numbers of one row of the tile only: row `thread / LANES`.

// Threads that bring a line of an operand.
const LANES = 256u / TILE;
const SIDE = TILE / 4u;
const SHARE = SIDE * SIDE;
const SLICES = 256u / SHARE;
// Odd, so that successive lines lie in different banks.
const PITCH = LANES + 1u;
const W = TILE * PITCH;

var<workgroup> tiles: array<vec4<f32>, 2u * TILE * PITCH>;

@compute @workgroup_size(256, 1, 1)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let first_row = group.y * TILE;
    let first_column = group.x * TILE;
    let slice = thread / SHARE;
    let y = thread % SHARE / SIDE;
    let x = thread % SIDE;
    let line = thread / LANES;
    let lane = thread % LANES;

    var sums{row} = vec4<f32>();
    var a = enter(first_row + line, 4u * lane);
    var w = load_w4(first_column + line, 4u * lane);
    for (var k = 0u; k < p.k; k += 4u * LANES) {
        tiles[line * PITCH + lane] = a;
        tiles[W + line * PITCH + lane] = w;
        workgroupBarrier();
        a = enter(first_row + line, k + 4u * (LANES + lane));
        w = load_w4(first_column + line, k + 4u * (LANES + lane));
        for (var at = slice; at < LANES; at += SLICES) {
            let row{row} = tiles[(y + SIDE * {row}u) * PITCH + at];
            let column{row} = tiles[W + (x + SIDE * {row}u) * PITCH + at];
            sums{row} = fma(vec4<f32>(row{row}.x), vec4<f32>(column0.x, column1.x, column2.x, column3.x), sums{row});
            sums{row} = fma(vec4<f32>(row{row}.y), vec4<f32>(column0.y, column1.y, column2.y, column3.y), sums{row});
            sums{row} = fma(vec4<f32>(row{row}.z), vec4<f32>(column0.z, column1.z, column2.z, column3.z), sums{row});
            sums{row} = fma(vec4<f32>(row{row}.w), vec4<f32>(column0.w, column1.w, column2.w, column3.w), sums{row});
        }
        workgroupBarrier();
    }

    finish(thread);
    if SLICES == 1u {
        store4(first_row + y + SIDE * {row}u, first_column + x, sums{row} * leave(y + SIDE * {row}u));
        return;
    }
    // The slices add up in the tiles' memory, which has room for half of them.
    let half = SLICES / 2u;
    if slice >= half {
        tiles[((slice - half) * TILE + y + SIDE * {row}u) * SIDE + x] = sums{row};
    }
    workgroupBarrier();
    if slice < half {
        tiles[(slice * TILE + y + SIDE * {row}u) * SIDE + x] += sums{row};
    }
    workgroupBarrier();
    for (var place = thread; place < TILE * TILE; place += 256u) {
        let row = place / TILE;
        let column = place % TILE;
        var sum = 0.0;
        for (var other = 0u; other < half; other++) {
            sum += tiles[(other * TILE + row) * SIDE + column % SIDE][column / SIDE];
        }
        store(first_row + row, first_column + column, sum * leave(row));
    }
}

fn store4(row: u32, column: u32, sums: vec4<f32>) {
    store(row, column, sums.x);
    store(row, column + SIDE, sums.y);
    store(row, column + 2u * SIDE, sums.z);
    store(row, column + 3u * SIDE, sums.w);
}
