// Rows × weightᵀ of the experts that tokens were routed to (prefill), in f32. Workgroups along z take an expert, along
// x the next TILE_CHOICES of the choices that fell on it, along y its rows. Each first finds its choices: lanes count
// those of their stretch of the selection, then number them; the order is fixed. Then as gemm, with gathered rows.
#import step
#import WEIGHTS
#import TILE

override COLS: u32;          // input features, a multiple of 4
override ROWS: u32;          // rows of this slice
override FIRST_ROW: u32;     // the slice's first row in the weight
override EXPERT_ROWS: u32;   // rows of an expert; the weight holds one expert after the other
override TOP_K: u32;
override SHARED_INPUT: bool; // all choices read the token's row; otherwise each has its own
override CHUNKS: u32 = (COLS + CHUNK - 1u) / CHUNK;

@bind var<storage, read> input: array<vec4<f32>>;      // (tokens or tokens · top_k, cols / 4)
@bind var<storage, read> selection: array<vec2<f32>>;  // (tokens, top_k): expert, weight
@bind var<storage, read_write> output: array<f32>;     // (tokens, top_k, expert rows)

const TILE_CHOICES: u32 = 16u * TOKENS_PER_INVOCATION;
const TILE_ROWS: u32 = 16u * ROWS_PER_INVOCATION;
const SLAB: u32 = 8u;  // vec4s of a slab row
const NONE: u32 = 0xFFFFFFFFu;

var<workgroup> inputs: array<vec4<f32>, TILE_CHOICES * SLAB>;  // (tile choices, slab)
var<workgroup> weights: array<vec4<f32>, TILE_ROWS * SLAB>;    // (tile rows, slab)
var<workgroup> counts: array<u32, 256>;                        // matches in each lane's stretch
var<workgroup> choices: array<u32, TILE_CHOICES>;              // this tile's choices, NONE behind the last

fn slot(row: u32, at: u32) -> u32 {
    return row * SLAB + (at ^ (row & 7u));
}

// Fills `choices` and returns whether there are any.
fn gather(expert: u32, first_choice: u32, lid: u32) -> bool {
    let all = step.tokens * TOP_K;
    let stretch = (all + 255u) / 256u;
    let begin = min(lid * stretch, all);
    let end = min(begin + stretch, all);
    var count = 0u;
    for (var at = begin; at < end; at++) {
        count += select(0u, 1u, u32(selection[at].x) == expert);
    }
    counts[lid] = count;
    if lid < TILE_CHOICES {
        choices[lid] = NONE;
    }
    workgroupBarrier();
    var number = 0u;
    for (var lane = 0u; lane < lid; lane++) {
        number += counts[lane];
    }
    for (var at = begin; at < end; at++) {
        if u32(selection[at].x) == expert {
            if number >= first_choice && number - first_choice < TILE_CHOICES {
                choices[number - first_choice] = at;
            }
            number++;
        }
    }
    return workgroupUniformLoad(&choices[0]) != NONE;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let expert = group.z;
    if !gather(expert, group.x * TILE_CHOICES, lid) {
        return;
    }
    let first_row = group.y * TILE_ROWS;
    let tx = lid % 16u;
    let ty = lid / 16u;
    var sums: array<array<f32, ROWS_PER_INVOCATION>, TOKENS_PER_INVOCATION>;
    for (var slab = 0u; slab < (COLS + 31u) / 32u; slab++) {
        for (var i = lid; i < TILE_CHOICES * SLAB; i += 256u) {
            let choice = choices[i / SLAB];
            let at = slab * SLAB + i % SLAB;
            var value = vec4<f32>();
            if choice != NONE && at < COLS / 4u {
                value = input[select(choice, choice / TOP_K, SHARED_INPUT) * (COLS / 4u) + at];
            }
            inputs[slot(i / SLAB, i % SLAB)] = value;
        }
        const SLAB_CHUNKS = 32u / CHUNK;
        for (var i = lid; i < TILE_ROWS * SLAB_CHUNKS; i += 256u) {
            let row = i / SLAB_CHUNKS;
            let part = i % SLAB_CHUNKS;
            let at = slab * SLAB_CHUNKS + part;
            let wanted = expert * EXPERT_ROWS + min(first_row + row, EXPERT_ROWS - 1u);
            let chunk = load_chunk(min(max(wanted, FIRST_ROW) - FIRST_ROW, ROWS - 1u), min(at, CHUNKS - 1u));
            for (var j = 0u; j < CHUNK / 4u; j++) {
                weights[slot(row, part * (CHUNK / 4u) + j)] = select(vec4<f32>(), chunk4(chunk, j), at < CHUNKS);
            }
        }
        workgroupBarrier();
        for (var at = 0u; at < SLAB; at++) {
            var w: array<vec4<f32>, ROWS_PER_INVOCATION>;
            for (var j = 0u; j < ROWS_PER_INVOCATION; j++) {
                w[j] = weights[slot(tx + 16u * j, at)];
            }
            for (var i = 0u; i < TOKENS_PER_INVOCATION; i++) {
                let x = inputs[slot(ty + 16u * i, at)];
                for (var j = 0u; j < ROWS_PER_INVOCATION; j++) {
                    sums[i][j] += dot(x, w[j]);
                }
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < TOKENS_PER_INVOCATION; i++) {
        let choice = choices[ty + 16u * i];
        for (var j = 0u; j < ROWS_PER_INVOCATION; j++) {
            let row = first_row + tx + 16u * j;
            let wanted = expert * EXPERT_ROWS + row;
            let here = wanted >= FIRST_ROW && wanted - FIRST_ROW < ROWS;
            if choice != NONE && row < EXPERT_ROWS && here {
                output[choice * EXPERT_ROWS + row] = sums[i][j];
            }
        }
    }
}
