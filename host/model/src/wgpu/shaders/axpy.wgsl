// out += scale * x.

struct Params {
    rows: u32,
    columns: u32,
    x_offset: u32,
    x_stride: u32,
    out_offset: u32,
    out_stride: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(THREADS, 1, 1)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var i = id.x; i < p.rows * p.columns; i += groups.x * THREADS) {
        let row = i / p.columns;
        let column = i % p.columns;
        out[p.out_offset + row * p.out_stride + column] += p.scale * x[p.x_offset + row * p.x_stride + column];
    }
}
