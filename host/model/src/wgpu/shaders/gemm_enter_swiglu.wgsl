// silu(left half of the input's columns) * right half.

fn enter(row: u32, k: u32) -> vec4<f32> {
    let gate = load_a4(p.a_offset, row, k);
    let up = load_a4(p.a_offset + p.k, row, k);
    return gate / (1.0 + exp(-gate)) * up;
}

fn finish(thread: u32) {}

fn leave(tile_row: u32) -> f32 {
    return 1.0;
}
