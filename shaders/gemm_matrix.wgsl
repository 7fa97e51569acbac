// Activation rows × weightᵀ (prefill) on cooperative matrices: f16 products, f32 sums. A workgroup computes a
// tile of 128 tokens × TILE_ROWS rows; each of its subgroups of 32 lanes 64 × 32 of it, as 4 × 2 matrices of 16 × 16.
// Both operands pass through workgroup memory in slabs of 32 columns, converted to f16 on the way and carried in registers
// while the slab before is multiplied; rows of a slab are padded by 8 so that the loads of a matrix spread over the
// banks. Workgroup memory is written, and matrices are loaded from it, by quads.
enable f16;
enable wgpu_cooperative_matrix;
#import step
#import WEIGHTS
#import TILE
#import activation

override COLS: u32;          // input features, a multiple of 4
override ROWS: u32;          // rows of this slice
override FIRST_ROW: u32;     // the slice's first row in the weight
override FIRST_COLUMN: u32;  // where the weight's first row lands in the output
override COLUMNS: u32;       // columns of the output
override BIAS: bool;
override RESIDUAL: bool;
override LOGIT_ROWS: bool;   // as many rows as logits are wanted, else one per token
override CHUNKS: u32 = (COLS + CHUNK - 1u) / CHUNK;

@bind var<storage, read> input: array<vec4<f32>>;    // (tokens, cols / 4)
@bind var<storage, read> bias: array<f32>;           // (rows of the weight)
@bind var<storage, read> residual: array<f32>;       // (tokens, columns)
@bind var<storage, read_write> output: array<f32>;   // (tokens, columns)

const TILE_TOKENS: u32 = 128u;
const WORKGROUP: u32 = TILE_ROWS * 2u;                   // a subgroup for each 64 × 32
const SLAB: u32 = 32u;
const QUADS: u32 = SLAB / 4u;                            // of a slab row
const STRIDE: u32 = QUADS + 2u;
const SLAB_CHUNKS: u32 = SLAB / CHUNK;
const INPUTS: u32 = TILE_TOKENS * QUADS / WORKGROUP;                 // quads of the inputs' slab that an invocation carries
const CHUNKS_CARRIED: u32 = (TILE_ROWS * SLAB_CHUNKS + WORKGROUP - 1u) / WORKGROUP;

var<workgroup> inputs: array<vec4<f16>, TILE_TOKENS * STRIDE>;   // (tile tokens, slab)
var<workgroup> weights: array<vec4<f16>, TILE_ROWS * STRIDE>;  // (tile rows, slab)
var<workgroup> staged: array<f32, WORKGROUP / 32u * 256u>;             // (subgroups, 16, 16)

// What an invocation carries of a slab from storage to workgroup memory.
struct Carried {
    inputs: array<vec4<f32>, INPUTS>,
    chunks: array<Chunk, CHUNKS_CARRIED>,
}

fn fetch(slab: u32, first_token: u32, tokens: u32, first_row: u32, lid: u32) -> Carried {
    var carried: Carried;
    for (var n = 0u; n < INPUTS; n++) {
        let i = lid + n * WORKGROUP;
        let token = first_token + i / QUADS;
        let at = slab * QUADS + i % QUADS;
        carried.inputs[n] = vec4<f32>();
        if token < tokens && at < COLS / 4u {
            carried.inputs[n] = input[token * (COLS / 4u) + at];
        }
    }
    for (var n = 0u; n < CHUNKS_CARRIED; n++) {
        let i = lid + n * WORKGROUP;
        let row = min(first_row + i / SLAB_CHUNKS, ROWS - 1u);
        carried.chunks[n] = load_chunk(row, min(slab * SLAB_CHUNKS + i % SLAB_CHUNKS, CHUNKS - 1u));
    }
    return carried;
}

fn store(carried: Carried, slab: u32, lid: u32) {
    for (var n = 0u; n < INPUTS; n++) {
        let i = lid + n * WORKGROUP;
        inputs[i / QUADS * STRIDE + i % QUADS] = vec4<f16>(carried.inputs[n]);
    }
    for (var n = 0u; n < CHUNKS_CARRIED; n++) {
        let i = lid + n * WORKGROUP;
        if i >= TILE_ROWS * SLAB_CHUNKS {
            break;
        }
        let part = i % SLAB_CHUNKS;
        let inside = slab * SLAB_CHUNKS + part < CHUNKS;
        for (var j = 0u; j < CHUNK / 4u; j++) {
            let quad = select(vec4<f32>(), chunk4(carried.chunks[n], j), inside);
            weights[i / SLAB_CHUNKS * STRIDE + part * (CHUNK / 4u) + j] = vec4<f16>(quad);
        }
    }
}

// Writes one staged 16 × 16 matrix: two lanes a token, eight outputs each.
fn finish(first_token: u32, tokens: u32, first_row: u32, subgroup: u32, lane: u32) {
    let token = first_token + lane / 2u;
    for (var j = 0u; j < 8u; j++) {
        let column = (lane % 2u) * 8u + j;
        let row = first_row + column;
        if token < tokens && row < ROWS {
            let at = token * COLUMNS + FIRST_COLUMN + FIRST_ROW + row;
            var value = staged[subgroup * 256u + (lane / 2u) * 16u + column];
            if BIAS {
                value += bias[FIRST_ROW + row];
            }
            value = activate(value);
            if RESIDUAL {
                value += residual[at];
            }
            output[at] = value;
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let tokens = select(step.tokens, step.logit_rows, LOGIT_ROWS);
    let first_token = group.x * TILE_TOKENS;
    let first_row = group.y * TILE_ROWS;
    let subgroup = lid / 32u;
    let lane = lid % 32u;
    let sub_token = (subgroup % 2u) * 64u;
    let sub_row = (subgroup / 2u) * 32u;
    var c00 = coop_mat16x16<f32, C>();
    var c01 = coop_mat16x16<f32, C>();
    var c10 = coop_mat16x16<f32, C>();
    var c11 = coop_mat16x16<f32, C>();
    var c20 = coop_mat16x16<f32, C>();
    var c21 = coop_mat16x16<f32, C>();
    var c30 = coop_mat16x16<f32, C>();
    var c31 = coop_mat16x16<f32, C>();
    let slabs = (COLS + SLAB - 1u) / SLAB;
    var carried = fetch(0u, first_token, tokens, first_row, lid);
    for (var slab = 0u; slab < slabs; slab++) {
        store(carried, slab, lid);
        workgroupBarrier();
        // The next slab is on its way while this one is multiplied; behind the last the last is fetched again.
        carried = fetch(min(slab + 1u, slabs - 1u), first_token, tokens, first_row, lid);
        for (var k = 0u; k < QUADS; k += 4u) {
            let w0 = coopLoad<coop_mat16x16<f16, B>>(&weights[sub_row * STRIDE + k], STRIDE);
            let w1 = coopLoad<coop_mat16x16<f16, B>>(&weights[(sub_row + 16u) * STRIDE + k], STRIDE);
            let x0 = coopLoadT<coop_mat16x16<f16, A>>(&inputs[sub_token * STRIDE + k], STRIDE);
            c00 = coopMultiplyAdd(x0, w0, c00);
            c01 = coopMultiplyAdd(x0, w1, c01);
            let x1 = coopLoadT<coop_mat16x16<f16, A>>(&inputs[(sub_token + 16u) * STRIDE + k], STRIDE);
            c10 = coopMultiplyAdd(x1, w0, c10);
            c11 = coopMultiplyAdd(x1, w1, c11);
            let x2 = coopLoadT<coop_mat16x16<f16, A>>(&inputs[(sub_token + 32u) * STRIDE + k], STRIDE);
            c20 = coopMultiplyAdd(x2, w0, c20);
            c21 = coopMultiplyAdd(x2, w1, c21);
            let x3 = coopLoadT<coop_mat16x16<f16, A>>(&inputs[(sub_token + 48u) * STRIDE + k], STRIDE);
            c30 = coopMultiplyAdd(x3, w0, c30);
            c31 = coopMultiplyAdd(x3, w1, c31);
        }
        workgroupBarrier();
    }
    // Matrices can't be indexed, so each is staged by name.
    for (var i = 0u; i < 8u; i++) {
        let at = subgroup * 256u;
        switch i {
            case 0u: { coopStoreT(c00, &staged[at], 16u); }
            case 1u: { coopStoreT(c01, &staged[at], 16u); }
            case 2u: { coopStoreT(c10, &staged[at], 16u); }
            case 3u: { coopStoreT(c11, &staged[at], 16u); }
            case 4u: { coopStoreT(c20, &staged[at], 16u); }
            case 5u: { coopStoreT(c21, &staged[at], 16u); }
            case 6u: { coopStoreT(c30, &staged[at], 16u); }
            default: { coopStoreT(c31, &staged[at], 16u); }
        }
        workgroupBarrier();
        finish(first_token + sub_token + (i / 2u) * 16u, tokens, first_row + sub_row + (i % 2u) * 16u, subgroup, lane);
        workgroupBarrier();
    }
}
