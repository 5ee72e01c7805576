// Operand access for any k and any row start; what lies past the end of a row reads as zero.

alias Element = f32;
alias Columns = vec4<f32>;
const WIDTH = 1u;

fn load_a4(offset: u32, row: u32, k: u32) -> vec4<f32> {
    var x = vec4<f32>();
    if row < p.m {
        let start = offset + row * p.a_stride + k;
        for (var i = 0u; i < 4u && k + i < p.k; i++) {
            x[i] = a[start + i];
        }
    }
    return x;
}

fn load_w4(column: u32, k: u32) -> vec4<f32> {
    var x = vec4<f32>();
    if column < p.n {
        let start = column * p.k + k;
        for (var i = 0u; i < 4u && k + i < p.k; i++) {
            x[i] = weight(start + i);
        }
    }
    return x;
}
