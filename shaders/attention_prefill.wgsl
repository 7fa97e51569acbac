// Attention of many tokens with an online softmax over tiles of keys (Milakov & Gimelshein 2018; Dao et al. 2022).
// Workgroups along x take QUERIES tokens, along y one head. COLUMNS lanes share ROWS query rows: in a tile of keys
// each scores its rows with every COLUMNS-th key, of the result it owns every COLUMNS-th quad. Keys pass through
// workgroup memory in slices of head_dim, values in runs of positions, so any head_dim fits in 16 KiB.
#import step
#import KV
#import STORED
#import tanh
#import alibi

override WORKGROUP: u32;       // invocations
override HEADS: u32;           // query heads
override KV_HEADS: u32;
override HEAD_DIM: u32;        // at most 4 COLUMNS MAX_QUADS
override CONTEXT_LENGTH: u32;  // positions that the cache has room for
override KEYS: u32;            // keys of a lane in a tile, at most MAX_KEYS
override VALUES: u32;          // positions whose values fit into `tile`; divides COLUMNS KEYS
override SCALE: f32;
override WINDOW: u32;          // positions seen, the token's own included; 0: all
override SOFTCAP: f32;         // scores are bent to ± this; 0: they are not
override QUADS: u32 = (HEAD_DIM / 4u + COLUMNS - 1u) / COLUMNS;  // quads of the result that a lane owns
override TILE_QUADS: u32 = COLUMNS * COLUMNS * KEYS;   // sizes are named, since naga 30 loses count of overrides
override WEIGHTS_LEN: u32 = WORKGROUP * KEYS;          // where a size is an expression without a name

const COLUMNS = 16u;
const ROWS = 4u;
const MAX_KEYS = 4u;
const MAX_QUADS = 4u;
const NONE = -1.0e38;  // below every score, and far enough from -f32::MAX that differences stay finite

@bind var<storage, read> q: array<vec4<f32>>;             // (tokens, heads, head_dim / 4)
@bind var<storage, read> slopes: array<f32>;              // (heads), for ALiBi
@bind var<storage, read_write> output: array<Stored>;     // (tokens, columns / 4)

var<workgroup> tile: array<vec4<f32>, TILE_QUADS>;      // (keys, 16 quads) or (VALUES, head_dim / 4)
var<workgroup> weights: array<vec4<f32>, WEIGHTS_LEN>;  // (row sets, keys), one band's rows in a vec4
var<workgroup> shares: array<vec4<f32>, WORKGROUP>;     // (row sets, COLUMNS): a lane's maxima, then sums

fn bend(scores: vec4<f32>) -> vec4<f32> {
    if SOFTCAP > 0.0 {
        return SOFTCAP * safe_tanh(scores / SOFTCAP);
    }
    return scores;
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let quads = HEAD_DIM / 4u;
    let keys = COLUMNS * KEYS;
    let column = lid % COLUMNS;
    let band = lid / COLUMNS;
    let queries = WORKGROUP / COLUMNS * ROWS;
    // Later tokens see more keys: they start first.
    let first_token = (workgroups.x - 1u - workgroup.x) * queries;
    let last_token = min(first_token + queries, step.tokens) - 1u;
    let token = first_token + band * ROWS;
    let cache = workgroup.y / (HEADS / KV_HEADS) * CONTEXT_LENGTH;
    // Rows behind the last token repeat it and are not stored.
    let q_rows = (min(vec4(token, token + 1u, token + 2u, token + 3u), vec4(last_token)) * HEADS + workgroup.y) * quads;
    let positions = vec4(step.position + token) + vec4(0u, 1u, 2u, 3u);
    let oldest = select(vec4(0u), positions + 1u - min(positions + 1u, vec4(WINDOW)), vec4(WINDOW > 0u));

    var result: array<vec4<f32>, MAX_QUADS * ROWS>;
    var maxima = vec4(NONE);
    var sums = vec4(0.0);  // of this lane's keys only, until the end
    let first_position = step.position + first_token;
    let first_key = select(0u, first_position + 1u - min(first_position + 1u, WINDOW), WINDOW > 0u) / keys * keys;
    let end = step.position + last_token + 1u;
    for (var start = first_key; start < end; start += keys) {
        var scores: array<vec4<f32>, MAX_KEYS>;  // of this lane's keys, a row in each component
        for (var slice = 0u; slice < quads; slice += 16u) {
            let width = min(quads - slice, 16u);
            for (var at = lid; at < keys * 16u; at += WORKGROUP) {
                if start + at / 16u < end && at % 16u < width {
                    tile[at] = key4(cache + start + at / 16u, slice + at % 16u);
                }
            }
            workgroupBarrier();
            for (var quad = 0u; quad < width; quad++) {
                let a = q[q_rows.x + slice + quad];
                let b = q[q_rows.y + slice + quad];
                let c = q[q_rows.z + slice + quad];
                let d = q[q_rows.w + slice + quad];
                let rows = transpose(mat4x4(a, b, c, d));
                for (var k = 0u; k < KEYS; k++) {
                    let key = tile[(column + k * COLUMNS) * 16u + quad];
                    scores[k] += rows[0] * key.x;
                    scores[k] += rows[1] * key.y;
                    scores[k] += rows[2] * key.z;
                    scores[k] += rows[3] * key.w;
                }
            }
            workgroupBarrier();
        }

        var share = vec4(NONE);
        for (var k = 0u; k < KEYS; k++) {
            let position = vec4(start + column + k * COLUMNS);
            let seen = (position <= positions) & (position >= oldest) & (position < vec4(end));
            var score = bend(scores[k] * SCALE);
            if ALIBI != 0u {
                for (var r = 0u; r < ROWS; r++) {
                    score[r] += alibi(workgroup.y, position.x, positions[r]);
                }
            }
            scores[k] = select(vec4(NONE), score, seen);
            share = max(share, scores[k]);
        }
        shares[lid] = share;
        workgroupBarrier();
        let before = maxima;
        for (var c = 0u; c < COLUMNS; c++) {
            maxima = max(maxima, shares[band * COLUMNS + c]);
        }
        let rescale = exp(before - maxima);
        sums *= rescale;
        for (var i = 0u; i < QUADS; i++) {
            for (var r = 0u; r < ROWS; r++) {
                result[i * ROWS + r] *= rescale[r];
            }
        }
        for (var k = 0u; k < KEYS; k++) {
            // A row that has seen nothing yet has NONE as its maximum: there the exponential would be 1.
            let weight = select(exp(scores[k] - maxima), vec4(0.0), scores[k] == vec4(NONE));
            weights[band * keys + column + k * COLUMNS] = weight;
            sums += weight;
        }
        for (var run = 0u; run < keys && start + run < end; run += VALUES) {
            let count = min(VALUES, end - start - run);
            for (var at = lid; at < count * quads; at += WORKGROUP) {
                tile[at] = value4(cache + start + run + at / quads, at % quads);
            }
            workgroupBarrier();
            for (var at = 0u; at < count; at++) {
                let weight = weights[band * keys + run + at];
                for (var i = 0u; i < QUADS; i++) {
                    // Lanes that own fewer quads repeat the last one.
                    let value = tile[at * quads + min(column + i * COLUMNS, quads - 1u)];
                    for (var r = 0u; r < ROWS; r++) {
                        result[i * ROWS + r] += weight[r] * value;
                    }
                }
            }
            workgroupBarrier();
        }
    }

    shares[lid] = sums;
    workgroupBarrier();
    var total = vec4(0.0);
    for (var c = 0u; c < COLUMNS; c++) {
        total += shares[band * COLUMNS + c];
    }
    // Loops over registers have constant bounds throughout, so that drivers unroll them.
    for (var r = 0u; r < ROWS; r++) {
        for (var i = 0u; i < QUADS; i++) {
            let quad = column + i * COLUMNS;
            if token + r <= last_token && quad < quads {
                let at = ((token + r) * HEADS + workgroup.y) * quads + quad;
                output[at] = stored(result[i * ROWS + r] / total[r]);
            }
        }
    }
}
