// Attention of one token (Vaswani et al. 2017), one piece of the context at a time: flash decoding (Dao et al.
// 2023). Workgroups along x take PIECE positions each, along y up to TILE_HEADS query heads of one key/value head,
// which share its reads. Lanes first stride over positions, one score a lane; then over (strand, quad of a value):
// each strand adds up every STRANDS-th position. attention_combine joins the pieces.
#import step
#import KV
#import REDUCE
#import tanh
#import alibi

override WORKGROUP: u32;       // invocations, at least head_dim / 4
override LANES: u32;           // = WORKGROUP
override HEADS: u32;           // query heads
override KV_HEADS: u32;
override HEAD_DIM: u32;
override TILE_HEADS: u32;      // query heads of a workgroup, at most MAX_HEADS
override CONTEXT_LENGTH: u32;  // positions that the cache has room for
override PIECE: u32;           // positions of a workgroup
override SCALE: f32;
override WINDOW: u32;          // positions seen, the token's own included; 0: all
override SOFTCAP: f32;         // scores are bent to ± this; 0: they are not
// Sizes are named, since naga 30 loses count of overrides where a size is an expression without a name.
override QUERY_RUNS: u32 = (HEAD_DIM / 4u + KEY_QUADS - 1u) / KEY_QUADS;  // loads that bring a key
override QUERY_ROW: u32 = QUERY_RUNS * KEY_QUADS;
override QUERY_QUADS: u32 = TILE_HEADS * QUERY_ROW;
override TILE_POSITIONS: u32 = TILE_HEADS * PIECE;
override TILE_LANES: u32 = TILE_HEADS * WORKGROUP;

const MAX_HEADS = 4u;
const NONE = -1.0e38;  // below every score, and far enough from -f32::MAX that differences stay finite

@bind var<storage, read> q: array<vec4<f32>>;             // (heads, head_dim / 4)
@bind var<storage, read> slopes: array<f32>;              // (heads), for ALiBi
@bind var<storage, read_write> partials: array<vec4<f32>>;  // (heads, pieces, 1 + head_dim / 4): maximum, sum; values

var<workgroup> queries: array<vec4<f32>, QUERY_QUADS>;  // (tile heads, runs, KEY_QUADS): zeros behind head_dim
var<workgroup> weights: array<f32, TILE_POSITIONS>;     // (tile heads, positions)
var<workgroup> strands: array<vec4<f32>, TILE_LANES>;   // (tile heads, lanes)

fn bend(score: f32) -> f32 {
    if SOFTCAP > 0.0 {
        return SOFTCAP * safe_tanh(vec4(score / SOFTCAP)).x;
    }
    return score;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let quads = HEAD_DIM / 4u;
    let group = HEADS / KV_HEADS;
    let tiles = (group + TILE_HEADS - 1u) / TILE_HEADS;
    let kv_head = workgroup.y / tiles;
    let first_head = workgroup.y % tiles * TILE_HEADS;  // within the group
    let oldest = select(0u, step.context - min(WINDOW, step.context), WINDOW > 0u);
    let begin = max(workgroup.x * PIECE, oldest);
    let end = min((workgroup.x + 1u) * PIECE, step.context);
    if begin >= end {
        return;
    }
    // The last tile of a group may be partly empty: it repeats the last head and stores nothing of it.
    for (var at = lid; at < QUERY_QUADS; at += WORKGROUP) {
        let head = kv_head * group + min(first_head + at / QUERY_ROW, group - 1u);
        let quad = at % QUERY_ROW;
        queries[at] = select(vec4(0.0), q[head * quads + min(quad, quads - 1u)] * SCALE, quad < quads);
    }
    workgroupBarrier();

    let cache = kv_head * CONTEXT_LENGTH;
    var maxima = array<f32, MAX_HEADS>(NONE, NONE, NONE, NONE);
    for (var position = begin + lid; position < end; position += WORKGROUP) {
        var scores: array<f32, MAX_HEADS>;
        for (var run = 0u; run < QUERY_RUNS; run++) {
            var keys = key_run(cache + position, run);
            for (var i = 0u; i < KEY_QUADS; i++) {
                for (var h = 0u; h < TILE_HEADS; h++) {
                    scores[h] += dot(queries[h * QUERY_ROW + run * KEY_QUADS + i], keys[i]);
                }
            }
        }
        for (var h = 0u; h < TILE_HEADS; h++) {
            let head = kv_head * group + min(first_head + h, group - 1u);
            let score = bend(scores[h]) + alibi(head, position, step.position);
            weights[h * PIECE + position - begin] = score;
            maxima[h] = max(maxima[h], score);
        }
    }
    var sums: array<f32, MAX_HEADS>;
    for (var h = 0u; h < TILE_HEADS; h++) {
        maxima[h] = reduce_max(maxima[h], lid);
        var sum = 0.0;
        for (var at = lid; at < end - begin; at += WORKGROUP) {
            let weight = exp(weights[h * PIECE + at] - maxima[h]);
            weights[h * PIECE + at] = weight;
            sum += weight;
        }
        sums[h] = reduce_sum(sum, lid);
    }
    workgroupBarrier();

    let strand_count = WORKGROUP / quads;
    if lid < strand_count * quads {
        var values: array<vec4<f32>, MAX_HEADS>;
        for (var at = lid / quads; at < end - begin; at += strand_count) {
            let value = value4(cache + begin + at, lid % quads);
            for (var h = 0u; h < TILE_HEADS; h++) {
                values[h] += weights[h * PIECE + at] * value;
            }
        }
        for (var h = 0u; h < TILE_HEADS; h++) {
            strands[h * WORKGROUP + lid] = values[h];
        }
    }
    workgroupBarrier();

    let pieces = (CONTEXT_LENGTH + PIECE - 1u) / PIECE;
    for (var h = 0u; h < TILE_HEADS; h++) {
        let stored = first_head + h < group;
        let row = ((kv_head * group + first_head + h) * pieces + workgroup.x) * (1u + quads);
        if stored && lid == 0u {
            partials[row] = vec4(maxima[h], sums[h], 0.0, 0.0);
        }
        if stored && lid < quads {
            var total = strands[h * WORKGROUP + lid];
            for (var strand = 1u; strand < strand_count; strand++) {
                total += strands[h * WORKGROUP + strand * quads + lid];
            }
            partials[row + 1u + lid] = total;
        }
    }
}
