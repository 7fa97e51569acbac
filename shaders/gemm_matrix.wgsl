// Activation rows × weightᵀ (prefill) on cooperative matrices: f16 products, f32 sums. A workgroup of four subgroups of
// 32 lanes computes a tile of 128 tokens × TILE_ROWS rows; each subgroup half of both, 4 × 4 or 4 × 5 matrices of
// 16 × 16. Both operands pass through workgroup memory in slabs of 32 columns, carried in registers while the slab
// before is multiplied; rows of a slab are padded by 8 so that the loads of a matrix spread over the banks.
//
// Sums go straight to where they belong: staging them in workgroup memory takes half as long as all the products do.
// DIRECT, that is the output, whose rows then have room for whole matrices; bias and residual are what sums begin with.
// Otherwise it is a scratch buffer of whole tiles, from which `sum_parts` makes the output: where an activation
// follows, or where weights have so few rows that workgroups along z share the columns.
//
// A dispatch may compute a second matmul of other inputs (slot SECOND), in tiles behind those of the first: together they
// fill the last round of workgroups better. Each has a loop of its own: a choice at every load takes a quarter longer.
enable f16;
enable wgpu_cooperative_matrix;
#import step
#import WEIGHTS
#import VALUES_OF
#import TILE
#import INPUTS
#import SECOND

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

// What a loop reads: 0 is the first matmul, 1 the second, which SECOND knows.
fn octet0(token: u32, slab: u32, octet: u32) -> vec4<u32> {
    return input_octet(token, slab, octet);
}

fn chunk0(row: u32, chunk: u32) -> Chunk {
    return load_chunk(min(row, ROWS - 1u), chunk);
}

#for s in 0..2
fn fetch$s(slab: u32, first_token: u32, tokens: u32, first_row: u32, lid: u32) -> Carried {
    var carried: Carried;
    for (var n = 0u; n < INPUTS; n++) {
        let i = lid + n * WORKGROUP;
        // What is computed of tokens behind the last is not kept.
        let token = min(first_token + i / OCTETS, tokens - 1u);
        carried.inputs[n] = octet$s(token, slab, i % OCTETS);
    }
    for (var n = 0u; n < CHUNKS_CARRIED; n++) {
        let i = lid + n * WORKGROUP;
        let chunk = min(slab * SLAB_CHUNKS + i % SLAB_CHUNKS, CHUNKS - 1u);
        carried.chunks[n] = chunk$s(first_row + i / SLAB_CHUNKS, chunk);
    }
    return carried;
}
#end

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
            weights[i / SLAB_CHUNKS * STRIDE + part * (CHUNK / 4u) + j] = vec4<f16>(for_inputs(values, slab));
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let tokens = select(step.tokens, step.logit_rows, LOGIT_ROWS);
    let first_token = group.x * TILE_TOKENS;
    let second = PAIRED & (group.y >= FIRST_TILES);
    let rows = select(ROWS, SECOND_ROWS, second);
    let first_row = select(group.y, group.y - FIRST_TILES, second) * TILE_ROWS;
    let subgroup = lid / 32u;
    let sub_token = (subgroup % 2u) * 64u;
    let sub_row = (subgroup / 2u) * SUB_ROWS;
#for t in 0..4
#for r in 0..5
    var c$t$r = coop_mat16x16<f32, C>();
#end
#end
    let part = group.z * ((tokens + TILE_TOKENS - 1u) / TILE_TOKENS * TILE_TOKENS);
    let first = (part + first_token + sub_token) * SUM_COLUMNS + select(0u, FIRST_COLUMN + FIRST_ROW, DIRECT)
        + first_row + sub_row;
    let first_of_second = (first_token + sub_token) * SECOND_COLUMNS + first_row + sub_row;
    // How many matrices of this subgroup hold anything.
    let down = (max(tokens, first_token + sub_token) - first_token - sub_token + 15u) / 16u;
    let across = (max(rows, first_row + sub_row) - first_row - sub_row + 15u) / 16u;
    // Matrices are loaded by all or none: those that hold nothing begin with what others do.
    let last_row = max(ROWS, 16u) - 16u;
    let last_token = (tokens + 15u) / 16u * 16u - 16u;
    let place = FIRST_COLUMN + FIRST_ROW;
#for r in 0..5
    let r$r = min(first_row + sub_row + $r * 16u, last_row);
#end
    if DIRECT & BIAS & !second {
#for r in 0..5
        c0$r = coopLoadT<coop_mat16x16<f32, C>>(&bias[FIRST_ROW + r$r], 0u);
        c1$r = c0$r;
        c2$r = c0$r;
        c3$r = c0$r;
#end
    }
    if DIRECT & RESIDUAL & !second {
#for t in 0..4
        let t$t = min(first_token + sub_token + $t * 16u, last_token) * COLUMNS + place;
#for r in 0..5
        c$t$r = c$t$r + coopLoadT<coop_mat16x16<f32, C>>(&residual[t$t + r$r], COLUMNS);
#end
#end
    }
    prepare_values(lid);
    workgroupBarrier();
    let first_slab = group.z * SLABS / PARTS;
    let slabs = (group.z + 1u) * SLABS / PARTS - first_slab;
#for s in 0..2
    if second == ($s == 1) {
        var carried = fetch$s(first_slab, first_token, tokens, first_row, lid);
        for (var n = 0u; n < slabs; n++) {
            let slab = first_slab + n;
            store(carried, slab, lid);
            workgroupBarrier();
            // The next slab is on its way while this one is multiplied; behind the last the last is fetched again.
            carried = fetch$s(first_slab + min(n + 1u, slabs - 1u), first_token, tokens, first_row, lid);
            for (var k = 0u; k < 2u * OCTETS; k += 4u) {
#for r in 0..4
                let w$r = coopLoad<coop_mat16x16<f16, B>>(&weights[(sub_row + $r * 16u) * STRIDE + k], STRIDE);
#end
#for t in 0..4
                let x$t = coopLoadT<coop_mat16x16<f16, A>>(&inputs[(sub_token + $t * 16u) * STRIDE + k], STRIDE);
#for r in 0..4
                c$t$r = coopMultiplyAdd(x$t, w$r, c$t$r);
#end
#end
                if WIDE {
                    let w4 = coopLoad<coop_mat16x16<f16, B>>(&weights[(sub_row + 64u) * STRIDE + k], STRIDE);
#for t in 0..4
                    c$t4 = coopMultiplyAdd(x$t, w4, c$t4);
#end
                }
            }
            workgroupBarrier();
        }
    }
#end
#for t in 0..4
#for r in 0..5
    if down > $t && across > $r && ($r < 4 || WIDE) {
        if second {
            store_second(c$t$r, first_of_second + $t * 16u * SECOND_COLUMNS + $r * 16u);
        } else {
            coopStoreT(c$t$r, &sums[first + $t * 16u * SUM_COLUMNS + $r * 16u], SUM_COLUMNS);
        }
    }
#end
#end
}
