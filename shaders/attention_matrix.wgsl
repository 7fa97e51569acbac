// Attention of many tokens on cooperative matrices, with an online softmax over tiles of 64 keys (Dao et al. 2022).
// Workgroups along x take 64 tokens, along y one head. Each of four subgroups of 32 owns 16 rows, whose queries and
// result it keeps in matrices of 16 × 16. Queries are split into two f16 whose sum has f32's accuracy; keys and values
// become f16, which an f16 cache makes of them anyway. Scores go through workgroup memory, where two lanes share a row.
//
// Exponentials are taken against a reference that follows a row's maximum only where that has grown by more than SLACK:
// f16 holds what is exp(SLACK) too large, and results, which only matrices can touch, are seldom brought to another
// reference. A row's bits depend on no other row.
enable f16;
enable wgpu_cooperative_matrix;
#import step
#import KV
#import STORED
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
override BLOCKS: u32 = HEAD_DIM / 16u;
override RUNS: u32 = (HEAD_DIM / 4u + RUN_QUADS - 1u) / RUN_QUADS;

const TILE: u32 = 64u;               // queries, and keys
const WORKGROUP: u32 = 128u;
const LOADS: u32 = 16u / RUN_QUADS;  // runs of a tile that a lane carries, at most
const WEIGHTS_ROW: u32 = 18u;        // 64 keys and the padding, in quads
const SCORES_ROW: u32 = 40u;         // half the keys, and a padding that spreads lanes' quads over the banks
const NONE: f32 = -1.0e38;           // below every score, and far enough from -f32::MAX that differences stay finite
const SLACK: f32 = 8.0;

@bind var<storage, read> q: array<vec4<f32>>;             // (tokens, heads, head_dim / 4)
@bind var<storage, read> slopes: array<f32>;              // (heads), for ALiBi
@bind var<storage, read_write> output: array<Stored>;     // (tokens, columns / 4)

// Matrices are loaded from multiples of 16 bytes: so the size of each of these is one.
var<workgroup> tile: array<vec4<f16>, TILE_QUADS>;             // (queries, keys or values, head_dim)
var<workgroup> weights: array<vec4<f16>, TILE * WEIGHTS_ROW>;  // (queries, keys)
var<workgroup> scores: array<f32, TILE * SCORES_ROW>;          // (queries, half the keys); or 16 columns of the result
var<workgroup> outgrown: array<atomic<u32>, 4>;                // the first: a row has another reference now

// What a lane carries of a tile of keys or values.
struct Carried {
    runs: array<array<vec4<f16>, RUN_QUADS>, LOADS>,
}

fn halves(quads: array<vec4<f32>, RUN_QUADS>) -> array<vec4<f16>, RUN_QUADS> {
    var made: array<vec4<f16>, RUN_QUADS>;
    for (var i = 0u; i < RUN_QUADS; i++) {
        made[i] = vec4<f16>(quads[i]);
    }
    return made;
}

// The tile of keys (or values) from row `start` on; behind the last row that one again. All loads go off together.
fn fetch(values: bool, cache: u32, start: u32, end: u32, lid: u32) -> Carried {
    var carried: Carried;
    for (var n = 0u; n < LOADS; n++) {
        if n * WORKGROUP < TILE * RUNS {
            let row = cache + min(start + (lid + n * WORKGROUP) / RUNS, end - 1u);
            let run = (lid + n * WORKGROUP) % RUNS;
            if values {
                carried.runs[n] = halves(value_run(row, run));
            } else {
                carried.runs[n] = halves(key_run(row, run));
            }
        }
    }
    return carried;
}

fn store(carried: Carried, lid: u32) {
    for (var n = 0u; n < LOADS; n++) {
        let at = lid + n * WORKGROUP;
        for (var i = 0u; i < RUN_QUADS; i++) {
            let quad = at % RUNS * RUN_QUADS + i;
            if at < TILE * RUNS && quad < HEAD_DIM / 4u {
                tile[at / RUNS * ROW + quad] = carried.runs[n][i];
            }
        }
    }
}

fn scores4(row: u32, quad: u32) -> vec4<f32> {
    let at = row * SCORES_ROW + quad * 4u;
    return vec4(scores[at], scores[at + 1u], scores[at + 2u], scores[at + 3u]);
}

fn bend(score: f32) -> f32 {
    if SOFTCAP > 0.0 {
        return SOFTCAP * safe_tanh(vec4(score / SOFTCAP)).x;
    }
    return score;
}

@compute @workgroup_size(WORKGROUP)
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
    let sub_row = lid / 32u * 16u;
#for b in 0..8
    var query$b: coop_mat16x16<f16, A>;
    var remainder$b: coop_mat16x16<f16, A>;
    var result$b = coop_mat16x16<f32, C>();
#end
    for (var at = lid; at < TILE * quads; at += WORKGROUP) {
        // Rows behind the last token repeat it and are not stored.
        let token = min(first_token + at / quads, last_token);
        tile[at / quads * ROW + at % quads] = vec4<f16>(q[(token * HEADS + head) * quads + at % quads] * SCALE);
    }
    workgroupBarrier();
#for b in 0..8
    if $b < BLOCKS { query$b = coopLoadT<coop_mat16x16<f16, A>>(&tile[sub_row * ROW + $b * 4u], ROW); }
#end
    workgroupBarrier();
    for (var at = lid; at < TILE * quads; at += WORKGROUP) {
        let token = min(first_token + at / quads, last_token);
        let value = q[(token * HEADS + head) * quads + at % quads] * SCALE;
        tile[at / quads * ROW + at % quads] = vec4<f16>(value - vec4<f32>(vec4<f16>(value)));
    }
    workgroupBarrier();
#for b in 0..8
    if $b < BLOCKS { remainder$b = coopLoadT<coop_mat16x16<f16, A>>(&tile[sub_row * ROW + $b * 4u], ROW); }
#end
    workgroupBarrier();

    let row = lid / 2u;
    let side = lid % 2u;
    let position = step.position + min(first_token + row, last_token);
    let oldest = select(0u, position + 1u - min(position + 1u, WINDOW), WINDOW > 0u);
    let first_position = step.position + first_token;
    let first_key = select(0u, first_position + 1u - min(first_position + 1u, WINDOW), WINDOW > 0u) / TILE * TILE;
    let end = step.position + last_token + 1u;
    var reference = NONE;
    var sum = 0.0;  // of this lane's keys only, until the end
    var keys = fetch(false, cache, first_key, end, lid);
    for (var start = first_key; start < end; start += TILE) {
        store(keys, lid);
        if lid == 0u {
            atomicStore(&outgrown[0], 0u);
        }
        workgroupBarrier();

        let values = fetch(true, cache, start, end, lid);
#for h in 0..2
#for i in 0..2
        var products$h$i = coop_mat16x16<f32, C>();
#end
#end
#for b in 0..8
        if $b < BLOCKS {
#for h in 0..2
#for i in 0..2
            let keys$h$i = coopLoad<coop_mat16x16<f16, B>>(&tile[($h * 32u + $i * 16u) * ROW + $b * 4u], ROW);
            products$h$i = coopMultiplyAdd(remainder$b, keys$h$i, products$h$i);
            products$h$i = coopMultiplyAdd(query$b, keys$h$i, products$h$i);
#end
#end
        }
#end
        var of_lane: array<vec4<f32>, 8>;  // every second quad of the row's scores
        var highest = NONE;
#for h in 0..2
        coopStoreT(products$h0, &scores[sub_row * SCORES_ROW], SCORES_ROW);
        coopStoreT(products$h1, &scores[sub_row * SCORES_ROW + 16u], SCORES_ROW);
        workgroupBarrier();
        for (var j = 0u; j < 4u; j++) {
            let scored = scores4(row, 2u * j + side);
            for (var i = 0u; i < 4u; i++) {
                let key = start + $h * 32u + (2u * j + side) * 4u + i;
                let seen = key <= position && key >= oldest && key < end;
                let score = select(NONE, bend(scored[i]) + alibi(head, key, position), seen);
                of_lane[$h * 4u + j][i] = score;
                highest = max(highest, score);
            }
        }
        workgroupBarrier();
#end
        store(values, lid);
        keys = fetch(false, cache, start + TILE, end, lid);
        highest = max(highest, subgroupShuffleXor(highest, 1u));
        var rescale = 1.0;
        if highest > reference + SLACK {
            rescale = exp(reference - highest);
            if reference != NONE {
                atomicStore(&outgrown[0], 1u);
            }
            reference = highest;
        }
        sum *= rescale;
        for (var j = 0u; j < 8u; j++) {
            // A row that has seen nothing yet has NONE as its reference: there the exponential would be 1.
            let weight = select(exp(of_lane[j] - reference), vec4<f32>(), of_lane[j] == vec4(NONE));
            sum += dot(weight, vec4(1.0));
            weights[row * WEIGHTS_ROW + 2u * j + side] = vec4<f16>(weight);
        }
        if workgroupUniformLoad(&outgrown[0]) != 0u {
#for b in 0..8
            if $b < BLOCKS {
                coopStoreT(result$b, &scores[sub_row * SCORES_ROW], SCORES_ROW);
                workgroupBarrier();
                for (var i = 0u; i < 8u; i++) {
                    scores[row * SCORES_ROW + side * 8u + i] *= rescale;
                }
                workgroupBarrier();
                result$b = coopLoadT<coop_mat16x16<f32, C>>(&scores[sub_row * SCORES_ROW], SCORES_ROW);
                workgroupBarrier();
            }
#end
        }

        for (var k = 0u; k < TILE; k += 16u) {
            let share = coopLoadT<coop_mat16x16<f16, A>>(&weights[sub_row * WEIGHTS_ROW + k / 4u], WEIGHTS_ROW);
#for b in 0..8
            if $b < BLOCKS {
                let values$b = coopLoadT<coop_mat16x16<f16, B>>(&tile[k * ROW + $b * 4u], ROW);
                result$b = coopMultiplyAdd(share, values$b, result$b);
            }
#end
        }
        workgroupBarrier();
    }

    sum += subgroupShuffleXor(sum, 1u);
    let place = ((first_token + row) * HEADS + head) * quads;
#for b in 0..8
    if $b < BLOCKS {
        coopStoreT(result$b, &scores[sub_row * SCORES_ROW], SCORES_ROW);
        workgroupBarrier();
        if first_token + row <= last_token {
            output[place + $b * 4u + side * 2u] = stored(scores4(row, side * 2u) / sum);
            output[place + $b * 4u + side * 2u + 1u] = stored(scores4(row, side * 2u + 1u) / sum);
        }
        workgroupBarrier();
    }
#end
}
