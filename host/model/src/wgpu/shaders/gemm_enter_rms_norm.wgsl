// The input over its root mean square, times `gain`. The root is known once all of a row was read, so it comes last: it is
// the same for the whole row of the product.

// Of a thread's own numbers.
var<private> squares: f32;
var<workgroup> squares_of: array<f32, 256u>;

fn enter(row: u32, k: u32) -> vec4<f32> {
    let x = load_a4(p.a_offset, row, k);
    squares += dot(x, x);
    var gains = vec4<f32>();
    for (var i = 0u; i < 4u && k + i < p.k; i++) {
        gains[i] = gain[k + i];
    }
    return x * gains;
}

fn finish(thread: u32) {
    squares_of[thread] = squares;
    workgroupBarrier();
}

fn leave(tile_row: u32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < LANES; i++) {
        sum += squares_of[LANES * tile_row + i];
    }
    return inverseSqrt(sum / f32(p.k) + p.epsilon);
}
