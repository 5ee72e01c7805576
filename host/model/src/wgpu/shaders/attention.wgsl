// out = softmax(scale · q · kᵀ, masked) · v for every head, accumulated in f32 in one pass over the keys
// (online softmax: Milakov and Gimelshein, arXiv 1805.02867).
//
// A workgroup takes 16 queries of one head; 8 threads share a query. `group.x` walks the queries, `group.y` the heads,
// `group.z` the batch. Query heads share key heads in runs of `heads_per_kv_head`.
//
// Prepended: HEAD, the width of a head; QUERY_TILE = 16 and KEY_TILE, a multiple of 8.

@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> past: array<f32>;
@group(0) @binding(3) var<storage, read> own: array<f32>;

const LANES = 8u;
const THREADS = QUERY_TILE * LANES;
const PITCH = HEAD + 1u;
const SCORE_PITCH = KEY_TILE + 1u;
const KEYS_PER_LANE = KEY_TILE / LANES;
const DIMS_PER_LANE = (HEAD + LANES - 1u) / LANES;

var<workgroup> q_tile: array<f32, QUERY_TILE * PITCH>;
// Holds a tile of keys, then the values of the same positions.
var<workgroup> kv_tile: array<f32, KEY_TILE * PITCH>;
var<workgroup> weights: array<f32, QUERY_TILE * SCORE_PITCH>;
var<workgroup> lane_maxima: array<f32, THREADS>;

fn load_k(block: u32, key: u32, column: u32) -> f32 {
    if key < p.past_keys {
        return past[p.past_k_offset + (block * p.past_keys + key) * p.past_stride + column];
    }
    return own[p.own_k_offset + (block * p.own_keys + key - p.past_keys) * p.own_stride + column];
}

fn load_v(block: u32, key: u32, column: u32) -> f32 {
    if key < p.past_keys {
        return past[p.past_v_offset + (block * p.past_keys + key) * p.past_stride + column];
    }
    return own[p.own_v_offset + (block * p.own_keys + key - p.past_keys) * p.own_stride + column];
}

@compute @workgroup_size(THREADS, 1, 1)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let head = group.y;
    let kv_head = head / p.heads_per_kv_head;
    let row = thread / LANES;
    let lane = thread % LANES;
    let query = group.x * QUERY_TILE + row;
    let seen = visible(query);
    // What the last query of the tile sees; the same for the whole workgroup, as barriers demand.
    let tile_seen = visible(group.x * QUERY_TILE + QUERY_TILE - 1u);
    let first_query_row = group.z * p.queries;
    let keys = p.past_keys + p.own_keys;

    for (var i = thread; i < QUERY_TILE * HEAD; i += THREADS) {
        let tile_row = i / HEAD;
        let dim = i % HEAD;
        let source = min(group.x * QUERY_TILE + tile_row, p.queries - 1u);
        q_tile[tile_row * PITCH + dim] = q[p.q_offset + (first_query_row + source) * p.q_stride + head * HEAD + dim];
    }

    var highest = LOWEST;
    var total = 0.0;
    var sums: array<f32, DIMS_PER_LANE>;

    for (var first_key = 0u; first_key < tile_seen; first_key += KEY_TILE) {
        workgroupBarrier();
        for (var i = thread; i < KEY_TILE * HEAD; i += THREADS) {
            let key = min(first_key + i / HEAD, keys - 1u);
            let dim = i % HEAD;
            kv_tile[(i / HEAD) * PITCH + dim] = load_k(group.z, key, kv_head * HEAD + dim);
        }
        workgroupBarrier();

        var scores: array<f32, KEYS_PER_LANE>;
        var lane_highest = LOWEST;
        for (var i = 0u; i < KEYS_PER_LANE; i++) {
            let slot = lane + LANES * i;
            var score = 0.0;
            for (var dim = 0u; dim < HEAD; dim++) {
                score = fma(q_tile[row * PITCH + dim], kv_tile[slot * PITCH + dim], score);
            }
            scores[i] = score * p.scale;
            if first_key + slot < seen {
                lane_highest = max(lane_highest, scores[i]);
            }
        }
        lane_maxima[thread] = lane_highest;
        workgroupBarrier();

        var tile_highest = highest;
        for (var i = 0u; i < LANES; i++) {
            tile_highest = max(tile_highest, lane_maxima[row * LANES + i]);
        }
        let correction = exp(highest - tile_highest);
        highest = tile_highest;
        for (var i = 0u; i < KEYS_PER_LANE; i++) {
            let slot = lane + LANES * i;
            weights[row * SCORE_PITCH + slot] = select(0.0, exp(min(scores[i] - highest, 0.0)), first_key + slot < seen);
        }
        for (var i = thread; i < KEY_TILE * HEAD; i += THREADS) {
            let key = min(first_key + i / HEAD, keys - 1u);
            let dim = i % HEAD;
            kv_tile[(i / HEAD) * PITCH + dim] = load_v(group.z, key, kv_head * HEAD + dim);
        }
        workgroupBarrier();

        total *= correction;
        for (var slot = 0u; slot < KEY_TILE; slot++) {
            total += weights[row * SCORE_PITCH + slot];
        }
        for (var i = 0u; i < DIMS_PER_LANE; i++) {
            let dim = min(lane + LANES * i, HEAD - 1u);
            var sum = sums[i] * correction;
            for (var slot = 0u; slot < KEY_TILE; slot++) {
                sum = fma(weights[row * SCORE_PITCH + slot], kv_tile[slot * PITCH + dim], sum);
            }
            sums[i] = sum;
        }
    }

    // The same place in earlier blocks of the run: few, so that every lane of a query takes all of each.
    let earlier = group.z % p.frames;
    let place = min(query, p.queries - 1u);
    for (var block = group.z - earlier; block < group.z; block++) {
        var score = 0.0;
        for (var dim = 0u; dim < HEAD; dim++) {
            score = fma(q_tile[row * PITCH + dim], load_k(block, place, kv_head * HEAD + dim), score);
        }
        score *= p.scale;
        let new_highest = max(highest, score);
        let correction = exp(highest - new_highest);
        let weight = exp(score - new_highest);
        highest = new_highest;
        total = total * correction + weight;
        for (var i = 0u; i < DIMS_PER_LANE; i++) {
            let dim = min(lane + LANES * i, HEAD - 1u);
            sums[i] = fma(weight, load_v(block, place, kv_head * HEAD + dim), sums[i] * correction);
        }
    }

    if query < p.queries {
        for (var i = 0u; i < DIMS_PER_LANE; i++) {
            let dim = lane + LANES * i;
            if dim < HEAD {
                out[p.out_offset + (first_query_row + query) * p.out_stride + head * HEAD + dim] = sums[i] / total;
            }
        }
    }
}
