// Activation rows × weightᵀ (prefill) in f32. A workgroup of 16×16 invocations computes a tile of TILE_TOKENS ×
// TILE_ROWS outputs, each invocation every 16th row and column of it; both operands pass through workgroup memory in
// slabs of 32 columns, as vec4 along the columns, swizzled so that 16 neighbouring rows fall into distinct banks.
#import step
#import WEIGHTS
#import ROW
#import TILE
#import epilogue

override COLS: u32;          // input features, a multiple of 4
override ROWS: u32;          // rows of this slice
override FIRST_ROW: u32;     // the slice's first row in the weight
override LOGIT_ROWS: bool;   // as many rows as logits are wanted, else one per token
override CHUNKS: u32 = (COLS + CHUNK - 1u) / CHUNK;

const TILE_TOKENS: u32 = 16u * TOKENS_PER_INVOCATION;
const TILE_ROWS: u32 = 16u * ROWS_PER_INVOCATION;
const SLAB: u32 = 8u;  // vec4s of a slab row

var<workgroup> inputs: array<vec4<f32>, TILE_TOKENS * SLAB>;   // (tile tokens, slab)
var<workgroup> weights: array<vec4<f32>, TILE_ROWS * SLAB>;    // (tile rows, slab)

fn slot(row: u32, at: u32) -> u32 {
    return row * SLAB + (at ^ (row & 7u));
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let tokens = select(step.tokens, step.logit_rows, LOGIT_ROWS);
    let first_token = group.x * TILE_TOKENS;
    let first_row = group.y * TILE_ROWS;
    let tx = lid % 16u;
    let ty = lid / 16u;
    var sums: array<array<f32, ROWS_PER_INVOCATION>, TOKENS_PER_INVOCATION>;
    for (var slab = 0u; slab < (COLS + 31u) / 32u; slab++) {
        for (var i = lid; i < TILE_TOKENS * SLAB; i += 256u) {
            let token = first_token + i / SLAB;
            let at = slab * SLAB + i % SLAB;
            var value = vec4<f32>();
            if token < tokens && at < COLS / 4u {
                value = row4(token, at);
            }
            inputs[slot(i / SLAB, i % SLAB)] = value;
        }
        const SLAB_CHUNKS = 32u / CHUNK;
        for (var i = lid; i < TILE_ROWS * SLAB_CHUNKS; i += 256u) {
            let row = i / SLAB_CHUNKS;
            let part = i % SLAB_CHUNKS;
            let at = slab * SLAB_CHUNKS + part;
            if at < CHUNKS {
                let chunk = load_chunk(min(first_row + row, ROWS - 1u), at);
                for (var j = 0u; j < CHUNK / 4u; j++) {
                    weights[slot(row, part * (CHUNK / 4u) + j)] = chunk4(chunk, j);
                }
            } else {
                for (var j = 0u; j < CHUNK / 4u; j++) {
                    weights[slot(row, part * (CHUNK / 4u) + j)] = vec4<f32>();
                }
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
        let token = first_token + ty + 16u * i;
        for (var j = 0u; j < ROWS_PER_INVOCATION; j++) {
            let row = first_row + tx + 16u * j;
            if token < tokens && row < ROWS {
                finish(token, FIRST_ROW + row, sums[i][j]);
            }
        }
    }
}
