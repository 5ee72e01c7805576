// What the GEMM kernels share: parameters, bindings, and the epilogue that writes one element of `out`.

struct Params {
    m: u32,
    n: u32,
    k: u32,
    a_offset: u32,
    a_stride: u32,
    // Row `r` of `out` takes row `r % bias_rows`; 0 where there is no bias.
    bias_rows: u32,
    bias_offset: u32,
    bias_stride: u32,
    // Likewise; but with `in_place`, the residual is what `out` holds.
    residual_rows: u32,
    residual_offset: u32,
    residual_stride: u32,
    in_place: u32,
    out_offset: u32,
    out_stride: u32,
    activation: u32,
    scale: f32,
    epsilon: f32,
}

const SILU = 1u;
const GELU_TANH = 2u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<Element>;
// Binding 2 is `w`, in the format of the weights; `weight` reads it.
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> residual: array<f32>;
// Of a norm on the way in.
@group(0) @binding(5) var<storage, read> gain: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

fn activate(x: f32) -> f32 {
    switch p.activation {
        case SILU: {
            return x / (1.0 + exp(-x));
        }
        case GELU_TANH: {
            // Beyond 10 the hyperbolic tangent is 1 in f32, and some drivers return NaN for large arguments.
            let inner = clamp(0.7978845608 * (x + 0.044715 * x * x * x), -10.0, 10.0);
            return 0.5 * x * (1.0 + tanh(inner));
        }
        default: {
            return x;
        }
    }
}

fn store(row: u32, column: u32, sum: f32) {
    if row >= p.m || column >= p.n {
        return;
    }
    var x = sum * p.scale;
    if p.bias_rows != 0u {
        x += bias[p.bias_offset + (row % p.bias_rows) * p.bias_stride + column];
    }
    x = activate(x);
    if p.residual_rows != 0u {
        x += residual[p.residual_offset + (row % p.residual_rows) * p.residual_stride + column];
    }
    let place = p.out_offset + row * p.out_stride + column;
    if p.in_place != 0u {
        x += out[place];
    }
    out[place] = x;
}
