// out = softmax(scale · q · kᵀ, masked) · v for every head, accumulated in f32 in one pass over the keys
// (online softmax: Milakov and Gimelshein, arXiv 1805.02867).
//
// A workgroup of 16 x 16 threads takes 16 * ROWS queries of one head, and 32 keys at a time. A thread scores ROWS queries
// against two keys, and then sums four dimensions of the values, or more for wide heads, for the same queries. The values
// travel while scores are taken, and the next keys while values are summed. `group.x` walks the queries, `group.y` the heads,
// `group.z` the batch. Query heads share key heads in runs of `heads_per_kv_head`.
//
// A line with {row} stands for one line for every query of a thread, {fetch} for every vector that a thread brings of a tile
// of keys, {part} for every four dimensions that it sums.
//
// Prepended: HEAD, the width of a head; ROWS; `load_q4` and `load_kv4` with their bindings.

const QUADS = (HEAD + 3u) / 4u;
// Odd, so that successive rows lie in different banks.
const PITCH = QUADS | 1u;
const QUERIES = 16u * ROWS;
const KEYS = 32u;
// Four keys' weights in each vector.
const WEIGHT_PITCH = KEYS / 4u + 1u;

var<workgroup> q_tile: array<vec4<f32>, QUERIES * PITCH>;
// Holds a tile of keys, then the values of the same positions.
var<workgroup> kv_tile: array<vec4<f32>, KEYS * PITCH>;
var<workgroup> weights: array<vec4<f32>, QUERIES * WEIGHT_PITCH>;
// Of each query, the highest score of every thread.
var<workgroup> maxima: array<vec4<f32>, QUERIES * 4u>;

fn key_at(block: u32, key: u32, kv_head: u32, quad: u32) -> vec4<f32> {
    let column = kv_head * HEAD + 4u * quad;
    let past_place = p.past_k_offset + (block * p.past_keys + key) * p.past_stride + column;
    let own_place = p.own_k_offset + (block * p.own_keys + key - p.past_keys) * p.own_stride + column;
    return load_kv4(key < p.past_keys, past_place, own_place, HEAD - 4u * quad);
}

fn value_at(block: u32, key: u32, kv_head: u32, quad: u32) -> vec4<f32> {
    let column = kv_head * HEAD + 4u * quad;
    let past_place = p.past_v_offset + (block * p.past_keys + key) * p.past_stride + column;
    let own_place = p.own_v_offset + (block * p.own_keys + key - p.past_keys) * p.own_stride + column;
    return load_kv4(key < p.past_keys, past_place, own_place, HEAD - 4u * quad);
}

// The highest score of a query of the tile.
fn highest_of(row: u32) -> f32 {
    let most = max(max(maxima[row * 4u], maxima[row * 4u + 1u]), max(maxima[row * 4u + 2u], maxima[row * 4u + 3u]));
    return max(max(most.x, most.y), max(most.z, most.w));
}

// What a query of the tile scores against one key.
fn score_of(row: u32, block: u32, key: u32, kv_head: u32) -> f32 {
    var sums = vec4<f32>();
    for (var quad = 0u; quad < QUADS; quad++) {
        sums = fma(q_tile[row * PITCH + quad], key_at(block, key, kv_head, quad), sums);
    }
    return dot(sums, vec4<f32>(1.0));
}

fn keep(query: u32, first_query_row: u32, head: u32, quad: u32, x: vec4<f32>) {
    let start = p.out_offset + (first_query_row + query) * p.out_stride + head * HEAD;
    for (var i = 0u; i < 4u; i++) {
        if query < p.queries && 4u * quad + i < HEAD {
            out[start + 4u * quad + i] = x[i];
        }
    }
}

@compute @workgroup_size(256, 1, 1)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let head = group.y;
    let kv_head = head / p.heads_per_kv_head;
    let y = thread / 16u;
    let x = thread % 16u;
    let first_query = group.x * QUERIES;
    let first_query_row = group.z * p.queries;
    let last_key = p.past_keys + p.own_keys - 1u;
    // What the last query of the tile sees; the same for the whole workgroup, as barriers demand.
    let tile_seen = visible(first_query + QUERIES - 1u);

    for (var i = thread; i < QUERIES * QUADS; i += 256u) {
        let quad = i % QUADS;
        // What lies past the last query repeats it, and is not stored.
        let query = min(first_query + i / QUADS, p.queries - 1u);
        let place = p.q_offset + (first_query_row + query) * p.q_stride + head * HEAD + 4u * quad;
        q_tile[i / QUADS * PITCH + quad] = load_q4(place, HEAD - 4u * quad);
    }

    let query{row} = first_query + y + 16u * {row}u;
    let seen{row} = visible(query{row});
    var highest{row} = LOWEST;
    var total{row} = 0.0;
    var sum{row}_{part} = vec4<f32>();
    let key_slot{fetch} = (thread + 256u * {fetch}u) / QUADS;
    let quad_slot{fetch} = (thread + 256u * {fetch}u) % QUADS;
    var key{fetch} = key_at(group.z, min(key_slot{fetch}, last_key), kv_head, quad_slot{fetch});
    for (var first_key = 0u; first_key < tile_seen; first_key += KEYS) {
        workgroupBarrier();
        if key_slot{fetch} < KEYS { kv_tile[key_slot{fetch} * PITCH + quad_slot{fetch}] = key{fetch}; }
        let value{fetch} = value_at(group.z, min(first_key + key_slot{fetch}, last_key), kv_head, quad_slot{fetch});
        workgroupBarrier();

        var near{row} = vec4<f32>();
        var far{row} = vec4<f32>();
        for (var quad = 0u; quad < QUADS; quad++) {
            let near_key = kv_tile[x * PITCH + quad];
            let far_key = kv_tile[(x + 16u) * PITCH + quad];
            let asked{row} = q_tile[(y + 16u * {row}u) * PITCH + quad];
            near{row} = fma(asked{row}, near_key, near{row});
            far{row} = fma(asked{row}, far_key, far{row});
        }
        let shown{row} = vec2<u32>(first_key + x, first_key + x + 16u) < vec2<u32>(seen{row});
        let sums{row} = vec2<f32>(dot(near{row}, vec4<f32>(1.0)), dot(far{row}, vec4<f32>(1.0)));
        let score{row} = select(vec2<f32>(LOWEST), sums{row} * p.scale, shown{row});
        maxima[(y + 16u * {row}u) * 4u + x / 4u][x % 4u] = max(score{row}.x, score{row}.y);
        workgroupBarrier();

        let before{row} = highest{row};
        highest{row} = max(highest{row}, highest_of(y + 16u * {row}u));
        let correction{row} = exp(before{row} - highest{row});
        total{row} *= correction{row};
        sum{row}_{part} *= correction{row};
        let own_weights{row} = select(vec2<f32>(), exp(min(score{row} - highest{row}, vec2<f32>())), shown{row});
        weights[(y + 16u * {row}u) * WEIGHT_PITCH + x / 4u][x % 4u] = own_weights{row}.x;
        weights[(y + 16u * {row}u) * WEIGHT_PITCH + x / 4u + 4u][x % 4u] = own_weights{row}.y;
        if key_slot{fetch} < KEYS { kv_tile[key_slot{fetch} * PITCH + quad_slot{fetch}] = value{fetch}; }
        key{fetch} = key_at(group.z, min(first_key + KEYS + key_slot{fetch}, last_key), kv_head, quad_slot{fetch});
        workgroupBarrier();

        for (var at = 0u; at < KEYS / 4u; at++) {
            let weight{row} = weights[(y + 16u * {row}u) * WEIGHT_PITCH + at];
            total{row} += dot(weight{row}, vec4<f32>(1.0));
            // Lanes past the last quad sum it once more, and store nothing.
            let place{part} = 4u * at * PITCH + min(x + 16u * {part}u, QUADS - 1u);
            let first{part} = kv_tile[place{part}];
            let second{part} = kv_tile[place{part} + PITCH];
            let third{part} = kv_tile[place{part} + 2u * PITCH];
            let fourth{part} = kv_tile[place{part} + 3u * PITCH];
            sum{row}_{part} = fma(vec4<f32>(weight{row}.x), first{part}, sum{row}_{part});
            sum{row}_{part} = fma(vec4<f32>(weight{row}.y), second{part}, sum{row}_{part});
            sum{row}_{part} = fma(vec4<f32>(weight{row}.z), third{part}, sum{row}_{part});
            sum{row}_{part} = fma(vec4<f32>(weight{row}.w), fourth{part}, sum{row}_{part});
        }
    }

    // The same place in earlier blocks of the run: few, so that every thread of a query scores all of each.
    let earlier = group.z % p.frames;
    let place{row} = min(query{row}, p.queries - 1u);
    for (var block = group.z - earlier; block < group.z; block++) {
        let score{row} = p.scale * score_of(y + 16u * {row}u, block, place{row}, kv_head);
        let before{row} = highest{row};
        highest{row} = max(highest{row}, score{row});
        let correction{row} = exp(before{row} - highest{row});
        let weight{row} = exp(score{row} - highest{row});
        total{row} = fma(total{row}, correction{row}, weight{row});
        let value{row}_{part} = value_at(block, place{row}, kv_head, min(x + 16u * {part}u, QUADS - 1u));
        sum{row}_{part} = fma(value{row}_{part}, vec4<f32>(weight{row}), sum{row}_{part} * correction{row});
    }

    keep(query{row}, first_query_row, head, x + 16u * {part}u, sum{row}_{part} / total{row});
}
