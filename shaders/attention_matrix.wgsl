// Attention of many tokens on cooperative matrices, with an online softmax over tiles of 32 keys (Dao et al. 2022).
// Workgroups along x take 32 tokens, along y one head. Four subgroups of 32: each computes 16 × 16 of a tile's scores,
// then 16 rows of every second block of 16 columns of what the tile adds to the result. Between the two, four lanes
// share a row: its scores, its maximum, and its part of the result, which they keep in registers. Queries are split
// into two f16 whose sum has f32's accuracy; keys and values become f16, which
// an f16 cache makes of them anyway.
enable f16;
enable wgpu_cooperative_matrix;
#import step
#import KV
#import tanh
#import alibi

override HEADS: u32;           // query heads
override KV_HEADS: u32;
override HEAD_DIM: u32;        // a multiple of 16, 32 to 128
override CONTEXT_LENGTH: u32;  // positions that the cache has room for
override SCALE: f32;
override WINDOW: u32;          // positions seen, the token's own included; 0: all
override SOFTCAP: f32;         // scores are bent to ± this; 0: they are not
// Sizes are named, since naga 30 loses count of overrides where a size is an expression without a name. Rows are
// padded by 16 bytes, so that the loads of a matrix spread over the banks.
override ROW: u32 = HEAD_DIM / 4u + 2u;
override TILE_QUADS: u32 = TILE * ROW;
override RESULT_ROW: u32 = HEAD_DIM + 4u;
override RESULT_LEN: u32 = TILE * RESULT_ROW;

const TILE: u32 = 32u;             // queries, and keys
const WEIGHTS_ROW: u32 = 10u;      // 32 keys and the padding, in quads
const MAX_QUADS: u32 = 8u;         // of the result that a lane owns
const NONE: f32 = -1.0e38;         // below every score, and far enough from -f32::MAX that differences stay finite

@bind var<storage, read> q: array<vec4<f32>>;             // (tokens, heads, head_dim / 4)
@bind var<storage, read> slopes: array<f32>;              // (heads), for ALiBi
@bind var<storage, read_write> output: array<vec4<f32>>;  // (tokens, columns / 4)

var<workgroup> queries: array<vec4<f16>, TILE_QUADS>;     // (queries, head_dim), scaled
var<workgroup> remainders: array<vec4<f16>, TILE_QUADS>;  // what f16 left of them
var<workgroup> tile: array<vec4<f16>, TILE_QUADS>;        // (keys, head_dim): keys, then values
var<workgroup> weights: array<vec4<f16>, TILE * WEIGHTS_ROW>;  // (queries, keys)
var<workgroup> products: array<f32, RESULT_LEN>;          // (queries, keys): scores; then (queries, head_dim)

fn bend(score: f32) -> f32 {
    if SOFTCAP > 0.0 {
        return SOFTCAP * safe_tanh(vec4(score / SOFTCAP)).x;
    }
    return score;
}

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let quads = HEAD_DIM / 4u;
    let head = workgroup.y;
    let cache = head / (HEADS / KV_HEADS) * CONTEXT_LENGTH;
    // Later tokens see more keys: they start first.
    let first_token = (workgroups.x - 1u - workgroup.x) * TILE;
    let last_token = min(first_token + TILE, step.tokens) - 1u;
    for (var at = lid; at < TILE * quads; at += 128u) {
        // Rows behind the last token repeat it and are not stored.
        let token = min(first_token + at / quads, last_token);
        let value = q[(token * HEADS + head) * quads + at % quads] * SCALE;
        let half = vec4<f16>(value);
        queries[at / quads * ROW + at % quads] = half;
        remainders[at / quads * ROW + at % quads] = vec4<f16>(value - vec4<f32>(half));
    }

    let row = lid / 4u;
    let part = lid % 4u;
    let subgroup = lid / 32u;
    let sub_row = subgroup % 2u * 16u;
    let sub_block = subgroup / 2u;
    let position = step.position + min(first_token + row, last_token);
    let oldest = select(0u, position + 1u - min(position + 1u, WINDOW), WINDOW > 0u);
    let first_position = step.position + first_token;
    let first_key = select(0u, first_position + 1u - min(first_position + 1u, WINDOW), WINDOW > 0u) / TILE * TILE;
    let end = step.position + last_token + 1u;
    var result: array<vec4<f32>, MAX_QUADS>;  // every fourth quad of the row
    var maximum = NONE;
    var sum = 0.0;  // of this lane's keys only, until the end
    for (var start = first_key; start < end; start += TILE) {
        for (var at = lid; at < TILE * quads; at += 128u) {
            var key = vec4<f32>();
            if start + at / quads < end {
                key = key4(cache + start + at / quads, at % quads);
            }
            tile[at / quads * ROW + at % quads] = vec4<f16>(key);
        }
        workgroupBarrier();

        var scores = coop_mat16x16<f32, C>();
        for (var at = 0u; at < quads; at += 4u) {
            let keys = coopLoad<coop_mat16x16<f16, B>>(&tile[sub_block * 16u * ROW + at], ROW);
            let rest = coopLoadT<coop_mat16x16<f16, A>>(&remainders[sub_row * ROW + at], ROW);
            scores = coopMultiplyAdd(rest, keys, scores);
            let most = coopLoadT<coop_mat16x16<f16, A>>(&queries[sub_row * ROW + at], ROW);
            scores = coopMultiplyAdd(most, keys, scores);
        }
        coopStoreT(scores, &products[sub_row * RESULT_ROW + sub_block * 16u], RESULT_ROW);
        workgroupBarrier();

        for (var at = lid; at < TILE * quads; at += 128u) {
            var value = vec4<f32>();
            if start + at / quads < end {
                value = value4(cache + start + at / quads, at % quads);
            }
            tile[at / quads * ROW + at % quads] = vec4<f16>(value);
        }
        var of_lane: array<f32, 8>;  // keys 8 part and on
        var highest = maximum;
        for (var k = 0u; k < 8u; k++) {
            let key = start + part * 8u + k;
            let seen = key <= position && key >= oldest && key < end;
            let score = bend(products[row * RESULT_ROW + part * 8u + k]) + alibi(head, key, position);
            of_lane[k] = select(NONE, score, seen);
            highest = max(highest, of_lane[k]);
        }
        highest = max(highest, subgroupShuffleXor(highest, 1u));
        highest = max(highest, subgroupShuffleXor(highest, 2u));
        let rescale = exp(maximum - highest);
        maximum = highest;
        sum *= rescale;
        for (var k = 0u; k < 8u; k++) {
            // A row that has seen nothing yet has NONE as its maximum: there the exponential would be 1.
            of_lane[k] = select(exp(of_lane[k] - maximum), 0.0, of_lane[k] == NONE);
            sum += of_lane[k];
        }
        let at = row * WEIGHTS_ROW + part * 2u;
        weights[at] = vec4<f16>(vec4(of_lane[0], of_lane[1], of_lane[2], of_lane[3]));
        weights[at + 1u] = vec4<f16>(vec4(of_lane[4], of_lane[5], of_lane[6], of_lane[7]));
        workgroupBarrier();

        for (var block = sub_block; block < HEAD_DIM / 16u; block += 2u) {
            var added = coop_mat16x16<f32, C>();
            for (var k = 0u; k < TILE; k += 16u) {
                let share = coopLoadT<coop_mat16x16<f16, A>>(&weights[sub_row * WEIGHTS_ROW + k / 4u], WEIGHTS_ROW);
                let values = coopLoadT<coop_mat16x16<f16, B>>(&tile[k * ROW + block * 4u], ROW);
                added = coopMultiplyAdd(share, values, added);
            }
            coopStoreT(added, &products[sub_row * RESULT_ROW + block * 16u], RESULT_ROW);
        }
        workgroupBarrier();

        for (var i = 0u; i < MAX_QUADS; i++) {
            let quad = part + 4u * i;
            if quad < quads {
                let first = row * RESULT_ROW + quad * 4u;
                let added = vec4(products[first], products[first + 1u], products[first + 2u], products[first + 3u]);
                result[i] = result[i] * rescale + added;
            }
        }
    }

    sum += subgroupShuffleXor(sum, 1u);
    sum += subgroupShuffleXor(sum, 2u);
    for (var i = 0u; i < MAX_QUADS; i++) {
        let quad = part + 4u * i;
        if first_token + row <= last_token && quad < quads {
            let at = ((first_token + row) * HEADS + head) * quads + quad;
            output[at] = result[i] / sum;
        }
    }
}
