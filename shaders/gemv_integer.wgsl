// A few activation rows × weightᵀ (one at decode) by integer dot products: weights of up to 8 bits as they lie,
// activations that were rounded to 8 bits before (lib/quantized_row). LANES invocations share ROWS_PER_LANE weight rows
// and TOKENS_PER_LANE tokens and stride over the rows' chunks; a workgroup holds WORKGROUP / LANES such teams.
// Workgroups along x are tiles of tokens, along y and z rows. As in gemv a token's bits depend on LANES alone: sums of
// products are whole numbers, and what follows is written out in roundings.
#import step
#import WEIGHTS
#import CODES_OF
#import ROW
#import TILE
#import epilogue
#import KEEP
#import SUMS

override COLS: u32;          // input features, whole chunks
override ROWS: u32;          // rows of this slice
override FIRST_ROW: u32;     // the slice's first row in the weight
override LOGIT_ROWS: bool;   // as many rows as logits are wanted, else one per token
override WORKGROUP: u32 = 128u;
override LANES: u32 = 32u;
override CHUNKS: u32 = COLS / CHUNK;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    const HALVES = CHUNK / 16u;
    let tokens = select(step.tokens, step.logit_rows, LOGIT_ROWS);
    let team = (group.y + group.z * groups.y) * (WORKGROUP / LANES) + lid / LANES;
    let first = team * ROWS_PER_LANE;
    let first_token = group.x * TOKENS_PER_LANE;
    let count = select(min(tokens - first_token, TOKENS_PER_LANE), 1u, TOKENS_PER_LANE == 1u);
    let lane = lid % LANES;
    prepare_codes(lid);
    var sums: array<array<f32, ROWS_PER_LANE>, TOKENS_PER_LANE>;
    for (var at = lane; at < CHUNKS; at += LANES) {
        var chunks: array<Chunk, ROWS_PER_LANE>;
        for (var r = 0u; r < ROWS_PER_LANE; r++) {
            chunks[r] = load_chunk(min(first + r, ROWS - 1u), at);
        }
        for (var half = 0u; half < HALVES; half++) {
            let block = at * HALVES + half;
            var codes: array<vec4<u32>, ROWS_PER_LANE>;
            var worth: array<vec2<f32>, ROWS_PER_LANE>;
            for (var r = 0u; r < ROWS_PER_LANE; r++) {
                codes[r] = vec4<u32>(
                    codes4(chunks[r], half * 4u),
                    codes4(chunks[r], half * 4u + 1u),
                    codes4(chunks[r], half * 4u + 2u),
                    codes4(chunks[r], half * 4u + 3u),
                );
                worth[r] = half_scale(chunks[r], half);
            }
            for (var t = 0u; t < TOKENS_PER_LANE; t++) {
                if t < count {
                    let x = row_codes(first_token + t, block);
                    let sides = bitcast<vec4<f32>>(row_sides(first_token + t, block / 2u));
                    let scale_sum = select(sides.xy, sides.zw, block % 2u == 1u);
                    for (var r = 0u; r < ROWS_PER_LANE; r++) {
                        var products = 0i;
                        for (var i = 0u; i < 4u; i++) {
                            products += dot4I8Packed(codes[r][i], x[i]);
                        }
                        let less = fma(-scale_sum.y, worth[r].y, sums[t][r]);
                        sums[t][r] = fma(f32(products) * scale_sum.x, worth[r].x, less);
                    }
                }
            }
        }
    }
    add_up(sums, first, first_token, count, lid);
    round_kept(FIRST_ROW + first - lid / LANES * ROWS_PER_LANE, first_token, count, lid);
}
