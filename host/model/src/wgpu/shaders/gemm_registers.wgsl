// out = residual + activation(scale · a · wᵀ + bias), with neither shared memory nor barriers.
//
// For adapters that run on a CPU: there a barrier suspends and resumes every thread of the workgroup, and shared
// memory is ordinary memory. Each thread makes a ROWS x COLUMNS tile of `out` in registers, straight from storage.
//
// Prepended: ROWS, COLUMNS, THREADS, `load_a4` / `load_w4`.

@compute @workgroup_size(THREADS, 1, 1)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let first_row = id.y * ROWS;
    let first_column = id.x * COLUMNS;
    var sums: array<array<f32, COLUMNS>, ROWS>;

    for (var k = 0u; k < p.k; k += 4u) {
        var a: array<vec4<f32>, ROWS>;
        for (var i = 0u; i < ROWS; i++) {
            a[i] = load_a4(first_row + i, k);
        }
        for (var j = 0u; j < COLUMNS; j++) {
            let w = load_w4(first_column + j, k);
            for (var i = 0u; i < ROWS; i++) {
                sums[i][j] += dot(a[i], w);
            }
        }
    }

    for (var i = 0u; i < ROWS; i++) {
        for (var j = 0u; j < COLUMNS; j++) {
            store(first_row + i, first_column + j, sums[i][j]);
        }
    }
}
