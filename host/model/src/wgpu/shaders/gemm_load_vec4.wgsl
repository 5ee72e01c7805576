// Operand access where k and every row start are multiples of 4: one vector load.

alias Element = vec4<f32>;
alias Columns = mat4x4<f32>;
const WIDTH = 4u;

fn load_a4(offset: u32, row: u32, k: u32) -> vec4<f32> {
    if row >= p.m || k >= p.k {
        return vec4<f32>();
    }
    return a[(offset + row * p.a_stride + k) / 4u];
}

fn load_w4(column: u32, k: u32) -> vec4<f32> {
    if column >= p.n || k >= p.k {
        return vec4<f32>();
    }
    return weight((column * p.k + k) / 4u);
}
