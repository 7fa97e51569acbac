// Attention of one token (Vaswani et al. 2017) over a part of its context, by one workgroup: scores, their softmax, the
// weighted sum of values, for up to TILE_HEADS query heads of one key/value head, which share its reads. A lane is a run
// of one strand, of keys as of values: neighbours read neighbouring bytes, and each strand takes every STRANDS-th
// position. Kernels that attend call these steps one after the other; products are fma throughout, and runs are added in
// their order, so that all of them make the same bits. Depends on the slots KV or CACHES (key_run, value_run), REDUCE and
// RESULT (finish), and on the binding `slopes`.
#import tanh
#import alibi
#import pieces

override WORKGROUP: u32;       // invocations, at least as many as runs of a value
override LANES: u32;           // = WORKGROUP
override HEADS: u32;           // query heads
override KV_HEADS: u32;
override HEAD_DIM: u32;
override TILE_HEADS: u32;      // query heads of a workgroup, at most MAX_HEADS
override CONTEXT_LENGTH: u32;  // positions that the cache has room for
override ALONE: u32;           // so many positions, or fewer, are attended to by one workgroup
override AT_ONCE: u32;         // values that a lane loads before it uses the first, at most MAX_AT_ONCE
override AHEAD: bool;          // the first values are on their way while scores are computed
override SCALE: f32;
override SOFTCAP: f32;         // scores are bent to ± this; 0: they are not
// Sizes are named, since naga 30 loses count of overrides where a size is an expression without a name.
override RUNS: u32 = (HEAD_DIM / 4u + RUN_QUADS - 1u) / RUN_QUADS;  // loads that bring a key or a value
override QUERY_ROW: u32 = RUNS * RUN_QUADS;
override QUERY_QUADS: u32 = TILE_HEADS * QUERY_ROW;
override TILE_POSITIONS: u32 = TILE_HEADS * SPLIT;
override STRANDS: u32 = WORKGROUP / RUNS;
override STRAND_QUADS: u32 = RUN_QUADS * WORKGROUP;
// Places of a lane for products: those of a key with the tile's queries, and those of all keys that it loads before
// products are added up. There is room for RUN_QUADS quads of them; more than 16 quads of keys would cost registers.
override HEAD_PLACES: u32 = select(4u, TILE_HEADS, TILE_HEADS < 3u);
override KEYS_AT_ONCE: u32 = min(4u * RUN_QUADS / HEAD_PLACES, 16u / RUN_QUADS);
override PLACES: u32 = KEYS_AT_ONCE * HEAD_PLACES;
override TILES: u32 = KV_HEADS * ((HEADS / KV_HEADS + TILE_HEADS - 1u) / TILE_HEADS);  // workgroups of a token's part

const MAX_HEADS = 4u;
const MAX_VALUES = MAX_HEADS * RUN_QUADS;
const MAX_AT_ONCE = 8u;
const NONE = -1.0e38;  // below every score, and far enough from -f32::MAX that differences stay finite

// What a workgroup computes.
struct Part {
    token: u32,
    kv_head: u32,
    first_head: u32,  // within the group that shares the key/value head
    position: u32,    // the token's
    begin: u32,       // first position of the part
    end: u32,         // the one behind the last
    piece: u32,       // which part of the context it is
}

var<workgroup> queries: array<vec4<f32>, QUERY_QUADS>;  // (tile heads, runs, RUN_QUADS): zeros behind head_dim
var<workgroup> weights: array<f32, TILE_POSITIONS>;     // (tile heads, positions)
var<workgroup> strands: array<vec4<f32>, STRAND_QUADS>;  // (RUN_QUADS, lanes): sums of values; before, products of keys

var<private> loaded: array<array<vec4<f32>, RUN_QUADS>, MAX_AT_ONCE>;  // runs of values: AT_ONCE positions of a strand
// By tile head: the greatest score, the sum of weights, the weighted sum of a lane's runs.
var<private> maxima: array<f32, MAX_HEADS>;
var<private> sums: array<f32, MAX_HEADS>;
var<private> values: array<vec4<f32>, MAX_VALUES>;  // (tile heads, RUN_QUADS)

// A tile head's number. The last tile of a group may be partly empty: it repeats the last head.
fn head_of(part: Part, h: u32) -> u32 {
    let group = HEADS / KV_HEADS;
    return part.kv_head * group + min(part.first_head + h, group - 1u);
}

fn bend(score: f32) -> f32 {
    if SOFTCAP > 0.0 {
        return SOFTCAP * safe_tanh(vec4(score / SOFTCAP)).x;
    }
    return score;
}

// The product of a run of a key with what the query has there.
fn product(query: array<vec4<f32>, RUN_QUADS>, key: array<vec4<f32>, RUN_QUADS>) -> f32 {
    var queries = query;
    var keys = key;
    var sums = vec4(0.0);
    for (var i = 0u; i < RUN_QUADS; i++) {
        sums = fma(queries[i], keys[i], sums);
    }
    return (sums.x + sums.y) + (sums.z + sums.w);
}

// Run `run` of a tile head's query.
fn query_run(h: u32, run: u32) -> array<vec4<f32>, RUN_QUADS> {
    var quads: array<vec4<f32>, RUN_QUADS>;
    for (var i = 0u; i < RUN_QUADS; i++) {
        quads[i] = queries[h * QUERY_ROW + run * RUN_QUADS + i];
    }
    return quads;
}

// The score of the part's position `at`, from the product of all runs.
fn store_score(part: Part, h: u32, at: u32, product: f32) {
    weights[h * SPLIT + at] = biased(bend(product), head_of(part, h), part.begin + at, part.position);
}

// Scores of the part's first `count` positions, of keys in the cache. Products of runs pass through `strands`.
fn score_keys(part: Part, count: u32, lid: u32) {
    let row = part.kv_head * CONTEXT_LENGTH + part.begin;
    let strand = lid / RUNS;
    let run = lid % RUNS;
    var own: array<array<vec4<f32>, RUN_QUADS>, MAX_HEADS>;
    for (var h = 0u; h < TILE_HEADS; h++) {
        own[h] = query_run(h, run);
    }
    for (var first = 0u; first < count; first += KEYS_AT_ONCE * STRANDS) {
        var found: array<vec4<f32>, RUN_QUADS>;
        for (var n = 0u; n < KEYS_AT_ONCE; n++) {
            let key = key_run(row + min(first + n * STRANDS + strand, count - 1u), run);
            for (var h = 0u; h < TILE_HEADS; h++) {
                let place = n * HEAD_PLACES + h;
                found[place / 4u][place % 4u] = product(own[h], key);
            }
        }
        workgroupBarrier();  // products before these may still be read
        for (var i = 0u; i < PLACES / 4u; i++) {
            strands[i * WORKGROUP + lid] = found[i];
        }
        workgroupBarrier();
        add_products(part, first, count, lid);
    }
}

// Adds up the products of KEYS_AT_ONCE keys of each strand, from the part's position `first` on: a score a lane.
fn add_products(part: Part, first: u32, count: u32, lid: u32) {
    for (var i = lid; i < STRANDS * PLACES; i += WORKGROUP) {
        let strand = i / PLACES;
        let place = i % PLACES;
        let h = place % HEAD_PLACES;
        let at = first + place / HEAD_PLACES * STRANDS + strand;
        if (at >= count) | (h >= TILE_HEADS) {
            continue;
        }
        let start = place / 4u * WORKGROUP + strand * RUNS;
        var sum = 0.0;
        for (var run = 0u; run < RUNS; run++) {
            sum += strands[start + run][place % 4u];
        }
        store_score(part, h, at, sum);
    }
}

// Scores become weights: those of a lane's stride.
fn weigh(count: u32, lid: u32) {
    workgroupBarrier();
    for (var h = 0u; h < TILE_HEADS; h++) {
        var most = NONE;
        for (var at = lid; at < count; at += WORKGROUP) {
            most = max(most, weights[h * SPLIT + at]);
        }
        maxima[h] = reduce_max(most, lid);
        var sum = 0.0;
        for (var at = lid; at < count; at += WORKGROUP) {
            let weight = exp(weights[h * SPLIT + at] - maxima[h]);
            weights[h * SPLIT + at] = weight;
            sum += weight;
        }
        sums[h] = reduce_sum(sum, lid);
    }
    workgroupBarrier();
}

fn add_value(at: u32, value: array<vec4<f32>, RUN_QUADS>) {
    add_weighted(at, 1.0, value);
}

// Adds a value by the weights of the part's position `at`, and by `share`, which is 1, or 0 where it does not count.
fn add_weighted(at: u32, share: f32, value: array<vec4<f32>, RUN_QUADS>) {
    var quads = value;
    for (var h = 0u; h < TILE_HEADS; h++) {
        let weight = vec4(share * weights[h * SPLIT + at]);
        for (var i = 0u; i < RUN_QUADS; i++) {
            values[h * RUN_QUADS + i] = fma(weight, quads[i], values[h * RUN_QUADS + i]);
        }
    }
}

// A strand's first values on their way while scores are computed: with AHEAD, where few workgroups run.
fn load_first_values(part: Part, count: u32, lid: u32) {
    let row = part.kv_head * CONTEXT_LENGTH + part.begin;
    if AHEAD & (count > 0u) {
        for (var i = 0u; i < AT_ONCE; i++) {
            loaded[i] = value_run(row + min(lid / RUNS + i * STRANDS, count - 1u), lid % RUNS);
        }
    }
}

// Adds up the part's first `count` positions, of values in the cache, AT_ONCE of a strand at a time. Behind the last one a
// load repeats it: loads that depend on nothing wait together.
fn add_values(part: Part, count: u32, lid: u32) {
    let strand = lid / RUNS;
    let row = part.kv_head * CONTEXT_LENGTH + part.begin;
    var first = strand;
    if AHEAD & (count > 0u) {
        for (var i = 0u; i < AT_ONCE; i++) {
            let at = first + i * STRANDS;
            add_weighted(min(at, count - 1u), select(0.0, 1.0, at < count), loaded[i]);
        }
        first += AT_ONCE * STRANDS;
    }
    for (; first < count; first += AT_ONCE * STRANDS) {
        for (var i = 0u; i < AT_ONCE; i++) {
            let at = first + i * STRANDS;
            let held = min(at, count - 1u);
            add_weighted(held, select(0.0, 1.0, at < count), value_run(row + held, lid % RUNS));
        }
    }
}

// Joins the strands, in halves, and hands each head's sums on, a quad a lane.
fn join(part: Part, lid: u32) {
    for (var h = 0u; h < TILE_HEADS; h++) {
        for (var i = 0u; i < RUN_QUADS; i++) {
            strands[i * WORKGROUP + lid] = values[h * RUN_QUADS + i];
        }
        var live = STRANDS;
        while live > 1u {
            let half = (live + 1u) / 2u;
            workgroupBarrier();
            if lid < (live - half) * RUNS {
                for (var i = 0u; i < RUN_QUADS; i++) {
                    strands[i * WORKGROUP + lid] += strands[i * WORKGROUP + lid + half * RUNS];
                }
            }
            live = half;
        }
        workgroupBarrier();
        // Lanes behind the last quad bring what nobody stores.
        let quad = min(lid, HEAD_DIM / 4u - 1u);
        let total = strands[quad % RUN_QUADS * WORKGROUP + quad / RUN_QUADS];
        let stored = part.first_head + h < HEADS / KV_HEADS;
        finish(part, head_of(part, h), stored, maxima[h], sums[h], total, lid);
        workgroupBarrier();  // the next head's sums take the same place
    }
}
