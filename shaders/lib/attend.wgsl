// Attention of one token (Vaswani et al. 2017) over a part of its context, by one workgroup: scores, their softmax, the
// weighted sum of values, for up to TILE_HEADS query heads of one key/value head, which share its reads. Lanes first
// stride over positions, one score a lane; then over (strand, run of a value): each strand adds up every STRANDS-th
// position. Kernels that attend call these steps one after the other; products are fma throughout, so that all of them
// make the same bits. Depends on the slots KV or CACHES (key_run, value_run), REDUCE and RESULT (finish), and on the
// binding `slopes`.
#import tanh
#import alibi

override WORKGROUP: u32;       // invocations, at least as many as runs of a value
override LANES: u32;           // = WORKGROUP
override HEADS: u32;           // query heads
override KV_HEADS: u32;
override HEAD_DIM: u32;
override TILE_HEADS: u32;      // query heads of a workgroup, at most MAX_HEADS
override CONTEXT_LENGTH: u32;  // positions that the cache has room for
override SPLIT: u32;           // positions of a workgroup at most
override ALONE: u32;           // so many positions, or fewer, are attended to by one workgroup
override AT_ONCE: u32;         // values that a lane loads before it uses the first, at most MAX_AT_ONCE
override SCALE: f32;
override WINDOW: u32;          // positions seen, the token's own included; 0: all
override SOFTCAP: f32;         // scores are bent to ± this; 0: they are not
// Sizes are named, since naga 30 loses count of overrides where a size is an expression without a name.
override RUNS: u32 = (HEAD_DIM / 4u + RUN_QUADS - 1u) / RUN_QUADS;  // loads that bring a key or a value
override QUERY_ROW: u32 = RUNS * RUN_QUADS;
override QUERY_QUADS: u32 = TILE_HEADS * QUERY_ROW;
override TILE_POSITIONS: u32 = TILE_HEADS * SPLIT;
override STRANDS: u32 = WORKGROUP / RUNS;
override STRAND_QUADS: u32 = RUN_QUADS * WORKGROUP;
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
var<workgroup> strands: array<vec4<f32>, STRAND_QUADS>;  // (RUN_QUADS, lanes)

var<private> loaded: array<array<vec4<f32>, RUN_QUADS>, MAX_AT_ONCE>;  // runs of values: AT_ONCE positions of a strand
// By tile head: the greatest score, the sum of weights, the weighted sum of a lane's runs.
var<private> maxima: array<f32, MAX_HEADS> = array<f32, MAX_HEADS>(NONE, NONE, NONE, NONE);
var<private> sums: array<f32, MAX_HEADS>;
var<private> values: array<vec4<f32>, MAX_VALUES>;  // (tile heads, RUN_QUADS)

// Positions that the token at `position` sees.
fn seen_from(position: u32) -> u32 {
    return select(position + 1u, min(WINDOW, position + 1u), WINDOW > 0u);
}

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

// `before` and the products of run `run` of a key with the tile's queries.
fn products(
    run: u32,
    key: array<vec4<f32>, RUN_QUADS>,
    before: array<vec4<f32>, MAX_HEADS>,
) -> array<vec4<f32>, MAX_HEADS> {
    var keys = key;
    var all = before;
    for (var i = 0u; i < RUN_QUADS; i++) {
        for (var h = 0u; h < TILE_HEADS; h++) {
            all[h] = fma(queries[h * QUERY_ROW + run * RUN_QUADS + i], keys[i], all[h]);
        }
    }
    return all;
}

// The scores of the part's position `at`, from the products of all runs.
fn store_scores(part: Part, at: u32, products: array<vec4<f32>, MAX_HEADS>) {
    var all = products;
    for (var h = 0u; h < TILE_HEADS; h++) {
        let bent = bend((all[h].x + all[h].y) + (all[h].z + all[h].w));
        let score = biased(bent, head_of(part, h), part.begin + at, part.position);
        weights[h * SPLIT + at] = score;
        maxima[h] = max(maxima[h], score);
    }
}

// Scores of the part's first `count` positions, of keys in the cache.
fn score_keys(part: Part, count: u32, lid: u32) {
    let row = part.kv_head * CONTEXT_LENGTH + part.begin;
    for (var at = lid; at < count; at += WORKGROUP) {
        var all: array<vec4<f32>, MAX_HEADS>;
        for (var run = 0u; run < RUNS; run++) {
            all = products(run, key_run(row + at, run), all);
        }
        store_scores(part, at, all);
    }
}

// Scores become weights. Each lane reads the scores that it wrote: those of its stride.
fn weigh(count: u32, lid: u32) {
    for (var h = 0u; h < TILE_HEADS; h++) {
        maxima[h] = reduce_max(maxima[h], lid);
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
    var quads = value;
    for (var h = 0u; h < TILE_HEADS; h++) {
        let weight = vec4(weights[h * SPLIT + at]);
        for (var i = 0u; i < RUN_QUADS; i++) {
            values[h * RUN_QUADS + i] = fma(weight, quads[i], values[h * RUN_QUADS + i]);
        }
    }
}

// Loads AT_ONCE values of a strand, from the part's position `first` on, of `count` that are in the cache. Behind the
// last one a load repeats it: loads that depend on nothing wait together.
fn load_values(part: Part, first: u32, count: u32, lid: u32) {
    let row = part.kv_head * CONTEXT_LENGTH + part.begin;
    for (var i = 0u; i < AT_ONCE; i++) {
        loaded[i] = value_run(row + min(first + i * STRANDS, count - 1u), lid % RUNS);
    }
}

// The first values are on their way while scores are computed.
fn load_first_values(part: Part, count: u32, lid: u32) {
    if count > 0u {
        load_values(part, lid / RUNS, count, lid);
    }
}

// Adds up the part's first `count` positions, of values in the cache.
fn add_values(part: Part, count: u32, lid: u32) {
    let strand = lid / RUNS;
    if strand >= STRANDS {
        return;
    }
    for (var first = strand; first < count; first += AT_ONCE * STRANDS) {
        if first != strand {
            load_values(part, first, count, lid);
        }
        for (var i = 0u; i < AT_ONCE; i++) {
            let at = first + i * STRANDS;
            if at < count {
                add_value(at, loaded[i]);
            }
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
