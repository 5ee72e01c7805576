// What the attention kernels share: parameters, the output, and which keys a query sees.

struct Params {
    queries: u32,
    // Keys of a block: `past_keys` of `past`, then `own_keys` of `own`.
    past_keys: u32,
    own_keys: u32,
    // Blocks in a run, each of which sees its own place in those before it.
    frames: u32,
    heads_per_kv_head: u32,
    q_offset: u32,
    q_stride: u32,
    past_k_offset: u32,
    past_v_offset: u32,
    past_stride: u32,
    own_k_offset: u32,
    own_v_offset: u32,
    own_stride: u32,
    out_offset: u32,
    out_stride: u32,
    // Query `i` sees keys `0 .. min(past_keys + own_keys, max(open, offset + i + 1))`.
    open: u32,
    offset: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

// Below every score; finite, because WGSL lets a compiler assume that no infinity occurs.
const LOWEST = -3.4028234663852886e38;

fn visible(query: u32) -> u32 {
    return min(p.past_keys + p.own_keys, max(p.open, p.offset + query + 1u));
}
