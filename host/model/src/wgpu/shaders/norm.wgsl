// Normalises each row: LayerNorm if CENTERED, else RMSNorm. A workgroup takes one row.
//
// Prepended: CENTERED.

struct Params {
    rows: u32,
    columns: u32,
    x_offset: u32,
    x_stride: u32,
    out_offset: u32,
    out_stride: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

const THREADS = 64u;

var<workgroup> sums: array<f32, THREADS>;

fn total(thread: u32, term: f32) -> f32 {
    sums[thread] = term;
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if thread < half {
            sums[thread] += sums[thread + half];
        }
    }
    workgroupBarrier();
    let all = sums[0];
    // Nobody may start the next sum while another thread still reads this one.
    workgroupBarrier();
    return all;
}

@compute @workgroup_size(THREADS, 1, 1)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    for (var row = group.x; row < p.rows; row += groups.x) {
        let source = p.x_offset + row * p.x_stride;
        var mean = 0.0;
        if CENTERED {
            var sum = 0.0;
            for (var i = thread; i < p.columns; i += THREADS) {
                sum += x[source + i];
            }
            mean = total(thread, sum) / f32(p.columns);
        }
        var squares = 0.0;
        for (var i = thread; i < p.columns; i += THREADS) {
            let deviation = x[source + i] - mean;
            squares = fma(deviation, deviation, squares);
        }
        let inverse = inverseSqrt(total(thread, squares) / f32(p.columns) + p.epsilon);
        for (var i = thread; i < p.columns; i += THREADS) {
            var y = (x[source + i] - mean) * inverse * weight[i];
            if CENTERED {
                y += bias[i];
            }
            out[p.out_offset + row * p.out_stride + i] = y;
        }
    }
}
