// Activation rows × weightᵀ (prefill) on cooperative matrices: f16 products, f32 sums. A workgroup of four subgroups of
// 32 lanes computes a tile of 128 tokens × TILE_ROWS rows; each subgroup half of both, 4 × 4 or 4 × 5 matrices of
// 16 × 16. Both operands pass through workgroup memory in slabs of 32 columns, carried in registers while the slab
// before is multiplied; rows of a slab are padded by 8 so that the loads of a matrix spread over the banks.
//
// Sums go straight to where they belong: staging them in workgroup memory takes half as long as all the products do.
// DIRECT, that is the output, whose rows then have room for whole matrices; bias and residual are what sums begin with.
// Otherwise it is a scratch buffer of whole tiles, from which `sum_parts` makes the output: where an activation
// follows, or where weights have so few rows that workgroups along z share the columns.
enable f16;
enable wgpu_cooperative_matrix;
#import step
#import WEIGHTS
#import VALUES_OF
#import TILE

override COLS: u32;          // input features
override ROWS: u32;          // rows of this slice
override FIRST_ROW: u32;     // the slice's first row in the weight
override LOGIT_ROWS: bool;   // as many rows as logits are wanted, else one per token
override PARTS: u32;         // workgroups that share the columns
override DIRECT: bool;       // rows are whole matrices, and go to the output
override FIRST_COLUMN: u32;  // where the weight's first row lands in the output
override COLUMNS: u32;       // columns of the output
override BIAS: bool;
override RESIDUAL: bool;
override CHUNKS: u32 = (COLS + CHUNK - 1u) / CHUNK;
override SLABS: u32 = (COLS + SLAB - 1u) / SLAB;
override PART_ROWS: u32 = (ROWS + TILE_ROWS - 1u) / TILE_ROWS * TILE_ROWS;
override SUM_COLUMNS: u32 = select(PART_ROWS, COLUMNS, DIRECT);

@bind var<storage, read> narrowed: array<vec4<u32>>;  // (tokens, whole slabs): eight f16 each, zeros behind the last
@bind var<storage, read> bias: array<f32>;            // (rows of the weight)
@bind var<storage, read> residual: array<f32>;        // (tokens, columns)
@bind var<storage, read_write> sums: array<f32>;      // (tokens, columns); or (parts, whole tiles of tokens, and of rows)

const TILE_TOKENS: u32 = 128u;
const WORKGROUP: u32 = 128u;
const SLAB: u32 = 32u;
const OCTETS: u32 = SLAB / 8u;                 // of a slab row
const STRIDE: u32 = 2u * OCTETS + 2u;          // quads from a slab row to the next
const SLAB_CHUNKS: u32 = SLAB / CHUNK;
const INPUTS: u32 = TILE_TOKENS * OCTETS / WORKGROUP;  // octets of the inputs' slab that an invocation carries
const CHUNKS_CARRIED: u32 = (TILE_ROWS * SLAB_CHUNKS + WORKGROUP - 1u) / WORKGROUP;
const EVEN: bool = TILE_ROWS * SLAB_CHUNKS % WORKGROUP == 0u;  // all invocations carry as many chunks
const SUB_ROWS: u32 = TILE_ROWS / 2u;
const WIDE: bool = SUB_ROWS == 80u;

var<workgroup> inputs: array<vec4<f16>, TILE_TOKENS * STRIDE>;  // (tile tokens, slab)
var<workgroup> weights: array<vec4<f16>, TILE_ROWS * STRIDE>;   // (tile rows, slab)

// What an invocation carries of a slab from storage to workgroup memory.
struct Carried {
    inputs: array<vec4<u32>, INPUTS>,
    chunks: array<Chunk, CHUNKS_CARRIED>,
}

fn fetch(slab: u32, first_token: u32, tokens: u32, first_row: u32, lid: u32) -> Carried {
    var carried: Carried;
    for (var n = 0u; n < INPUTS; n++) {
        let i = lid + n * WORKGROUP;
        // What is computed of tokens behind the last is not kept.
        let token = min(first_token + i / OCTETS, tokens - 1u);
        carried.inputs[n] = narrowed[(token * SLABS + slab) * OCTETS + i % OCTETS];
    }
    for (var n = 0u; n < CHUNKS_CARRIED; n++) {
        let i = lid + n * WORKGROUP;
        let row = min(first_row + i / SLAB_CHUNKS, ROWS - 1u);
        carried.chunks[n] = load_chunk(row, min(slab * SLAB_CHUNKS + i % SLAB_CHUNKS, CHUNKS - 1u));
    }
    return carried;
}

fn quad(halves: vec2<u32>) -> vec4<f16> {
    return vec4<f16>(vec4<f32>(unpack2x16float(halves.x), unpack2x16float(halves.y)));
}

fn store(carried: Carried, slab: u32, lid: u32) {
    for (var n = 0u; n < INPUTS; n++) {
        let i = lid + n * WORKGROUP;
        let at = i / OCTETS * STRIDE + i % OCTETS * 2u;
        inputs[at] = quad(carried.inputs[n].xy);
        inputs[at + 1u] = quad(carried.inputs[n].zw);
    }
    for (var n = 0u; n < CHUNKS_CARRIED; n++) {
        let i = lid + n * WORKGROUP;
        if !EVEN && i >= TILE_ROWS * SLAB_CHUNKS {
            break;
        }
        let part = i % SLAB_CHUNKS;
        let inside = COLS % SLAB == 0u || slab * SLAB_CHUNKS + part < CHUNKS;
        for (var j = 0u; j < CHUNK / 4u; j++) {
            let values = select(vec4<f32>(), values4(carried.chunks[n], j), inside);
            weights[i / SLAB_CHUNKS * STRIDE + part * (CHUNK / 4u) + j] = vec4<f16>(values);
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let tokens = select(step.tokens, step.logit_rows, LOGIT_ROWS);
    let first_token = group.x * TILE_TOKENS;
    let first_row = group.y * TILE_ROWS;
    let subgroup = lid / 32u;
    let sub_token = (subgroup % 2u) * 64u;
    let sub_row = (subgroup / 2u) * SUB_ROWS;
    var c00 = coop_mat16x16<f32, C>();
    var c01 = coop_mat16x16<f32, C>();
    var c02 = coop_mat16x16<f32, C>();
    var c03 = coop_mat16x16<f32, C>();
    var c04 = coop_mat16x16<f32, C>();
    var c10 = coop_mat16x16<f32, C>();
    var c11 = coop_mat16x16<f32, C>();
    var c12 = coop_mat16x16<f32, C>();
    var c13 = coop_mat16x16<f32, C>();
    var c14 = coop_mat16x16<f32, C>();
    var c20 = coop_mat16x16<f32, C>();
    var c21 = coop_mat16x16<f32, C>();
    var c22 = coop_mat16x16<f32, C>();
    var c23 = coop_mat16x16<f32, C>();
    var c24 = coop_mat16x16<f32, C>();
    var c30 = coop_mat16x16<f32, C>();
    var c31 = coop_mat16x16<f32, C>();
    var c32 = coop_mat16x16<f32, C>();
    var c33 = coop_mat16x16<f32, C>();
    var c34 = coop_mat16x16<f32, C>();
    let part = group.z * ((tokens + TILE_TOKENS - 1u) / TILE_TOKENS * TILE_TOKENS);
    let first = (part + first_token + sub_token) * SUM_COLUMNS + select(0u, FIRST_COLUMN + FIRST_ROW, DIRECT)
        + first_row + sub_row;
    // How many matrices of this subgroup hold anything.
    let down = (max(tokens, first_token + sub_token) - first_token - sub_token + 15u) / 16u;
    let across = (max(ROWS, first_row + sub_row) - first_row - sub_row + 15u) / 16u;
    // Matrices are loaded by all or none: those that hold nothing begin with what others do.
    let last_row = max(ROWS, 16u) - 16u;
    let last_token = (tokens + 15u) / 16u * 16u - 16u;
    let place = FIRST_COLUMN + FIRST_ROW;
    let r0 = min(first_row + sub_row + 0u, last_row);
    let r1 = min(first_row + sub_row + 16u, last_row);
    let r2 = min(first_row + sub_row + 32u, last_row);
    let r3 = min(first_row + sub_row + 48u, last_row);
    let r4 = min(first_row + sub_row + 64u, last_row);
    if DIRECT & BIAS {
        c00 = coopLoadT<coop_mat16x16<f32, C>>(&bias[FIRST_ROW + r0], 0u);
        c10 = c00;
        c20 = c00;
        c30 = c00;
        c01 = coopLoadT<coop_mat16x16<f32, C>>(&bias[FIRST_ROW + r1], 0u);
        c11 = c01;
        c21 = c01;
        c31 = c01;
        c02 = coopLoadT<coop_mat16x16<f32, C>>(&bias[FIRST_ROW + r2], 0u);
        c12 = c02;
        c22 = c02;
        c32 = c02;
        c03 = coopLoadT<coop_mat16x16<f32, C>>(&bias[FIRST_ROW + r3], 0u);
        c13 = c03;
        c23 = c03;
        c33 = c03;
        c04 = coopLoadT<coop_mat16x16<f32, C>>(&bias[FIRST_ROW + r4], 0u);
        c14 = c04;
        c24 = c04;
        c34 = c04;
    }
    if DIRECT & RESIDUAL {
        let t0 = min(first_token + sub_token + 0u, last_token) * COLUMNS + place;
        c00 = c00 + coopLoadT<coop_mat16x16<f32, C>>(&residual[t0 + r0], COLUMNS);
        c01 = c01 + coopLoadT<coop_mat16x16<f32, C>>(&residual[t0 + r1], COLUMNS);
        c02 = c02 + coopLoadT<coop_mat16x16<f32, C>>(&residual[t0 + r2], COLUMNS);
        c03 = c03 + coopLoadT<coop_mat16x16<f32, C>>(&residual[t0 + r3], COLUMNS);
        c04 = c04 + coopLoadT<coop_mat16x16<f32, C>>(&residual[t0 + r4], COLUMNS);
        let t1 = min(first_token + sub_token + 16u, last_token) * COLUMNS + place;
        c10 = c10 + coopLoadT<coop_mat16x16<f32, C>>(&residual[t1 + r0], COLUMNS);
        c11 = c11 + coopLoadT<coop_mat16x16<f32, C>>(&residual[t1 + r1], COLUMNS);
        c12 = c12 + coopLoadT<coop_mat16x16<f32, C>>(&residual[t1 + r2], COLUMNS);
        c13 = c13 + coopLoadT<coop_mat16x16<f32, C>>(&residual[t1 + r3], COLUMNS);
        c14 = c14 + coopLoadT<coop_mat16x16<f32, C>>(&residual[t1 + r4], COLUMNS);
        let t2 = min(first_token + sub_token + 32u, last_token) * COLUMNS + place;
        c20 = c20 + coopLoadT<coop_mat16x16<f32, C>>(&residual[t2 + r0], COLUMNS);
        c21 = c21 + coopLoadT<coop_mat16x16<f32, C>>(&residual[t2 + r1], COLUMNS);
        c22 = c22 + coopLoadT<coop_mat16x16<f32, C>>(&residual[t2 + r2], COLUMNS);
        c23 = c23 + coopLoadT<coop_mat16x16<f32, C>>(&residual[t2 + r3], COLUMNS);
        c24 = c24 + coopLoadT<coop_mat16x16<f32, C>>(&residual[t2 + r4], COLUMNS);
        let t3 = min(first_token + sub_token + 48u, last_token) * COLUMNS + place;
        c30 = c30 + coopLoadT<coop_mat16x16<f32, C>>(&residual[t3 + r0], COLUMNS);
        c31 = c31 + coopLoadT<coop_mat16x16<f32, C>>(&residual[t3 + r1], COLUMNS);
        c32 = c32 + coopLoadT<coop_mat16x16<f32, C>>(&residual[t3 + r2], COLUMNS);
        c33 = c33 + coopLoadT<coop_mat16x16<f32, C>>(&residual[t3 + r3], COLUMNS);
        c34 = c34 + coopLoadT<coop_mat16x16<f32, C>>(&residual[t3 + r4], COLUMNS);
    }
    prepare_values(lid);
    workgroupBarrier();
    let first_slab = group.z * SLABS / PARTS;
    let slabs = (group.z + 1u) * SLABS / PARTS - first_slab;
    var carried = fetch(first_slab, first_token, tokens, first_row, lid);
    for (var n = 0u; n < slabs; n++) {
        let slab = first_slab + n;
        store(carried, slab, lid);
        workgroupBarrier();
        // The next slab is on its way while this one is multiplied; behind the last the last is fetched again.
        carried = fetch(first_slab + min(n + 1u, slabs - 1u), first_token, tokens, first_row, lid);
        for (var k = 0u; k < 2u * OCTETS; k += 4u) {
            let w0 = coopLoad<coop_mat16x16<f16, B>>(&weights[(sub_row + 0u) * STRIDE + k], STRIDE);
            let w1 = coopLoad<coop_mat16x16<f16, B>>(&weights[(sub_row + 16u) * STRIDE + k], STRIDE);
            let w2 = coopLoad<coop_mat16x16<f16, B>>(&weights[(sub_row + 32u) * STRIDE + k], STRIDE);
            let w3 = coopLoad<coop_mat16x16<f16, B>>(&weights[(sub_row + 48u) * STRIDE + k], STRIDE);
            let x0 = coopLoadT<coop_mat16x16<f16, A>>(&inputs[(sub_token + 0u) * STRIDE + k], STRIDE);
            c00 = coopMultiplyAdd(x0, w0, c00);
            c01 = coopMultiplyAdd(x0, w1, c01);
            c02 = coopMultiplyAdd(x0, w2, c02);
            c03 = coopMultiplyAdd(x0, w3, c03);
            let x1 = coopLoadT<coop_mat16x16<f16, A>>(&inputs[(sub_token + 16u) * STRIDE + k], STRIDE);
            c10 = coopMultiplyAdd(x1, w0, c10);
            c11 = coopMultiplyAdd(x1, w1, c11);
            c12 = coopMultiplyAdd(x1, w2, c12);
            c13 = coopMultiplyAdd(x1, w3, c13);
            let x2 = coopLoadT<coop_mat16x16<f16, A>>(&inputs[(sub_token + 32u) * STRIDE + k], STRIDE);
            c20 = coopMultiplyAdd(x2, w0, c20);
            c21 = coopMultiplyAdd(x2, w1, c21);
            c22 = coopMultiplyAdd(x2, w2, c22);
            c23 = coopMultiplyAdd(x2, w3, c23);
            let x3 = coopLoadT<coop_mat16x16<f16, A>>(&inputs[(sub_token + 48u) * STRIDE + k], STRIDE);
            c30 = coopMultiplyAdd(x3, w0, c30);
            c31 = coopMultiplyAdd(x3, w1, c31);
            c32 = coopMultiplyAdd(x3, w2, c32);
            c33 = coopMultiplyAdd(x3, w3, c33);
            if WIDE {
                let w4 = coopLoad<coop_mat16x16<f16, B>>(&weights[(sub_row + 64u) * STRIDE + k], STRIDE);
                c04 = coopMultiplyAdd(x0, w4, c04);
                c14 = coopMultiplyAdd(x1, w4, c14);
                c24 = coopMultiplyAdd(x2, w4, c24);
                c34 = coopMultiplyAdd(x3, w4, c34);
            }
        }
        workgroupBarrier();
    }
    if down > 0u && across > 0u { coopStoreT(c00, &sums[first + 0u * SUM_COLUMNS + 0u], SUM_COLUMNS); }
    if down > 0u && across > 1u { coopStoreT(c01, &sums[first + 0u * SUM_COLUMNS + 16u], SUM_COLUMNS); }
    if down > 0u && across > 2u { coopStoreT(c02, &sums[first + 0u * SUM_COLUMNS + 32u], SUM_COLUMNS); }
    if down > 0u && across > 3u { coopStoreT(c03, &sums[first + 0u * SUM_COLUMNS + 48u], SUM_COLUMNS); }
    if down > 0u && across > 4u && WIDE { coopStoreT(c04, &sums[first + 0u * SUM_COLUMNS + 64u], SUM_COLUMNS); }
    if down > 1u && across > 0u { coopStoreT(c10, &sums[first + 16u * SUM_COLUMNS + 0u], SUM_COLUMNS); }
    if down > 1u && across > 1u { coopStoreT(c11, &sums[first + 16u * SUM_COLUMNS + 16u], SUM_COLUMNS); }
    if down > 1u && across > 2u { coopStoreT(c12, &sums[first + 16u * SUM_COLUMNS + 32u], SUM_COLUMNS); }
    if down > 1u && across > 3u { coopStoreT(c13, &sums[first + 16u * SUM_COLUMNS + 48u], SUM_COLUMNS); }
    if down > 1u && across > 4u && WIDE { coopStoreT(c14, &sums[first + 16u * SUM_COLUMNS + 64u], SUM_COLUMNS); }
    if down > 2u && across > 0u { coopStoreT(c20, &sums[first + 32u * SUM_COLUMNS + 0u], SUM_COLUMNS); }
    if down > 2u && across > 1u { coopStoreT(c21, &sums[first + 32u * SUM_COLUMNS + 16u], SUM_COLUMNS); }
    if down > 2u && across > 2u { coopStoreT(c22, &sums[first + 32u * SUM_COLUMNS + 32u], SUM_COLUMNS); }
    if down > 2u && across > 3u { coopStoreT(c23, &sums[first + 32u * SUM_COLUMNS + 48u], SUM_COLUMNS); }
    if down > 2u && across > 4u && WIDE { coopStoreT(c24, &sums[first + 32u * SUM_COLUMNS + 64u], SUM_COLUMNS); }
    if down > 3u && across > 0u { coopStoreT(c30, &sums[first + 48u * SUM_COLUMNS + 0u], SUM_COLUMNS); }
    if down > 3u && across > 1u { coopStoreT(c31, &sums[first + 48u * SUM_COLUMNS + 16u], SUM_COLUMNS); }
    if down > 3u && across > 2u { coopStoreT(c32, &sums[first + 48u * SUM_COLUMNS + 32u], SUM_COLUMNS); }
    if down > 3u && across > 3u { coopStoreT(c33, &sums[first + 48u * SUM_COLUMNS + 48u], SUM_COLUMNS); }
    if down > 3u && across > 4u && WIDE { coopStoreT(c34, &sums[first + 48u * SUM_COLUMNS + 64u], SUM_COLUMNS); }
}
