// out = softmax(scale · q · kᵀ, masked) · v for every head, as in `attention.wgsl`, but with neither shared memory nor
// barriers: for adapters that run on a CPU (`gemm_subgroup.wgsl` says how those differ).
//
// A workgroup is one subgroup and takes BLOCKS * LANES queries of one head; a lane takes the queries that are LANES apart,
// and has all numbers of a head for each. Of a tile of LANES keys, every lane loads one key, and then one value, and tells
// the others. `group.x` walks the queries, `group.y` the heads, `group.z` the batch.
//
// A line with {quad} stands for one line for every four dimensions of a head, {key} for each key of a tile, {block} for each
// block of queries.
//
// Prepended: LANES, HEAD (a multiple of 4), BLOCKS, and `load_q4` and `load_kv4` with their bindings. With a number
// for each block: `Queries`; `Places`, the same of `u32`; `Quad`, four dimensions of each query, for which `vec4 * Quad` is
// `Queries`; `Sums`, `Queries` for each of four dimensions.

fn scaled(sums: Sums, by: Queries) -> Sums {
    return Sums(sums[0] * by, sums[1] * by, sums[2] * by, sums[3] * by);
}

fn outer(weights: Queries, value: vec4<f32>) -> Sums {
    return Sums(weights * value.x, weights * value.y, weights * value.z, weights * value.w);
}

@compute @workgroup_size(LANES, 1, 1)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let head = group.y;
    let kv_head = head / p.heads_per_kv_head;
    let first_query = group.x * BLOCKS * LANES + lane;
    let first_query_row = group.z * p.queries;
    let last_key = p.past_keys + p.own_keys - 1u;
    // The same for the whole workgroup.
    let tile_seen = visible(group.x * BLOCKS * LANES + BLOCKS * LANES - 1u);

    // What lies past the last query repeats it, and is not stored.
    let query{block} = min(first_query + {block}u * LANES, p.queries - 1u);
    var seen: Places;
    seen[{block}] = visible(query{block});
    let start{block} = p.q_offset + (first_query_row + query{block}) * p.q_stride + head * HEAD;
    var q{quad}: Quad;
    q{quad}[{block}] = load_q4(start{block} + {quad}u * 4u, 4u);
    var sums{quad} = Sums();
    var highest = Queries(LOWEST);
    var total = Queries();

    for (var first_key = 0u; first_key < tile_seen; first_key += LANES) {
        let key = min(first_key + lane, last_key);
        let in_past = key < p.past_keys;
        // The one that is not in use lies anywhere.
        let past = (group.z * p.past_keys + key) * p.past_stride + kv_head * HEAD;
        let own = (group.z * p.own_keys + key - p.past_keys) * p.own_stride + kv_head * HEAD;

        var score{key} = Queries();
        let k{quad} = load_kv4(in_past, p.past_k_offset + past + {quad}u * 4u, p.own_k_offset + own + {quad}u * 4u, 4u);
        score{key} += subgroupBroadcast(k{quad}, {key}u) * q{quad};

        let before = highest;
        score{key} = select(Queries(LOWEST), score{key} * p.scale, Places(first_key + {key}u) < seen);
        highest = max(highest, score{key});
        let correction = exp(before - highest);
        let weight{key} = select(Queries(), exp(score{key} - highest), Places(first_key + {key}u) < seen);
        total *= correction;
        total += weight{key};

        sums{quad} = scaled(sums{quad}, correction);
        let v{quad} = load_kv4(in_past, p.past_v_offset + past + {quad}u * 4u, p.own_v_offset + own + {quad}u * 4u, 4u);
        sums{quad} += outer(weight{key}, subgroupBroadcast(v{quad}, {key}u));
    }

    // As an array, to keep this a loop.
    var results: array<Sums, HEAD / 4u>;
    results[{quad}] = scaled(sums{quad}, 1.0 / total);
    for (var quad = 0u; quad < HEAD / 4u; quad++) {
        for (var i = 0u; i < BLOCKS; i++) {
            let query = first_query + i * LANES;
            if query < p.queries {
                let place = p.out_offset + (first_query_row + query) * p.out_stride + head * HEAD + quad * 4u;
                out[place] = results[quad][0][i];
                out[place + 1u] = results[quad][1][i];
                out[place + 2u] = results[quad][2][i];
                out[place + 3u] = results[quad][3][i];
            }
        }
    }
}
