// Space to depth: each factor x factor square of a grid's rows becomes one row of `out`.

struct Params {
    out_rows: u32,
    width: u32,
    side: u32,
    factor: u32,
    x_offset: u32,
    x_stride: u32,
    out_offset: u32,
    out_stride: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(THREADS, 1, 1)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let out_width = p.width * p.factor * p.factor;
    let out_side = p.side / p.factor;
    for (var i = id.x; i < p.out_rows * out_width; i += groups.x * THREADS) {
        let out_row = i / out_width;
        let out_column = i % out_width;
        let grid = out_row / (out_side * out_side);
        let cell = out_row % (out_side * out_side);
        let part = out_column / p.width;
        let y = (cell / out_side) * p.factor + part / p.factor;
        let x_in_grid = (cell % out_side) * p.factor + part % p.factor;
        let row = grid * p.side * p.side + y * p.side + x_in_grid;
        out[p.out_offset + out_row * p.out_stride + out_column] =
            x[p.x_offset + row * p.x_stride + out_column % p.width];
    }
}
